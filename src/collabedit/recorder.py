"""Writes the recording of a session while it runs.

No key, mask or edit is ever handed to a `Recorder`. It commits each thing before the session acts
on it, so a session whose process died goes on in the same file, and what is seen again is not kept
again. A disk that refuses raises `StorageError` like every other file of a session: that session
waits, or ends so that it can be resumed, and loses nothing. Data goes through in pieces, so memory
stays flat.
"""

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.database import DatabaseFile
from collabedit.errors import CollabEditError, InputError, StorageError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.recording import (
    APPLICATION_ID,
    FILE,
    FORMAT,
    PIECE_BYTES,
    SCHEMA,
    Delivery,
    Role,
    check_format,
)
from collabedit.sketch import LowRankUpdate


def unix_ms() -> int:
    """Return the time; for whoever reads a recording, nothing is decided by it."""
    return time.time_ns() // 1_000_000


class Recorder(DatabaseFile):
    """Writes the recording of one session. Safe to call from several threads.

    Args:
        directory: made with mode 0700 if missing; the file in it has mode 0600.
        plan: of the session.
        role: of the end that records.
        party: which one, if it is a party.
        now: the time of a delivery; a simulation's deliveries bring their own.

    Raises:
        InputError: the directory holds something else, or the recording of another plan or end.
        StorageError: it cannot be written, or another process records there.
    """

    def __init__(
        self,
        directory: Path,
        plan: Plan,
        *,
        role: Role,
        party: PartyId | None = None,
        now: Callable[[], int] = unix_ms,
    ) -> None:
        self.path = directory / FILE
        self._plan = plan
        self._role = role
        self._party = party
        self._now = now
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"{directory}: cannot be made: {error.strerror}") from error
        super().__init__(self.path)

    def _prepare(self) -> None:
        # A commit survives the process, not each time the power: syncing every message would make
        # a recorded session much slower than one that is not.
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._create(SCHEMA, application=APPLICATION_ID, version=FORMAT)
        check_format(self._database, self.path)
        row = self._row()
        if row is None:
            return
        mine = (self._role, self._party, self._plan.digest)
        if self._role == "simulation" or (row[0], row[1], row[3]) != mine:
            raise InputError(
                f"{self.path}: is the recording of another session, plan or end: "
                "record into another directory"
            )

    def _row(self) -> tuple[str, int | None, bytes, bytes] | None:
        found: tuple[str, int | None, bytes, bytes] | None = self._database.execute(
            "SELECT role, party, session_id, plan_digest FROM session"
        ).fetchone()
        return found

    def __repr__(self) -> str:
        return f"Recorder({self.path})"

    def begin(self, session_id: bytes) -> None:
        """Name the session, or go on with it.

        Raises:
            InputError: the file is the recording of another session.
            StorageError: the disk refuses.
        """
        with self._transaction() as database:
            row = self._row()
            if row is not None and row[2] != session_id:
                raise InputError(
                    f"{self.path}: is the recording of session {row[2].hex()[:16]}, this one is "
                    f"{session_id.hex()[:16]}: record into another directory"
                )
            if row is None:
                plan = self._plan
                database.execute(
                    "INSERT INTO session VALUES (?, ?, ?, ?, ?)",
                    (self._role, self._party, session_id, plan.digest, plan.to_toml()),
                )

    def deliver(self, delivery: Delivery) -> None:
        """Keep one delivery; the same again is not kept again.

        Raises:
            StorageError: the disk refuses; nothing of it is kept.
        """
        data = delivery.data
        self.deliver_pieces(delivery, lambda: (data,))

    def deliver_pieces(
        self,
        delivery: Delivery,
        pieces: Callable[[], Iterable[bytes]],
        *,
        digest: bytes | None = None,
    ) -> bytes:
        """Keep a delivery whose data comes in pieces, and return their SHA-256.

        Args:
            delivery: all but its data.
            pieces: gives the data, each time anew.
            digest: of the data, if it was kept before.

        Raises:
            StorageError: the disk refuses; nothing of it is kept.
        """
        known = _digest_of(pieces()) if digest is None else digest
        at = delivery.at if self._role == "simulation" else self._now()
        with self._transaction() as database:
            _put(database, known, pieces)
            database.execute(
                "INSERT OR IGNORE INTO deliveries (at, task, sender, receiver, kind, digest) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (at, delivery.task, delivery.sender, delivery.receiver, delivery.kind, known),
            )
        return known

    def open_sum(self, task: TaskIndex, survivors: Iterable[PartyId], total: RingArray) -> None:
        """Keep an opened sum and whose contributions are in it; survives a loss of power.

        Raises:
            StorageError: the disk refuses.
        """
        data = to_bytes(total)
        digest = hashlib.sha256(data).digest()
        with self._transaction() as database:
            _put(database, digest, lambda: (data,))
            database.execute("INSERT OR REPLACE INTO sums VALUES (?, ?)", (task, digest))
            database.execute("DELETE FROM survivors WHERE task = ?", (task,))
            database.executemany(
                "INSERT INTO survivors VALUES (?, ?)", [(task, party) for party in survivors]
            )
        with self._lock, self._errors():
            self._database.execute("PRAGMA wal_checkpoint(FULL)")

    def verify(self, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        """Keep updates that were verified, in the model's mapped coordinates.

        Raises:
            StorageError: the disk refuses; nothing of them is kept.
        """
        with self._transaction() as database:
            for layer, update in sorted(updates.items()):
                data = update.to_bytes()
                digest = hashlib.sha256(data).digest()
                _put(database, digest, lambda data=data: (data,))  # type: ignore[misc]
                database.execute(
                    "INSERT OR REPLACE INTO updates VALUES (?, ?, ?)", (task, layer, digest)
                )

    def close(self) -> None:
        """Let go of the file, which is then one file without a log beside it."""
        with self._lock:
            try:
                with self._errors():
                    self._database.execute("PRAGMA journal_mode = DELETE")
            finally:
                self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        # A disk that refuses once more must not hide why the session ended.
        with contextlib.suppress(*(() if kind is None else (StorageError,))):
            self.close()

    def _named(self, error: sqlite3.DatabaseError, *, locked: bool) -> CollabEditError:
        if locked:
            return StorageError(
                f"{self.path}: another process records into this file; stop it first"
            )
        if isinstance(error, sqlite3.OperationalError):
            return StorageError(
                f"{self.path}: the session cannot be recorded: {error}: free space or restore "
                "access, then go on"
            )
        return InputError(f"{self.path}: is no recording, or is damaged: {error}")


def _digest_of(pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _put(
    database: sqlite3.Connection, digest: bytes, pieces: Callable[[], Iterable[bytes | memoryview]]
) -> None:
    """Keep a content under its digest, unless it is there."""
    if database.execute("SELECT 1 FROM contents WHERE digest = ?", (digest,)).fetchone():
        return
    number = size = 0
    for piece in pieces():
        data = memoryview(piece).cast("B")
        for start in range(0, len(data), PIECE_BYTES):
            part = data[start : start + PIECE_BYTES]
            database.execute("INSERT INTO pieces VALUES (?, ?, ?)", (digest, number, part))
            number, size = number + 1, size + len(part)
    database.execute("INSERT INTO contents VALUES (?, ?)", (digest, size))
