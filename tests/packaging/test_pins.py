"""constraints.txt and the locks are what is installed where the tests run, all of it."""

import functools
import importlib.metadata
import shutil
from pathlib import Path

import closure
import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "release" / "locks"
# An extra that a plain `make` does not install: there are wheels for few platforms.
FUZZ = {"atheris"}


@functools.cache
def installed(*extras: str) -> dict[str, str]:
    found = closure.closure(extras)
    return {name: Version(item.version).public for name, item in found.items()}


def test_everything_that_the_extras_need_is_pinned_at_the_installed_version() -> None:
    extras = [extra for extra in closure.extras_of() if extra != "fuzz"]
    pinned = closure.read_pins(ROOT / "constraints.txt")
    assert {name: pinned.get(name) for name in installed(*extras)} == installed(*extras)


def test_nothing_is_pinned_that_no_extra_needs() -> None:
    extras = [extra for extra in closure.extras_of() if extra != "fuzz"]
    assert set(closure.read_pins(ROOT / "constraints.txt")) - set(installed(*extras)) == FUZZ


def test_the_makefile_installs_the_torch_that_is_pinned() -> None:
    pinned = closure.read_pins(ROOT / "constraints.txt")["torch"]
    assert f"TORCH  ?= torch=={pinned}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("extra", ["aggregator", "party"])
def test_a_lock_holds_the_closure_of_its_extra_with_hashes(extra: str) -> None:
    path = LOCKS / f"{extra}.txt"
    wanted = installed(extra)
    # There are several builds of torch, and which one is the party's choice.
    assert closure.read_pins(path) == {name: wanted[name] for name in wanted if name != "torch"}
    blocks = path.read_text().split("==")[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_every_tool_of_a_release_is_pinned_with_hashes() -> None:
    path = ROOT / "release" / "tools.txt"
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "# "]
    assert len(lines) > 20
    assert all("==" in line for line in lines)
    assert path.read_text().count("--hash=sha256:") >= len(lines)
    asked = (ROOT / "release" / "tools.in").read_text().splitlines()
    names = {canonicalize_name(line.split("==")[0]) for line in lines}
    assert {canonicalize_name(line.split(">")[0]) for line in asked if line[0] != "#"} <= names


def test_a_closure_follows_extras_of_extras_and_markers() -> None:
    base, attacks = closure.closure(()), closure.closure(["attacks"])
    assert set(base) < set(attacks)
    assert "torch" not in base
    assert {"torch", "peft", "dask", "distributed", "scikit-learn"} <= set(attacks)
    assert "typing-extensions" in base  # of pydantic, which is of this project


def test_a_package_of_a_version_that_is_not_asked_for_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for asked, message in (
        ('"numpy>=999"', "collabedit asks for numpy>=999"),
        ('"no-such-package-anywhere"', "which is not installed"),
    ):
        (tmp_path / "pyproject.toml").write_text(text.replace('"numpy>=2.0"', asked))
        with pytest.raises(closure.MissingError, match=message):
            closure.closure((), tmp_path)


def test_an_environment_holds_its_packages_and_nothing_else(tmp_path: Path) -> None:
    one = importlib.metadata.distribution("structlog")
    closure.make_environment(tmp_path / "environment", [one])
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    assert {path.name.split("-")[0] for path in site.iterdir()} == {"structlog"}
    assert (site / "structlog" / "__init__.py").is_symlink()
    shutil.rmtree(tmp_path / "environment")


def test_a_line_that_is_no_exact_pin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text("# a comment\nnumpy>=2\n")
    with pytest.raises(ValueError, match=r"pins.txt: not an exact pin: numpy>=2"):
        closure.read_pins(tmp_path / "pins.txt")
