"""Each extra brings what its modules import: in environments that hold its closure and no more."""

import ast
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import closure
import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "collabedit"

# The extras whose packages the modules below a name may import when they are imported; the longest
# name counts, "" is an installation without extras. An extra that is not here has no modules.
OWNERS = {
    "collabedit": "",
    "collabedit.attacks": "attacks",
    "collabedit.attacks.ckks_key": "attacks,ckks",
    "collabedit.attacks.ckks_sessions": "attacks,ckks",
    "collabedit.audit": "attacks",
    # The bridge to TenSEAL, and what stands on it; others load these when a plan asks for them.
    "collabedit.crypto.ckks.encryption": "ckks",
    "collabedit.crypto.ckks.keys": "ckks",
    "collabedit.crypto.ckks.opening": "ckks",
    "collabedit.crypto.ckks.seal": "ckks",
    "collabedit.demo": "demo",
    "collabedit.experiments": "experiments",
    "collabedit.operations.status": "aggregator",
    "collabedit.party.decryption": "ckks",
    "collabedit.party.editing": "party",
    # Baselines train adapters; the protocol does without.
    "collabedit.party.editing.baselines": "demo",
    "collabedit.party.editing.gguf_files": "demo",
}
# What a module may also import inside of functions, and then says which extra is missing.
ALSO_LATER = {
    "collabedit.accounting": "privacy",
    "collabedit.aggregator.reflection": "reflection",
    "collabedit.api.joining": "party",
    "collabedit.attacks.grey_box": "attacks",
    "collabedit.cli.party": "party",
    "collabedit.grid": "experiments",
    "collabedit.party.noise": "privacy",
}
# Of an extra that others load by name; no module here imports them.
LOADED_BY_OTHERS = {
    "accelerate": "transformers, to spread a model over devices",
    "pyarrow": "pandas, for Parquet files",
}
# In each environment: a statement that loads what the extra adds and no module imports at its top.
LOADED_LATER = {
    "privacy": (
        "from collabedit import accounting; accounting._library(); "
        "import importlib; importlib.import_module('opendp.prelude')"
    ),
}

IMPORT = """
import importlib, json, sys, traceback
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = traceback.format_exception_only(error)[-1].strip()
exec(sys.argv[2])
import collabedit
print(json.dumps([failed, collabedit.__file__]))
"""


def modules() -> dict[str, Path]:
    found = {}
    for folder, _, files in os.walk(SOURCE, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder) / file
                parts = path.relative_to(SOURCE.parent).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def owner(module: str) -> str:
    name = module
    while name not in OWNERS:
        name = name.rpartition(".")[0]
    return OWNERS[name]


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the packages of others that a module imports, and whether that is at its top."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            names = [str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)]
        for name in names:
            root = name.partition(".")[0]
            if root not in sys.stdlib_module_names and root != "collabedit":
                yield root, node in tree.body


def listed(extras: str) -> list[str]:
    return [extra for extra in extras.split(",") if extra]


@functools.cache
def direct(*extras: str) -> set[str]:
    needs = closure.declared([one for extra in extras for one in listed(extra)])
    # `dask[distributed]` asks for the package distributed by name, too.
    named = [(need.requirement.name, *need.requirement.extras) for need in needs]
    return {canonicalize_name(name) for names in named for name in names}


@functools.cache
def installed() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def providers(package: str) -> set[str]:
    return {canonicalize_name(name) for name in installed().get(package, [])}


def test_modules_import_only_what_their_extra_declares_itself() -> None:
    """What happens to be there because another package needs it may be gone tomorrow."""
    wrong = []
    for module, path in sorted(modules().items()):
        own = owner(module)
        for package, at_top in set(imported(path)):
            allowed = direct(own) if at_top else direct(own, ALSO_LATER.get(module, ""))
            if not providers(package) & allowed:
                wrong.append(f"{module} imports {package}, which [{own}] does not declare")
    assert not wrong


def test_what_is_declared_is_imported() -> None:
    used = {name for path in modules().values() for package, _ in imported(path)
            for name in providers(package)}  # fmt: skip
    declared = direct(*closure.RUN_TIME_EXTRAS)
    assert declared - used == set(LOADED_BY_OTHERS)


def test_the_table_of_modules_is_of_this_project() -> None:
    assert (set(OWNERS) | set(ALSO_LATER)) <= set(modules())
    named = [*OWNERS.values(), *ALSO_LATER.values()]
    assert {extra for names in named for extra in listed(names)} <= set(closure.extras_of())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all environments, so that matplotlib looks for fonts once."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.slow
@pytest.mark.parametrize(
    "extras",
    ["aggregator", "party", "ckks", "privacy", "demo", "experiments", "attacks", "attacks,ckks"],
)
def test_an_extra_suffices_for_its_modules(
    extras: str, wheel: Path, home: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    needed = closure.closure(listed(extras)).values()
    python = closure.make_environment(environment, needed)

    def run(*command: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    (site,) = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # what pip does, but for programs; test_layout.py has these
    checked = run(sys.executable, "-m", "pip", "--python", python, "check")
    assert checked.returncode == 0, checked.stdout

    names = [name for name in sorted(modules()) if is_of(name, extras)]
    done = run(python, "-c", IMPORT, json.dumps(names), LOADED_LATER.get(extras, ""))
    assert done.returncode == 0, done.stderr
    failed, where = json.loads(done.stdout.splitlines()[-1])
    assert failed == {}
    assert Path(where).is_relative_to(environment)
    assert (site / "torch").is_dir() == ("torch" in direct(extras))


def is_of(module: str, extras: str) -> bool:
    """Say whether a module is tried with these extras: its own, the base with any but torch."""
    if module.endswith("__main__"):
        return False
    return owner(module) == extras or (owner(module) == "" and "torch" not in direct(extras))


def test_every_module_is_tried_somewhere() -> None:
    (mark,) = [
        mark
        for mark in test_an_extra_suffices_for_its_modules.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    ]
    missed = [name for name in modules() if not any(is_of(name, one) for one in mark.args[1])]
    assert missed == ["collabedit.__main__"]
