"""Writing that survives a loss of power: bytes, and the names under which they are found."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from collabedit.errors import StorageError


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, durable.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte.

    Raises:
        OSError: the disk refuses.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def replace_file(path: Path, data: bytes, *, private: bool) -> None:
    """Write a file, whole or not at all, in place of one that may be there.

    Several processes may do so at once; the last one's stays.

    Args:
        path: the file.
        data: its bytes.
        private: readable by the owner only (mode 0600), from the start.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            try:
                write_all(descriptor, data)
                if not private:
                    os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory that becomes `path` once the context ends well, and goes if not.

    What a killed process leaves is hidden, and beside `path`, never under its name.

    Args:
        path: must not exist; missing parents are made.

    Raises:
        StorageError: the disk refuses, or something is at `path` by now.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield partial
            for folder, _, files in os.walk(partial):
                for name in (*files, "."):
                    sync(Path(folder, name))
            partial.chmod(0o755)  # mkdtemp makes it private; results follow the parent's access
            partial.rename(path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def read_lines(path: Path) -> list[str]:
    """Lines that `append_line` wrote, without their ends; none if there is no file.

    A last line without its end is left out: its writer died before it could act on it.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: not ASCII.
    """
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    return text.split("\n")[:-1]


def append_line(path: Path, line: str) -> None:
    """Add a line of ASCII to a private file, made with mode 0600 at the first one: whole, or not.

    Raises:
        StorageError: the disk refuses; whoever depends on the line must not go on.
    """
    try:
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _append(descriptor, (line + "\n").encode("ascii"))
        finally:
            os.close(descriptor)
        if is_new:
            sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _append(descriptor: int, data: bytes) -> None:
    # What a writer left that died half-way is no line, and must not become the start of this one.
    held = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    size = held.rfind(b"\n") + 1
    if size < len(held):
        os.ftruncate(descriptor, size)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    except OSError:
        # The disk took half of the line: the next reader should not have to know.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
