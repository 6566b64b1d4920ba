"""Released updates on disk: written before anybody hears of them, read by every download.

So is a sum of ciphertexts, which its opener alone reads.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from collabedit.durable import sync
from collabedit.errors import StorageError, UnexpectedMessageError
from collabedit.ids import TaskIndex

CHUNK_BYTES = 1 << 20


class Bundles:
    """The update bundles of one session.

    Args:
        directory: of the session's files.
        is_durable: whether a bundle must survive a crash of the machine.
    """

    def __init__(self, directory: Path, *, is_durable: bool) -> None:
        self._directory = directory
        self._is_durable = is_durable
        self._released: set[TaskIndex] = set()

    def spool(self, task: TaskIndex) -> Path:
        """Return the directory of a task's uploads."""
        return self._directory / f"task-{task}"

    def _path(self, task: TaskIndex) -> Path:
        return self._directory / f"task-{task}.update"

    def _sum_path(self, task: TaskIndex) -> Path:
        return self._directory / f"task-{task}.sum"

    def store(self, task: TaskIndex, bundle: bytes) -> None:
        """Write a bundle, whole or not at all. It can be read once it is released.

        Raises:
            StorageError: the disk refuses.
        """
        self._write(self._path(task), [bundle])

    def store_sum(self, task: TaskIndex, offer: Iterable[bytes]) -> tuple[bytes, int]:
        """Write what the opener of an encrypted sum is offered, whole or not at all.

        Args:
            task: of which task.
            offer: piece by piece.

        Returns:
            SHA-256 and length of what was written.

        Raises:
            StorageError: the disk refuses, or `offer` cannot be made.
        """
        return self._write(self._sum_path(task), offer)

    def _write(self, path: Path, pieces: Iterable[bytes]) -> tuple[bytes, int]:
        digest, size = hashlib.sha256(), 0
        partial = path.with_suffix(".partial")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                for piece in pieces:
                    stream.write(piece)
                    digest.update(piece)
                    size += len(piece)
                stream.flush()
                if self._is_durable:
                    os.fsync(stream.fileno())
            partial.replace(path)
            if self._is_durable:
                sync(self._directory)
        except OSError as error:
            raise StorageError(
                f"cannot store an update or a sum under {self._directory}: {error.strerror}"
            ) from error
        return digest.digest(), size

    def release(self, task: TaskIndex) -> None:
        """Let a stored bundle be read."""
        self._released.add(task)

    def check(self, task: TaskIndex, digest: bytes) -> None:
        """Check that a stored bundle is what was released.

        Raises:
            StorageError: it is gone or damaged.
        """
        self._check(self._path(task), digest, what="update that was released")

    def check_sum(self, task: TaskIndex, digest: bytes) -> None:
        """Check that a stored sum is what was offered.

        Raises:
            StorageError: it is gone or damaged.
        """
        self._check(self._sum_path(task), digest, what="sum that was offered")

    def _check(self, path: Path, digest: bytes, *, what: str) -> None:
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from error
        if found != digest:
            raise StorageError(f"{path}: is not the {what}")

    def chunks(self, task: TaskIndex) -> Iterator[bytes]:
        """Read a released bundle piece by piece.

        Raises:
            UnexpectedMessageError: the task isn't released.
            StorageError: the file cannot be read.
        """
        if task not in self._released:
            raise UnexpectedMessageError(f"the update of task {task} is not released")
        return self._read(self._path(task))

    def sum_chunks(self, task: TaskIndex) -> Iterator[bytes]:
        """Read a stored sum piece by piece.

        Raises:
            StorageError: the file cannot be read.
        """
        return self._read(self._sum_path(task))

    def forget_sum(self, task: TaskIndex) -> None:
        """Remove a sum that is opened, if there is one."""
        with contextlib.suppress(OSError):
            self._sum_path(task).unlink()

    def _read(self, path: Path) -> Iterator[bytes]:
        try:
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from error

    def clear(self) -> None:
        """Remove every file of a session, this one's or an earlier one's."""
        self._released.clear()
        for path in self._directory.glob("task-*"):
            with contextlib.suppress(OSError):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def clear_spools(self, before: TaskIndex) -> None:
        """Remove uploads that a crash left behind, of all tasks before `before`."""
        for task in range(before):
            shutil.rmtree(self.spool(TaskIndex(task)), ignore_errors=True)
