"""Build wheel and sdist of a commit, the same bytes wherever and whenever that is done.

    python release/distributions.py [--commit HEAD] [--out out/dist]

The commit is exported, so nothing that is not committed gets in. The sdist is built from the export
and the wheel from the sdist. What would differ between two builds is fixed: file times (the
commit's), permissions (0644, 0755), owners, the order in archives, and the build backend, whose
version `release/tools.txt` pins. Beside them goes SHA256SUMS, for `sha256sum --check`.
"""

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BACKEND: Final = (
    "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"
)


class BuildError(Exception):
    """Say what the build backend, or git, answered."""


def build(source: Path, out: Path, epoch: int) -> list[Path]:
    """Build the distributions of a source tree into `out`; return sdist and wheel.

    Args:
        source: is left as it is. Its file times and permissions have no influence.
        out: is made if it is not there; what it holds under the same names is replaced.
        epoch: the time that files in the archives get, in seconds since 1970, from 315532800
            (1980, before which a ZIP archive has no time) on.

    Raises:
        BuildError: the backend refuses, with its last lines.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(source, tree, symlinks=True, copy_function=shutil.copyfile)
        built = _call("build_sdist", tree, Path(folder) / "sdist", epoch)
        sdist = out / built.name
        sdist.write_bytes(_same_archive(built.read_bytes(), epoch))
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = Path(folder).glob("*/PKG-INFO")
        wheel = _call("build_wheel", unpacked.parent, Path(folder) / "wheel", epoch)
        shutil.copyfile(wheel, out / wheel.name)
    return [sdist, out / wheel.name]


def _call(hook: str, tree: Path, out: Path, epoch: int) -> Path:
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BACKEND, hook, str(out)],
        cwd=tree,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        umask=0o022,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{hook} of the build backend failed:\n" + done.stderr[-2000:])
    (built,) = out.iterdir()
    return built


def _same_archive(data: bytes, epoch: int) -> bytes:
    """Pack a .tar.gz again, sorted, without owners, with one time and two kinds of permission."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as archive,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as again,
    ):
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            kept = tarfile.TarInfo(member.name)
            kept.type, kept.size, kept.mtime = member.type, member.size, epoch
            kept.mode = 0o755 if member.isdir() else 0o644
            again.addfile(kept, archive.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), mtime=epoch)


def export(commit: str, where: Path) -> int:
    """Write a commit's files under `where`; return the commit's time in seconds since 1970."""
    (where / "export.tar").write_bytes(_git("archive", "--format=tar", commit))
    with tarfile.open(where / "export.tar") as archive:
        archive.extractall(where / "tree", filter="data")
    return int(_git("show", "--no-patch", "--format=%ct", f"{commit}^{{commit}}"))


def write_sums(files: list[Path], where: Path) -> None:
    """Write what `sha256sum --check` reads, run where the files are."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    where.write_text("".join(lines))


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    if done.returncode:
        raise BuildError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def main() -> int:
    """Build, and print what was built from which commit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "dist")
    options = parser.parse_args()
    try:
        name = _git("rev-parse", "--verify", f"{options.commit}^{{commit}}").decode().strip()
        with tempfile.TemporaryDirectory() as folder:
            epoch = export(name, Path(folder))
            # What an earlier version left there is not of this release.
            shutil.rmtree(options.out, ignore_errors=True)
            files = build(Path(folder) / "tree", options.out, epoch)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_sums(files, options.out / "SHA256SUMS")
    print(f"commit {name}, without what is not committed")
    print((options.out / "SHA256SUMS").read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
