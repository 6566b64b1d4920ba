"""Writing that survives a loss of power: bytes, and the names under which they are found."""

import contextlib
import os
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


def append_line(path: Path, line: str) -> None:
    """Add a line of ASCII to a private file, made with mode 0600 at the first one: whole, or not.

    Raises:
        StorageError: the disk refuses; whoever depends on the line must not go on.
    """
    data = (line + "\n").encode("ascii")
    try:
        is_new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _append(descriptor, data)
        finally:
            os.close(descriptor)
        if is_new:
            sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _append(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    except OSError:
        # Half a line would have to be repaired by hand before the next session.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
