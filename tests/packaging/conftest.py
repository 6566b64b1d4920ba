"""The wheel and what it is built from, made once for all tests of packaging in a process."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = ("aggregator", "attacks", "crypto", "party", "proto")


@pytest.fixture(scope="package")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that it leaves nothing behind in ours."""
    copy = tmp_path_factory.mktemp("checkout") / "collabedit"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    copy.mkdir()
    for name in ("src", "docs", *LINKS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for pattern in ("pyproject.toml", "MANIFEST.in", "LICENSE", "*.md", "*.cff", "constraints.txt"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, copy)
    return copy


@pytest.fixture(scope="package")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip builds from a checkout."""
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(checkout)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built
