"""The public interface: what is listed is there, typed, documented, and does not change unseen.

`python -m tests.unit.shared.test_public_api` writes docs/api-surface.txt anew.
"""

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import is_typeddict

import pytest

import collabedit

ROOT = Path(__file__).parents[3]
SURFACE = ROOT / "docs" / "api-surface.txt"
HEADER = "# Public names of collabedit; written by tests/unit/shared/test_public_api.py\n"


def signature(what: Callable[..., object]) -> str:
    """Names, kinds and defaults; types are written differently by every version of a library."""
    found = inspect.signature(what)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    text = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r"<[^>]*>", "...", text)


def describe(name: str) -> list[str]:
    what = getattr(collabedit, name)
    if is_typeddict(what):
        return [f"{name}: {', '.join(sorted(what.__annotations__))}"]
    if not isinstance(what, type):
        return [f"{name}{signature(what)}" if callable(what) else name]
    if issubclass(what, Exception):
        return [f"{name}({', '.join(base.__name__ for base in what.__bases__)})"]
    try:
        lines = [f"{name}{signature(what)}"]
    except ValueError:
        lines = [name]
    for member, value in sorted(vars(what).items()):
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            lines.append(f"    {name}.{member}")
        elif isinstance(value, classmethod | staticmethod):
            lines.append(f"    {name}.{member}{signature(value.__func__)}")
        elif inspect.isfunction(value):
            lines.append(f"    {name}.{member}{signature(value)}")
    return lines


def surface() -> str:
    names = [name for name in collabedit.__all__ if name != "__version__"]
    return HEADER + "".join(f"{line}\n" for name in names for line in describe(name))


def test_the_public_interface_is_the_listed_one() -> None:
    """A difference is a change of the public interface: docs/versioning.md says what it takes."""
    assert surface() == SURFACE.read_text()


@pytest.mark.parametrize("name", collabedit.__all__)
def test_a_public_name_has_a_row_and_a_docstring(name: str) -> None:
    what = getattr(collabedit, name)
    if name == "__version__":
        return
    assert f"`{name}`" in (ROOT / "docs" / "api.md").read_text()
    assert what.__doc__
    if dataclasses.is_dataclass(what):
        assert not what.__doc__.startswith(f"{name}("), "only the generated docstring"


def test_unknown_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Partty'"):
        collabedit.__getattr__("Partty")
    assert set(collabedit.__all__) == set(dir(collabedit))


def test_an_aggregator_needs_no_torch() -> None:
    """In a process of its own: this one has loaded what it has loaded."""
    code = (
        "import sys, collabedit; assert not any(m.startswith('collabedit.') for m in sys.modules);"
        "collabedit.Aggregator, collabedit.Credentials, collabedit.load_plan;"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    SURFACE.write_text(surface())
