"""What a party's journal says: one record for each input that its state machine accepted.

The bytes are this project's own and stay on the party's disk; a journal is read by the version that
wrote it. Integers are little-endian.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from collabedit.acceptance import Assessment, Measures, Vote
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.counting import Count
from collabedit.party.states import Uploaded

DIGEST_BYTES: Final = 32

_START: Final = struct.Struct("<32s32s32sI")
_TASK: Final = struct.Struct("<I32s32s32s32s")
_ACCEPTED: Final = struct.Struct("<Q32s")
_UPLOADED: Final = struct.Struct("<QI32s32s")
_FETCHED: Final = struct.Struct("<32s32s")
_MADE: Final = struct.Struct("<32s")
_COUNT: Final = struct.Struct("<II")
_COMPLETED: Final = struct.Struct("<IQ32s32sddIII")
_VOTE: Final = struct.Struct("<II")
_ASSESSED: Final = struct.Struct("<I6d")


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """The party was welcomed.

    Attributes:
        session_id: 32 bytes.
        plan_digest: 32 bytes.
        inputs: digest of what the party brings (edits), so that a restart brings the same.
        party: this party.
    """

    session_id: bytes
    plan_digest: bytes
    inputs: bytes
    party: PartyId


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A task is about to begin.

    Attributes:
        task: which.
        chain: of the task's context.
        seed: 32 bytes from which the task's machine draws everything.
        vector: SHA-256 of the encoded contribution, which is stored beside the journal.
        answer: `replay.answer_digest` of what the machine says first.
    """

    task: TaskIndex
    chain: bytes
    seed: bytes = field(repr=False)
    vector: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class PacketAccepted:
    """A packet moved the machine.

    Attributes:
        cursor: packets of the mailbox up to and with this one.
        answer: digest of what the machine answered.
        packet: as it travels.
    """

    cursor: int
    answer: bytes
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ContributionMade:
    """The contribution was computed during the task; it is stored beside the journal.

    Attributes:
        digest: SHA-256 of its ring elements.
    """

    digest: bytes


@dataclass(frozen=True, slots=True)
class OpeningBegun:
    """The one opening of the task's key is about to be made.

    Attributes:
        digest: of the sum that is opened, and no other.
    """

    digest: bytes


@dataclass(frozen=True, slots=True)
class OpeningMade:
    """The one opening of the task's key was made; it is stored beside the journal.

    Attributes:
        digest: SHA-256 of the opened integers.
    """

    digest: bytes


@dataclass(frozen=True, slots=True)
class UploadAccepted:
    """Every tile of the contribution, or of the opened sum, was acknowledged."""

    event: Uploaded
    answer: bytes


@dataclass(frozen=True, slots=True)
class UpdateAccepted:
    """The update was fetched; it is stored beside the journal.

    Attributes:
        digest: of the update.
        answer: digest of what the machine answered.
        assessment: in a voted task the vote that is in that answer, and what it rests on.
    """

    digest: bytes
    answer: bytes
    assessment: Assessment | None = None


@dataclass(frozen=True, slots=True)
class TaskCompleted:
    """A task is over. All that is kept of it, besides its update.

    Attributes:
        task: which.
        cursor: packets of the mailbox that were read.
        update_digest: of the stored update.
        sum_digest: as the aggregator stated it.
        compute_seconds: for the report.
        protocol_seconds: for the report.
        survivors: ascending.
        votes: everybody's in a voted task, by ascending party.
        assessment: one's own.
        group_secret: of a task with closed sums, without which its update cannot be read.
    """

    task: TaskIndex
    cursor: int
    update_digest: bytes
    sum_digest: bytes
    compute_seconds: float
    protocol_seconds: float
    survivors: tuple[PartyId, ...]
    votes: tuple[tuple[PartyId, Vote], ...] = ()
    assessment: Assessment | None = None
    group_secret: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EditsCounted:
    """What the tables of the session's counting task say of the party's own edits, in order."""

    counts: tuple[Count, ...] = field(repr=False)


Made: TypeAlias = ContributionMade | OpeningBegun | OpeningMade
Input: TypeAlias = PacketAccepted | UploadAccepted | UpdateAccepted
Entry: TypeAlias = SessionStarted | TaskStarted | Made | Input | TaskCompleted | EditsCounted


