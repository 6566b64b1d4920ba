"""Wheel and sdist as they are released: equal bytes, equal content."""

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import distributions
import pytest

import collabedit

ROOT = Path(__file__).parents[2]
EPOCH = 1_700_000_000  # a second in 2023

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    files = distributions.build(checkout, tmp_path_factory.mktemp("first"), EPOCH)
    return dict(zip(("sdist", "wheel"), files, strict=True))


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def disturb(tree: Path) -> None:
    """Other permissions and times on every file and folder, as another checkout has them."""
    for number, path in enumerate(sorted(tree.rglob("*"))):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else (0o600, 0o640, 0o755)[number % 3])
            os.utime(path, (number * 1000, 10**9 + number * 1000))


def test_two_builds_elsewhere_give_the_same_bytes(
    built: dict[str, Path], checkout: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "another place" / "tree"
    elsewhere.parent.mkdir()
    # Made in another order, so the file system lists it in another one.
    elsewhere.mkdir()
    for path in sorted(checkout.iterdir(), reverse=True):
        if path.is_dir():
            shutil.copytree(path, elsewhere / path.name, symlinks=True)
        else:
            shutil.copy(path, elsewhere)
    disturb(elsewhere)
    before = os.umask(0o077)
    try:
        again = distributions.build(elsewhere, tmp_path / "out", EPOCH)
    finally:
        os.umask(before)
    for first, second in zip(built.values(), again, strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes(), first.name


def test_the_time_in_the_archives_is_the_one_that_is_given(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        members = archive.getmembers()
    assert {member.mtime for member in members} == {EPOCH}
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, "", "")
    }
    with zipfile.ZipFile(built["wheel"]) as zipped:
        assert {entry.date_time for entry in zipped.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        assert {oct(entry.external_attr >> 16 & 0o777) for entry in zipped.infolist()} <= {
            "0o644",
            "0o664",  # what setuptools writes for RECORD
        }


def test_the_wheel_of_the_sdist_holds_what_the_wheel_of_a_checkout_does(
    built: dict[str, Path], wheel: Path
) -> None:
    released, direct = content(built["wheel"]), content(wheel)
    record = next(name for name in released if name.endswith("/RECORD"))
    assert set(released) == set(direct)
    for name in set(released) - {record}:
        assert released[name] == direct[name], name
    assert sorted(released[record].splitlines()) == sorted(direct[record].splitlines())


def test_the_sdist_has_what_a_reader_needs_and_no_second_copy(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.split("/", 1)[1] for member in members if member.isfile()}
    for name in (
        *("LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "docs/SPEC.md"),
        *("pyproject.toml", "constraints.txt", "src/collabedit/party/editing/editor.py"),
    ):
        assert name in names
    top = {name.split("/")[0] for name in names if "/" in name}
    assert top == {"docs", "src"}
    assert f"Version: {collabedit.__version__}\n" in extracted(built["sdist"], "PKG-INFO")


def extracted(sdist: Path, name: str) -> str:
    with tarfile.open(sdist) as archive:
        stream = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/{name}")
        assert stream is not None
        return stream.read().decode()


def test_the_sums_are_what_sha256sum_reads(built: dict[str, Path], tmp_path: Path) -> None:
    for file in built.values():
        shutil.copy(file, tmp_path)
    distributions.write_sums(list(built.values()), tmp_path / "SHA256SUMS")

    def check() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sha256sum", "--check", "--strict", "SHA256SUMS"],  # noqa: S607
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert check().stdout.count(": OK") == 2
    (tmp_path / built["wheel"].name).write_bytes(built["wheel"].read_bytes() + b"\0")
    assert check().returncode != 0


def test_a_tree_that_does_not_build_says_why(checkout: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkout, broken, symlinks=True)
    link = broken / "src" / "collabedit" / "party"
    link.unlink()
    link.write_text("../../party")
    with pytest.raises(distributions.BuildError, match="collabedit/party"):
        distributions.build(broken, tmp_path / "out", EPOCH)
