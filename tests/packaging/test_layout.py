"""What is installed under which name: the folder links, the package list, the wheel."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "collabedit"
LINKS = ("aggregator", "attacks", "crypto", "party", "proto")

# The build backend; it comes with torch, not with this project's own extras.
setuptools = pytest.importorskip("setuptools", minversion="77")


def declared_packages() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        packages: list[str] = tomllib.load(stream)["tool"]["setuptools"]["packages"]
    return packages


def test_every_package_is_declared() -> None:
    assert declared_packages() == sorted(setuptools.find_packages(str(ROOT / "src")))


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {
        Path(folder).relative_to(SOURCE.parent)
        for folder, _, files in os.walk(SOURCE, followlinks=True)
        if any(file.endswith(".py") for file in files)
    }
    assert {".".join(folder.parts) for folder in folders} == set(declared_packages())


@pytest.mark.parametrize("name", LINKS)
def test_the_links_lead_to_the_folders_at_the_root(name: str) -> None:
    link = SOURCE / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / ".." / name
    assert link.resolve() == ROOT / name
    assert (link / "__init__.py").is_file()


def test_there_are_no_other_links() -> None:
    assert {path.name for path in SOURCE.iterdir() if path.is_symlink()} == set(LINKS)


@pytest.mark.parametrize("package", declared_packages())
def test_every_package_imports_from_its_link(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    found = Path(module.__file__).resolve()
    parts = package.split(".")[1:]
    home = ROOT if parts and parts[0] in LINKS else SOURCE
    assert found == home.joinpath(*parts, "__init__.py")
    assert module.__doc__ or package.startswith("collabedit.proto.v1")


def carried() -> set[str]:
    """Every file of our packages that the wheel must hold, as names inside it."""
    patterns = [
        *("*.py", "*.pyi", "*.proto", "py.typed", "ability.json", "facts.json", "heldout.txt"),
        "templates/*",
    ]
    return {
        (Path(folder) / file).relative_to(SOURCE.parent).as_posix()
        for folder, _, files in os.walk(SOURCE, followlinks=True)
        if "__pycache__" not in folder
        for file in files
        if any((Path(folder) / file).match(pattern) for pattern in patterns)
    }


def test_the_wheel_holds_our_files_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    version = wheel.name.split("-")[1]
    metadata = {name for name in names if name.startswith(f"collabedit-{version}.dist-info/")}
    assert names - metadata == carried()
    for name in (
        *(
            "py.typed",
            "audit/templates/page.html.j2",
            "data/ability.json",
            "data/facts.json",
            "data/heldout.txt",
            "party/editing/editor.py",
        ),
        *("proto/v1/messages.proto", "proto/v1/messages_pb2.py", "proto/v1/messages_pb2.pyi"),
    ):
        assert f"collabedit/{name}" in names
    assert {name.split("/")[0] for name in names - metadata} == {"collabedit"}


def test_the_wheel_states_licence_and_program(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("METADATA"))
        text = archive.read(folder).decode()
        programs = archive.read(folder.replace("METADATA", "entry_points.txt")).decode()
    head = text.split("\n\n", 1)[0]
    assert "License-Expression: Apache-2.0" in head
    assert "collabedit = collabedit.cli:main" in programs
    assert "Requires-Dist: torch" in head
    # Without extras, no torch: what follows an extra's name is not installed.
    plain = [
        line for line in head.splitlines() if line.startswith("Requires-Dist") and ";" not in line
    ]
    assert plain
    assert not [line for line in plain if "torch" in line or "transformers" in line]


def test_a_checkout_without_links_does_not_build(checkout: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkout, broken, symlinks=True)
    link = broken / "src" / "collabedit" / "party"
    link.unlink()
    link.write_text("../../party")  # what git makes where it may not make links
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(broken)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "collabedit/party" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_aggregator_installs_and_runs_without_torch(checkout: Path, tmp_path: Path) -> None:
    """Needs a package index."""
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    program = environment / "bin" / "collabedit"

    def run(*command: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **index_settings()},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    run(sys.executable, "-m", "venv", environment).check_returncode()
    installed = run(
        *(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"),
        f"{checkout}[aggregator]",
    )
    assert installed.returncode == 0, installed.stderr
    for module in ("torch", "transformers", "safetensors"):
        imported = run(python, "-c", f"import {module}")
        assert imported.returncode == 1
        assert f"No module named '{module}'" in imported.stderr
    helped = run(program, "aggregator", "serve", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "--listen" in helped.stdout
    for command in (
        ["covariance", "--model", tmp_path, "--out", tmp_path / "c"],
        ["demo", "--out", tmp_path / "demo"],
        ["evaluate", "--model", tmp_path, "--edits", tmp_path],
    ):
        refused = run(program, *command)
        assert refused.returncode == 2, refused.stderr
        (line,) = refused.stderr.strip().splitlines()
        assert line.startswith("error: ")
        assert "pip install 'collabedit[party]'" in line
    made = run(program, "keys", "new", tmp_path / "identity.pem")
    assert made.returncode == 0, made.stderr


def index_settings() -> dict[str, str]:
    """How this machine reaches a package index, if by other means than pip's own files."""
    names = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_", "REQUESTS_CA_")
    return {key: value for key, value in os.environ.items() if key.upper().startswith(names)}