_MADE_KINDS: Final[Mapping[type[Made], bytes]] = {
    ContributionMade: b"\x08",
    OpeningMade: b"\x09",
    OpeningBegun: b"\x0a",
}
_MADE_OF = {kind: made for made, kind in _MADE_KINDS.items()}


def encode_entry(entry: Entry) -> bytes:
    """Serialise a record."""
    if isinstance(entry, SessionStarted):
        start = _START.pack(entry.session_id, entry.plan_digest, entry.inputs, entry.party)
        return b"\x01" + start
    if isinstance(entry, TaskStarted):
        return b"\x02" + _TASK.pack(entry.task, entry.chain, entry.seed, entry.vector, entry.answer)
    if isinstance(entry, PacketAccepted):
        return b"\x03" + _ACCEPTED.pack(entry.cursor, entry.answer) + entry.packet
    if isinstance(entry, UploadAccepted):
        event = entry.event
        fixed = _UPLOADED.pack(event.elements, event.tiles, event.root, entry.answer)
        return b"\x04" + fixed + event.seeds
    if isinstance(entry, UpdateAccepted):
        fetched = _FETCHED.pack(entry.digest, entry.answer)
        return b"\x05" + fetched + _encode_assessment(entry.assessment)
    if isinstance(entry, Made):
        return _MADE_KINDS[type(entry)] + _MADE.pack(entry.digest)
    if isinstance(entry, EditsCounted):
        return b"\x07" + b"".join(_COUNT.pack(c.claims, c.copies) for c in entry.counts)
    count, secret = len(entry.survivors), entry.group_secret or b""
    fixed = _COMPLETED.pack(
        entry.task,
        entry.cursor,
        entry.update_digest,
        entry.sum_digest,
        entry.compute_seconds,
        entry.protocol_seconds,
        count,
        len(entry.votes),
        len(secret),
    )
    votes = b"".join(_VOTE.pack(party, vote) for party, vote in entry.votes)
    survivors = struct.pack(f"<{count}I", *entry.survivors)
    assessed = _encode_assessment(entry.assessment)
    return b"\x06" + fixed + survivors + votes + secret + assessed


def _encode_assessment(assessment: Assessment | None) -> bytes:
    if assessment is None:
        return b""
    numbers = [
        *_numbers(assessment.before),
        *(_numbers(assessment.after) if assessment.after is not None else [math.nan] * 3),
    ]
    return _ASSESSED.pack(assessment.vote, *numbers)


def _numbers(measures: Measures) -> list[float]:
    shares = (measures.efficacy, measures.neighbourhood)
    return [math.nan if share is None else share for share in shares] + [measures.perplexity]


def _decode_assessment(data: bytes) -> Assessment | None:
    if not data:
        return None
    vote, *numbers = _ASSESSED.unpack(data)
    before, after = _measures(numbers[:3]), _measures(numbers[3:])
    # A model that cannot be measured since the update cannot be applied has no measures at all.
    return Assessment(Vote(vote), before, None if vote == Vote.UNUSABLE else after)


def _measures(numbers: Sequence[float]) -> Measures:
    efficacy, neighbourhood = (None if math.isnan(share) else share for share in numbers[:2])
    return Measures(efficacy, neighbourhood, numbers[2])


