"""The transcript of one session as one end saw it: `recording.sqlite`, for any number of readers.

docs/transcripts.md has the format, table by table. What crossed the network at that end is kept
byte by byte, each content once, under its SHA-256; beside it what that end made of it: the
aggregator the sums that it opened, a party the updates that it verified. `recorder` writes it.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, get_args

from collabedit.crypto.ring import Ring, RingArray, from_bytes
from collabedit.database import LOCK_SECONDS
from collabedit.errors import InputError, ProtocolError
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.plan import parse_plan
from collabedit.sketch import LowRankUpdate

FILE: Final = "recording.sqlite"
FORMAT: Final = 1
APPLICATION_ID: Final = 0x43455231  # "CER1"
PIECE_BYTES: Final = 1 << 20
"""SQLite takes no blob of more than 10⁹ bytes, and a piece is what is held in memory."""

Kind: TypeAlias = Literal["packet", "frame", "bundle", "sum"]
Role: TypeAlias = Literal["simulation", "aggregator", "party"]

SCHEMA = """
CREATE TABLE session (
  role TEXT NOT NULL,
  party INTEGER,
  session_id BLOB NOT NULL,
  plan_digest BLOB NOT NULL,
  plan TEXT NOT NULL
) STRICT;
CREATE TABLE contents (
  digest BLOB PRIMARY KEY,
  bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE pieces (
  digest BLOB NOT NULL REFERENCES contents,
  piece INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (digest, piece)
) STRICT;
CREATE TABLE deliveries (
  number INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  task INTEGER NOT NULL,
  sender INTEGER NOT NULL,
  receiver INTEGER NOT NULL,
  kind TEXT NOT NULL,
  digest BLOB NOT NULL REFERENCES contents,
  UNIQUE (task, sender, receiver, kind, digest)
) STRICT;
CREATE TABLE sums (
  task INTEGER PRIMARY KEY,
  digest BLOB NOT NULL REFERENCES contents
) STRICT;
CREATE TABLE survivors (
  task INTEGER NOT NULL REFERENCES sums,
  party INTEGER NOT NULL,
  PRIMARY KEY (task, party)
) STRICT, WITHOUT ROWID;
CREATE TABLE updates (
  task INTEGER NOT NULL,
  layer INTEGER NOT NULL,
  digest BLOB NOT NULL REFERENCES contents,
  PRIMARY KEY (task, layer)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing that crossed the network, as its receiver saw it.

    Attributes:
        sender: who sent it.
        receiver: who got it.
        task: in which task.
        kind: `packet`, `frame`, `bundle`, or `sum` for what the opener of an encrypted sum gets.
        data: the bytes.
        at: when: in a simulation in message times, else in milliseconds of Unix time; a copy that
            came later is the same.
    """

    sender: PartyId
    receiver: PartyId
    task: TaskIndex
    kind: Kind
    data: bytes = field(repr=False)
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What somebody on the path sees of a delivery: ends, size and time, nothing of its content."""

    sender: PartyId
    receiver: PartyId
    bytes: int
    at: int


class Recording:
    """Reads a recording.

    Args:
        path: the file, or the directory that it lies in.

    Raises:
        InputError: there is none, it is damaged, or of another format; names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / FILE if path.is_dir() else path
        if not self.path.is_file():
            raise InputError(f"{self.path}: there is no recording")
        with self._errors():
            self._database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=LOCK_SECONDS
            )
        try:
            self._read_session()
        except BaseException:
            self._database.close()
            raise

    def _read_session(self) -> None:
        with self._errors():
            check_format(self._database, self.path)
            if self._database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("pages do not fit together")
            row = self._database.execute(
                "SELECT role, party, session_id, plan_digest, plan FROM session"
            ).fetchone()
        if row is None:
            raise InputError(f"{self.path}: holds no session: the end that recorded had not joined")
        self.role: Role = row[0]
        self.party = None if row[1] is None else PartyId(row[1])
        self.session_id: bytes = row[2]
        self.plan = parse_plan(row[4], source=f"{self.path}: plan")
        if self.plan.digest != row[3] or self.role not in get_args(Role):
            raise self._damaged("its plan or its role is another one")
        if (self.role == "party") is (self.party is None):
            raise self._damaged("it says of no party, or of another end, that it recorded")
        self._check_ends(AGGREGATOR, self.party or AGGREGATOR)

    @property
    def origin(self) -> str:
        """Who recorded: `simulation`, `aggregator`, or the party's name in the plan."""
        return self.role if self.party is None else self.plan.party_name(self.party)

    def __repr__(self) -> str:
        return f"Recording({self.path})"

    def deliveries(
        self, *, kind: Kind | None = None, task: TaskIndex | None = None
    ) -> Iterator[Delivery]:
        """Iterate over what crossed the network, in order, one at a time.

        Args:
            kind: only these.
            task: only of this one.

        Raises:
            InputError: the file is damaged.
        """
        for at, of, sender, receiver, what, digest in self._rows(
            "SELECT at, task, sender, receiver, kind, digest FROM deliveries "
            "WHERE kind = coalesce(?, kind) AND task = coalesce(?, task) ORDER BY number",
            (kind, task),
        ):
            self._check_ends(sender, receiver)
            if what not in get_args(Kind):
                raise self._damaged("a delivery is of no known kind")
            yield Delivery(sender, receiver, of, what, self._content(digest), at)

    def sightings(self) -> Iterator[Sighting]:
        """Iterate over sizes and times of what crossed the network, in order."""
        for sender, receiver, size, at in self._rows(
            "SELECT sender, receiver, bytes, at FROM deliveries JOIN contents USING (digest) "
            "ORDER BY number"
        ):
            self._check_ends(sender, receiver)
            yield Sighting(sender, receiver, size, at)

    def sums(self) -> dict[TaskIndex, RingArray]:
        """Return the opened sums, [elements] of the plan's ring each; none at a party.

        Raises:
            InputError: the file is damaged.
        """
        ring = Ring.from_bits(self.plan.aggregation.ring_bits)
        try:
            return {
                TaskIndex(task): from_bytes(ring, self._content(digest))
                for task, digest in self._rows("SELECT task, digest FROM sums ORDER BY task")
            }
        except ValueError as error:
            raise self._damaged("a sum is no vector of the plan's ring") from error

    def survivors(self) -> dict[TaskIndex, frozenset[PartyId]]:
        """Return whose contributions are in each opened sum."""
        found: dict[TaskIndex, set[PartyId]] = {}
        for task, party in self._rows("SELECT task, party FROM survivors"):
            self._check_ends(AGGREGATOR, party)
            found.setdefault(TaskIndex(task), set()).add(PartyId(party))
        return {task: frozenset(parties) for task, parties in sorted(found.items())}

    def updates(self) -> dict[LayerIndex, LowRankUpdate]:
        """Return the verified updates, in the model's mapped coordinates; none at an aggregator.

        Raises:
            InputError: the file is damaged.
        """
        layers = {layer.index: layer for layer in self.plan.editing.layers}
        found = {}
        for index, digest in self._rows("SELECT layer, digest FROM updates ORDER BY layer"):
            layer = layers.get(index)
            if layer is None:
                raise self._damaged(f"the plan edits no layer {index}")
            data, capacity = self._content(digest), max(layer.outputs, layer.mapped)
            try:
                found[LayerIndex(index)] = LowRankUpdate.from_bytes(
                    data, outputs=layer.outputs, mapped=layer.mapped, capacity=capacity
                )
            except ProtocolError as error:
                raise self._damaged(f"the update of layer {index}: {error}") from error
        return found

    def check(self) -> int:
        """Read everything once, and return how many contents were compared with their digests.

        Raises:
            InputError: something is missing or altered.
        """
        count = 0
        for (digest,) in self._rows("SELECT digest FROM contents"):
            self._content(digest)
            count += 1
        lost = (
            "SELECT count(*) FROM (SELECT digest FROM deliveries UNION SELECT digest FROM sums "
            "UNION SELECT digest FROM updates) WHERE digest NOT IN (SELECT digest FROM contents)"
        )
        for (missing,) in self._rows(lost):
            if missing:
                raise self._damaged(f"{missing} contents are missing")
        return count

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_ends(self, *ends: PartyId) -> None:
        for end in ends:
            if end != AGGREGATOR and end not in self.plan.party_ids:
                raise self._damaged(f"party {end} is not in its plan")

    def _content(self, digest: bytes) -> bytes:
        pieces = self._rows("SELECT data FROM pieces WHERE digest = ? ORDER BY piece", (digest,))
        data = b"".join(piece for (piece,) in pieces)
        if hashlib.sha256(data).digest() != digest:
            raise self._damaged(f"content {digest.hex()[:16]} is missing or altered")
        return data

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        with self._errors():
            # Through `map`: a cursor that is left early would be closed behind its database.
            yield from map(tuple, self._database.execute(query, values))

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}: is damaged: {what}; take another copy")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path}: is no recording, is being written, or is damaged: {error}"
            ) from error


def check_format(database: sqlite3.Connection, path: Path) -> None:
    """Refuse a database of another program or version.

    Raises:
        InputError: names the file.
    """
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if (application, version) != (APPLICATION_ID, FORMAT):
        raise InputError(f"{path}: is no recording of format {FORMAT}")
