"""The aggregator's disk: it can be full, and the process can end at any write to it."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from collabedit.aggregator import tiles
from collabedit.aggregator.bundles import Bundles
from collabedit.aggregator.journal import Journal
from collabedit.errors import StorageError
from collabedit.ids import TaskIndex
from tests.simulation.faults.ops import Moment

T = TypeVar("T")


class _System:
    """The module `os`, but for one function."""

    def __init__(self, pwrite: Callable[[int, bytes, int], int]) -> None:
        self.pwrite = pwrite

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


class CrashError(BaseException):
    """The process is gone. Not an Exception: nothing may catch it and clean up."""


class Disk:
    """Counts durable writes: commits of the journal, tiles, updates.

    Attributes:
        refusals: so many writes fail from now on.
        writes: so far.
    """

    def __init__(self) -> None:
        self.refusals = 0
        self.writes = 0
        self._deadly: tuple[int, Moment] | None = None

    def kill_at(self, skip: int, moment: Moment) -> None:
        """Let the process die at write number `skip` from now."""
        self._deadly = (self.writes + skip, moment)

    def spare(self) -> None:
        """Be an ordinary disk from now on."""
        self._deadly, self.refusals = None, 0

    def is_full(self) -> bool:
        """Return whether the write that is about to happen is refused."""
        if self.refusals:
            self.refusals -= 1
            return True
        return False

    def moment(self) -> Moment | None:
        """Count a write and return at which moment of it the process ends."""
        self.writes += 1
        if self._deadly is None or self._deadly[0] >= self.writes:
            return None
        moment = self._deadly[1]
        self._deadly = None
        return moment

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put this disk under the aggregator's tiles and updates."""
        with ExitStack() as stack:
            # Of that module alone: ciphertexts pass through files in memory, at parties, too.
            system = _System(self._pwrite(os.pwrite))
            stack.enter_context(patch.object(tiles, "os", system))
            stack.enter_context(patch.object(Bundles, "store", self._store(Bundles.store)))
            sums = self._store_sum(Bundles.store_sum)
            stack.enter_context(patch.object(Bundles, "store_sum", sums))
            yield

    def _pwrite(self, real: Callable[[int, bytes, int], int]) -> Callable[[int, bytes, int], int]:
        def pwrite(descriptor: int, data: bytes, offset: int) -> int:
            if self.is_full():
                real(descriptor, data[: len(data) // 2], offset)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            moment = self.moment()
            if moment == "before":
                raise CrashError
            if moment == "torn":
                real(descriptor, data[: len(data) // 2], offset)
                raise CrashError
            written = real(descriptor, data, offset)
            if moment == "after":
                raise CrashError
            return written

        return pwrite

    def _store(
        self, real: Callable[[Bundles, TaskIndex, bytes], None]
    ) -> Callable[[Bundles, TaskIndex, bytes], None]:
        def store(bundles: Bundles, task: TaskIndex, bundle: bytes) -> None:
            if self.is_full():
                raise StorageError("cannot store an update: no space left")
            moment = self.moment()
            if moment == "before":
                raise CrashError
            real(bundles, task, bundle[: len(bundle) // 2] if moment == "torn" else bundle)
            if moment is not None:
                raise CrashError

        return store

    def _store_sum(self, real: Callable[..., T]) -> Callable[..., T]:
        """A file is there whole or not at all, so nothing is torn here."""

        def store_sum(*arguments: object, **named: object) -> T:
            if self.is_full():
                raise StorageError("cannot store a sum: no space left")
            moment = self.moment()
            if moment in ("before", "torn"):
                raise CrashError
            stored = real(*arguments, **named)
            if moment is not None:
                raise CrashError
            return stored

        return store_sum


class MortalJournal(Journal):
    """On a `Disk`. Survives its process, but not the machine: scenarios end processes only."""

    is_durable = False

    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk: Disk | None = None
        super().__init__(path)
        self._database.execute("PRAGMA synchronous = OFF")
        self._disk = disk

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        disk, moment = self._disk, None
        with super()._transaction() as database:
            changes = database.total_changes
            yield database
            if disk is not None and database.total_changes != changes:
                if disk.is_full():
                    raise sqlite3.OperationalError("database or disk is full")
                moment = disk.moment()
                if moment in ("before", "torn"):
                    raise CrashError
        if moment == "after":
            raise CrashError