def decode_entry(data: bytes) -> Entry:
    """Parse a record.

    Raises:
        ValueError: not a record of this version.
    """
    kind, body = data[:1], data[1:]
    try:
        if kind == b"\x01":
            session_id, plan_digest, inputs, party = _START.unpack(body)
            return SessionStarted(session_id, plan_digest, inputs, PartyId(party))
        if kind == b"\x02":
            task, chain, seed, vector, answer = _TASK.unpack(body)
            return TaskStarted(TaskIndex(task), chain, seed, vector, answer)
        if kind == b"\x03":
            cursor, answer = _ACCEPTED.unpack_from(body)
            return PacketAccepted(cursor, answer, body[_ACCEPTED.size :])
        if kind == b"\x04":
            elements, tiles, root, answer = _UPLOADED.unpack_from(body)
            return UploadAccepted(Uploaded(elements, tiles, root, body[_UPLOADED.size :]), answer)
        if kind == b"\x05":
            digest, answer = _FETCHED.unpack_from(body)
            return UpdateAccepted(digest, answer, _decode_assessment(body[_FETCHED.size :]))
        if kind == b"\x06":
            task, cursor, *rest = _COMPLETED.unpack_from(body)
            update, total, compute, protocol, count, voters, secret = rest
            survivors = struct.unpack_from(f"<{count}I", body, _COMPLETED.size)
            start = _COMPLETED.size + 4 * count
            stop = start + voters * _VOTE.size
            votes = _VOTE.iter_unpack(body[start:stop])
            return TaskCompleted(
                TaskIndex(task),
                cursor,
                update,
                total,
                compute,
                protocol,
                tuple(map(PartyId, survivors)),
                tuple((PartyId(party), Vote(vote)) for party, vote in votes),
                _decode_assessment(body[stop + secret :]),
                body[stop : stop + secret] or None,
            )
        if kind == b"\x07":
            return EditsCounted(tuple(Count(*pair) for pair in _COUNT.iter_unpack(body)))
        if kind in _MADE_OF:
            return _MADE_OF[kind](*_MADE.unpack(body))
    except struct.error as error:
        raise ValueError("a record of another length") from error
    raise ValueError("a record of another kind")


@dataclass(frozen=True, slots=True)
class OpenSession:
    """An unfinished session: the fold of a journal's records.

    Attributes:
        start: which session.
        completed: its finished tasks in order.
        task: the task that has begun, None between two tasks.
        made: its contribution, where that is computed during the task.
        begun: of which sum it began the opening.
        opened: that opening, once it was made.
        inputs: what that task's machine accepted.
        counted: of a session that counts, from the end of its counting task on.
    """

    start: SessionStarted
    completed: tuple[TaskCompleted, ...] = ()
    task: TaskStarted | None = None
    inputs: tuple[Input, ...] = ()
    counted: EditsCounted | None = None
    made: ContributionMade | None = None
    begun: OpeningBegun | None = None
    opened: OpeningMade | None = None

    @property
    def cursor(self) -> int:
        """Packets of the mailbox that were read for good."""
        read = [entry.cursor for entry in self.inputs if isinstance(entry, PacketAccepted)]
        return max([entry.cursor for entry in self.completed[-1:]] + read, default=0)

    def with_entry(
        self, entry: TaskStarted | Made | Input | TaskCompleted | EditsCounted
    ) -> "OpenSession":
        """Return the session after one more record.

        Raises:
            ValueError: a record that cannot stand here.
        """
        if isinstance(entry, TaskCompleted):
            if entry.task != len(self.completed):
                raise ValueError("tasks out of order")
            completed = (*self.completed, entry)
            return OpenSession(self.start, completed, counted=self.counted)
        if isinstance(entry, EditsCounted):
            if self.counted is not None or self.completed:
                raise ValueError("edits are counted once, in the first task")
            return replace(self, counted=entry)
        if isinstance(entry, TaskStarted):
            if self.task is not None or entry.task != len(self.completed):
                raise ValueError("tasks out of order")
            return replace(self, task=entry)
        if self.task is None:
            raise ValueError("an input outside of a task")
        if isinstance(entry, Made):
            return self._with_made(entry)
        return replace(self, inputs=(*self.inputs, entry))

    def _with_made(self, entry: Made) -> "OpenSession":
        if isinstance(entry, ContributionMade):
            if self.made is not None:
                raise ValueError("a task has one contribution")
            return replace(self, made=entry)
        if isinstance(entry, OpeningBegun):
            if self.begun is not None:
                raise ValueError("a key opens one sum")
            return replace(self, begun=entry)
        if self.begun is None or self.opened is not None:
            raise ValueError("a key opens one sum")
        return replace(self, opened=entry)


def fold_entries(entries: Iterable[Entry]) -> OpenSession:
    """Return what the records of a journal come to.

    Raises:
        ValueError: no session, or records that cannot stand one after the other.
    """
    session: OpenSession | None = None
    for entry in entries:
        if isinstance(entry, SessionStarted) and session is None:
            session = OpenSession(entry)
        elif isinstance(entry, SessionStarted) or session is None:
            raise ValueError("a session has one start, at the start")
        else:
            session = session.with_entry(entry)
    if session is None:
        raise ValueError("no records")
    return session
