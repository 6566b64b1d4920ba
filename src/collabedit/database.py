"""A SQLite file that one process holds and several of its threads write to."""

import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from collabedit.errors import CollabEditError, StorageError

LOCK_SECONDS: Final = 1.0
"""For which a process waits for another one's lock; its holder keeps it until it ends."""


class DatabaseFile(ABC):
    """Opens a database, holds it, and names what goes wrong with it.

    Args:
        path: made with mode 0600 if missing. None keeps it in memory.

    Raises:
        StorageError: cannot be made or written.
        CollabEditError: what `_named` makes of SQLite's other errors.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        if path is not None:
            _make_private(path)
        with self._errors():
            self._database = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=LOCK_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with self._errors():
                # Held until the process ends, however it ends.
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA journal_mode = WAL")
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    @abstractmethod
    def _prepare(self) -> None:
        """Set what a commit survives, make tables or check those that are there."""

    @abstractmethod
    def _named(self, error: sqlite3.DatabaseError, *, locked: bool) -> CollabEditError:
        """Say what an error means here, and what to do.

        Args:
            error: an `OperationalError` if the disk refuses, else the file is damaged.
            locked: whether another process holds the file.
        """

    def _create(self, schema: str, *, application: int, version: int) -> bool:
        """Make the tables of an empty database, and return whether it was empty."""
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            self._database.executescript(
                f"BEGIN IMMEDIATE; {schema} PRAGMA application_id = {application}; "
                f"PRAGMA user_version = {version}; COMMIT;"
            )
        return not tables

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            raise self._named(error, locked=locked) from error


def _make_private(path: Path) -> None:
    # SQLite gives its write-ahead log the mode of the database.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageError(f"{path}: cannot be used: {error.strerror}") from error
