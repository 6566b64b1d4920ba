"""What the aggregator must not forget: the inputs of a session, in the order it accepted them.

The state machine is deterministic, and so are Ed25519 signatures. A session is therefore a fold
over its inputs: replayed, they give the same state and the same outgoing packets, byte for byte. So
no state is ever serialised; an input is on the disk before anybody sees what it caused.

SQLite holds the inputs and the digests of stored tiles (WAL, one fsync for each transaction, one
process at a time). Each row is linked to the one before by a hash, so a row that is lost or altered
is noticed, and the log stays checkable after the end, when the inputs themselves, which hold sealed
and revealed shares, are erased and their digests stay.
"""

import enum
import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from collabedit.crypto.kdf import transcript_hash
from collabedit.database import DatabaseFile
from collabedit.errors import JournalError, StorageError
from collabedit.ids import PartyId, TaskIndex

_APPLICATION_ID = 0x43454A31  # "CEJ1"
_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE sessions (
  number INTEGER PRIMARY KEY,
  session_id BLOB NOT NULL UNIQUE,
  plan_digest BLOB NOT NULL,
  began_ms INTEGER NOT NULL,
  ended_ms INTEGER,
  outcome TEXT
) STRICT;
CREATE TABLE inputs (
  session INTEGER NOT NULL REFERENCES sessions,
  number INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  what TEXT NOT NULL,
  data BLOB,
  digest BLOB NOT NULL,
  link BLOB NOT NULL,
  PRIMARY KEY (session, number)
) STRICT;
CREATE TABLE tiles (
  task INTEGER NOT NULL,
  party INTEGER NOT NULL,
  tile INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (task, party, tile)
) STRICT, WITHOUT ROWID;
"""


class InputKind(enum.IntEnum):
    """What an input is. Stored; never renumber."""

    PACKET = 1
    """A party's packet, in its wire encoding."""
    ROUND_CLOSED = 2
    """The driver ended a round; no data."""
    MERGED = 3
    """The sum was opened and the update stored: `Merged`, packed."""
    MERGE_REFUSED = 4
    """The sum allows no merge: `MergeRefused`, packed."""
    SUMMED = 5
    """Ciphertexts were added and the sum stored for its opener: `Summed`, packed."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input. `data` is None once erased; `digest` is SHA-256 of what it was.

    `what` is one line for people, who sent what; nothing is decided by it.
    """

    number: int
    at_ms: int
    kind: InputKind
    what: str
    data: bytes | None = field(repr=False)
    digest: bytes


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session in the journal.

    Attributes:
        number: of the row, in order of beginning.
        session_id: 32 bytes.
        plan_digest: 32 bytes.
        outcome: `finished`, `aborted`, `abandoned`, or None while it is not over.
    """

    number: int
    session_id: bytes
    plan_digest: bytes
    outcome: str | None


class Journal(DatabaseFile):
    """The journal file of one aggregator. Safe to call from several threads.

    Args:
        path: the database; made if missing. None keeps it in memory, for simulations.

    Raises:
        JournalError: damaged, of another program or version, or in use by another process.
        StorageError: cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._session: StoredSession | None = None
        self._count = 0
        self._link = b""
        super().__init__(path)

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA synchronous = FULL")
        run("PRAGMA secure_delete = ON")
        if not self._create(_SCHEMA, application=_APPLICATION_ID, version=_SCHEMA_VERSION):
            (application,) = run("PRAGMA application_id").fetchone()
            (version,) = run("PRAGMA user_version").fetchone()
            if (application, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
                raise JournalError(f"{self.path}: not a journal of this version of collabedit")
            if run("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check")
        rows = self._sessions(over=False)
        if rows:
            self._session = rows[-1]
            self._check_links()

    @classmethod
    def in_memory(cls) -> Self:
        """Return a journal that is gone with the process."""
        return cls(None)

    @property
    def is_durable(self) -> bool:
        """Whether what is written survives the process."""
        return self.path is not None

    def __repr__(self) -> str:
        return f"Journal({self.path})"

    @property
    def session(self) -> StoredSession | None:
        """The session that is not over, if there is one."""
        return self._session

    def sessions(self) -> tuple[StoredSession, ...]:
        """Return all sessions, in order of beginning."""
        with self._transaction():
            return tuple(self._sessions(over=True))

    def _sessions(self, *, over: bool) -> list[StoredSession]:
        rows = self._database.execute(
            "SELECT number, session_id, plan_digest, outcome FROM sessions "
            "WHERE outcome IS NULL OR ? ORDER BY number",
            (over,),
        )
        return [StoredSession(*row) for row in rows]

    def begin(self, session_id: bytes, plan_digest: bytes) -> None:
        """Note a new session.

        Raises:
            StorageError: the disk refuses.
        """
        with self._transaction() as database:
            cursor = database.execute(
                "INSERT INTO sessions (session_id, plan_digest, began_ms) VALUES (?, ?, ?)",
                (session_id, plan_digest, _now()),
            )
            number = cursor.lastrowid or 0
        self._session = StoredSession(number, session_id, plan_digest, None)
        self._count = 0
        self._link = _first_link(self._session)

    def append(self, kind: InputKind, data: bytes = b"", *, what: str = "") -> None:
        """Write one input of the current session; it is on the disk when this returns.

        Args:
            kind: of the input.
            data: what a replay needs, erased at the end.
            what: one line for people, kept.

        Raises:
            StorageError: the disk refuses; nothing is written.
        """
        session = self._open_session()
        with self._transaction() as database:
            at_ms, digest = _now(), hashlib.sha256(data).digest()
            link = _next_link(
                self._link, self._count, at_ms=at_ms, kind=kind, what=what, digest=digest
            )
            database.execute(
                "INSERT INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (session.number, self._count, at_ms, kind, what, data, digest, link),
            )
        self._count += 1
        self._link = link

    def inputs(self, session: StoredSession | None = None) -> Iterator[Input]:
        """Iterate over the inputs of a session, by default the current one."""
        number = (session or self._open_session()).number
        with self._transaction() as database:
            rows = database.execute(
                "SELECT number, at_ms, kind, what, data, digest FROM inputs WHERE session = ? "
                "ORDER BY number",
                (number,),
            ).fetchall()
        for row in rows:
            yield Input(row[0], row[1], InputKind(row[2]), row[3], row[4], row[5])

    def check(self, session: StoredSession) -> int:
        """Check the links of a session and return the number of its inputs.

        Raises:
            JournalError: a row is missing or altered.
        """
        with self._transaction():
            return self._walk(session)[0]

    def _check_links(self) -> None:
        self._count, self._link = self._walk(self._open_session())

    def _walk(self, session: StoredSession) -> tuple[int, bytes]:
        link = _first_link(session)
        count = 0
        for number, at_ms, kind, what, data, digest, stored in self._database.execute(
            "SELECT number, at_ms, kind, what, data, digest, link FROM inputs WHERE session = ? "
            "ORDER BY number",
            (session.number,),
        ):
            link = _next_link(link, count, at_ms=at_ms, kind=kind, what=what, digest=digest)
            damaged = data is not None and hashlib.sha256(data).digest() != digest
            if number != count or stored != link or damaged:
                raise JournalError(
                    f"{self.path}: input {count} of session {session.session_id.hex()[:16]} is "
                    "damaged: restore the file from a copy, or give the session up with --abandon"
                )
            count += 1
        return count, link

    def add_tiles(self, task: TaskIndex, party: PartyId, digests: Mapping[int, bytes]) -> None:
        """Note tiles whose bytes are on the disk already.

        Raises:
            StorageError: the disk refuses; none of them is noted.
        """
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO tiles VALUES (?, ?, ?, ?)",
                [(task, party, tile, digest) for tile, digest in digests.items()],
            )

    def tiles(self, task: TaskIndex) -> dict[PartyId, dict[int, bytes]]:
        """Return the digests of a task's stored tiles, by party and index."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT party, tile, digest FROM tiles WHERE task = ?", (task,)
            ).fetchall()
        found: dict[PartyId, dict[int, bytes]] = {}
        for party, tile, digest in rows:
            found.setdefault(PartyId(party), {})[tile] = digest
        return found

    def forget_tiles(self, task: TaskIndex, party: PartyId | None = None) -> None:
        """Drop a task's tile digests, or one party's: their bytes are gone or are to be sent anew.

        Raises:
            StorageError: the disk refuses.
        """
        with self._transaction() as database:
            database.execute(
                "DELETE FROM tiles WHERE task = ? AND party = coalesce(?, party)", (task, party)
            )

    def end(self, outcome: str) -> None:
        """Note how the current session ended and erase its inputs; their digests stay.

        Raises:
            StorageError: the disk refuses.
        """
        session = self._open_session()
        with self._transaction() as database:
            database.execute("UPDATE inputs SET data = NULL WHERE session = ?", (session.number,))
            database.execute("DELETE FROM tiles")
            database.execute(
                "UPDATE sessions SET ended_ms = ?, outcome = ? WHERE number = ?",
                (_now(), outcome, session.number),
            )
        self._session = None
        # What was erased must not live on in the write-ahead log.
        with self._lock, self._errors():
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._database.close()

    def _open_session(self) -> StoredSession:
        if self._session is None:
            raise JournalError(f"{self.path}: no session is open")
        return self._session

    def _named(self, error: sqlite3.DatabaseError, *, locked: bool) -> StorageError:
        if locked:
            # Two aggregators would fork a session.
            return JournalError(
                f"{self.path}: another aggregator uses this directory; stop it first"
            )
        if isinstance(error, sqlite3.OperationalError):
            return StorageError(
                f"{self.path}: cannot be used: {error}; what was acknowledged before is kept: free "
                "space or restore access, then go on"
            )
        return JournalError(
            f"{self.path}: the journal is damaged; restore it from a copy, or move it away and "
            "start a new session"
        )


def _now() -> int:
    # For people who read the log. Nothing is decided by it, so a clock that jumps does no harm.
    return time.time_ns() // 1_000_000


def _first_link(session: StoredSession) -> bytes:
    return transcript_hash("journal", session.plan_digest, session.session_id)


def _next_link(
    link: bytes, number: int, *, at_ms: int, kind: int, what: str, digest: bytes
) -> bytes:
    return transcript_hash("journal", link, number, max(at_ms, 0), kind, what, digest)
