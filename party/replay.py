"""How a party's machine is run so that it can be run again: inputs written down, answers repeated.

A machine of `party.task` is a function of its setup, the bytes that it draws, and its inputs. Here
it draws from a seed of its own for each task, and each input goes to the journal, with a digest of
the answer, before that answer leaves. `replay_task` feeds the same inputs again and insists on the
same answers. Without a journal nothing is written and the system's randomness is used.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from io import BufferedRandom
from typing import TypeAlias

from collabedit.acceptance import Assessment, Vote
from collabedit.crypto.kdf import SECRET_BYTES, encode_fields
from collabedit.crypto.rng import ReplayableRandomness
from collabedit.errors import CollabEditError, JournalError, StorageError, TransportError
from collabedit.ids import TaskIndex
from collabedit.party import states as s
from collabedit.party.entries import (
    EditsCounted,
    Input,
    PacketAccepted,
    TaskCompleted,
    TaskStarted,
    UpdateAccepted,
    UploadAccepted,
)
from collabedit.party.journal import ABANDON_OPTION, PartyJournal
from collabedit.party.pieces import SealedFile, scratch_file, seal_temporarily
from collabedit.party.task import advance, receive, start_task
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.messages import Packet
from collabedit.proto.statements import owner_context

Receive: TypeAlias = Callable[[s.State, Packet], s.Step]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A task as it was when the process ended.

    Attributes:
        brought: what it began with, see `contribution.contributed_vector`.
        step: the last one; whether its answer arrived is not known.
        bundle: the update, once it was fetched.
        assessment: the vote that was cast on it, in a voted task.
    """

    brought: bytes = field(repr=False)
    step: s.Step
    bundle: bytes = field(repr=False)
    assessment: Assessment | None = None


def answer_digest(step: s.Step) -> bytes:
    """Hash what a step sends, so that a replay can be compared with it."""
    packets = (encode_packet(packet) for packet in step.outbound)
    return hashlib.sha256(encode_fields(*packets)).digest()


def _seeded(setup: s.TaskSetup, seed: bytes) -> s.TaskSetup:
    context = owner_context(setup.context, setup.me)
    return replace(setup, randomness=ReplayableRandomness(seed, context))


class InputLog:
    """The journal of a session, or its absence.

    Args:
        journal: None for a session that does not survive its process.
    """

    def __init__(self, journal: PartyJournal | None) -> None:
        self._journal = journal

    def keeps(self, error: BaseException) -> bool:
        """Tell whether the session can be resumed after `error`, and so must not be left."""
        unfinished = self._journal is not None and self._journal.unfinished is not None
        return unfinished and isinstance(error, TransportError | StorageError)

    def start_task(self, setup: s.TaskSetup, brought: bytes | memoryview) -> s.Step:
        """Begin a task's machine. What it says first may leave on return.

        Args:
            setup: of the task.
            brought: see `contribution.contributed_vector`.

        Raises:
            StorageError: the disk refuses.
        """
        if self._journal is None:
            return start_task(setup)
        context = setup.context
        seed = setup.randomness.random_bytes(SECRET_BYTES)
        step = start_task(_seeded(setup, seed))
        vector = hashlib.sha256(brought).digest()
        entry = TaskStarted(context.task, context.chain, seed, vector, answer_digest(step))
        self._journal.start_task(entry, brought)
        return step

    def received(self, packet: Packet, cursor: int, step: s.Step) -> None:
        """Write down an accepted packet; the answers of `step` may leave on return.

        Raises:
            StorageError: the disk refuses.
        """
        if self._journal is not None:
            entry = PacketAccepted(cursor, answer_digest(step), encode_packet(packet))
            self._journal.accept(entry)

    def contribution(self, task: TaskIndex, make: Callable[[], Iterable[bytes]]) -> SealedFile:
        """Return a contribution that `make` computes anew each time, the same after a restart.

        Args:
            task: which.
            make: makes it, piece by piece; it may be longer than memory.

        Raises:
            StorageError: the disk refuses; nothing may be uploaded.
        """
        if self._journal is None:
            return seal_temporarily(make())
        return self._journal.encoded(task, make)

    def begin_opening(self, sum_digest: bytes) -> bool:
        """Fix which sum the task's key opens; tell whether the journal knew of that before.

        Raises:
            JournalError: it knows of another sum.
            StorageError: the disk refuses; nothing may be opened.
        """
        return self._journal is not None and self._journal.begin_opening(sum_digest)

    def opening(self, task: TaskIndex, make: Callable[[], Iterable[bytes]]) -> SealedFile:
        """Return the opening of a task's sum, the same after a restart; see `contribution`.

        Raises:
            StorageError: the disk refuses; nothing may be uploaded.
        """
        if self._journal is None:
            return seal_temporarily(make())
        return self._journal.opened(task, make)

    def scratch(self) -> BufferedRandom:
        """Return an empty file that has no name, for what need not survive a restart.

        Raises:
            StorageError: the disk refuses.
        """
        return scratch_file(None) if self._journal is None else self._journal.scratch()

    def uploaded(self, event: s.Uploaded, step: s.Step) -> None:
        """Write down that the upload was acknowledged.

        Raises:
            StorageError: the disk refuses.
        """
        if self._journal is not None:
            self._journal.accept(UploadAccepted(event, answer_digest(step)))

    def fetched(
        self,
        task: TaskIndex,
        bundle: bytes,
        step: s.Step,
        assessment: Assessment | None = None,
    ) -> None:
        """Write down a fetched update, with the vote on it if one is asked, unless it was refused.

        Raises:
            StorageError: the disk refuses.
        """
        if self._journal is not None and not isinstance(step.state, s.Aborted):
            digest = hashlib.sha256(bundle).digest()
            entry = UpdateAccepted(digest, answer_digest(step), assessment)
            self._journal.fetched(task, bundle, entry)

    def completed(self, entry: TaskCompleted, counted: EditsCounted | None = None) -> None:
        """Forget the task's secrets; keep what it counted.

        Raises:
            StorageError: the disk refuses.
        """
        if self._journal is not None:
            self._journal.complete_task(entry, counted)


def replay_task(
    journal: PartyJournal, setup: s.TaskSetup, hear: Receive = receive
) -> Replayed | None:
    """Bring the machine of the task that runs back to where it was; None if none has begun.

    Args:
        journal: with an unfinished session.
        setup: of the task; its randomness is replaced.
        hear: applies a packet, as when it was accepted.

    Raises:
        JournalError: the journal is damaged, or the machine answers differently now.
    """
    session = journal.unfinished
    if session is None or session.task is None:
        return None
    started = session.task
    if (started.task, started.chain) != (setup.context.task, setup.context.chain):
        raise _differs(journal)
    brought = journal.brought()
    step = start_task(_seeded(setup, started.seed))
    if answer_digest(step) != started.answer:
        raise _differs(journal)
    bundle, assessment = b"", None
    for entry in session.inputs:
        try:
            step = _feed(step.state, entry, hear)
        except CollabEditError as error:
            raise _differs(journal) from error
        if answer_digest(step) != entry.answer:
            raise _differs(journal)
        if isinstance(entry, UpdateAccepted):
            bundle = journal.update(started.task, entry.digest)
            assessment = entry.assessment
    return Replayed(brought, step, bundle, assessment)


def _feed(state: s.State, entry: Input, hear: Receive) -> s.Step:
    if isinstance(entry, PacketAccepted):
        return hear(state, decode_packet(entry.packet))
    if isinstance(entry, UploadAccepted):
        return advance(state, entry.event)
    vote = Vote.NONE if entry.assessment is None else entry.assessment.vote
    return advance(state, s.UpdateFetched(entry.digest, vote))


def _differs(journal: PartyJournal) -> JournalError:
    return JournalError(
        f"{journal}: the session would now be answered differently, which is refused: resume with "
        "the plan, the identity key and the version of this program that it was begun with, or "
        f"give it up with {ABANDON_OPTION}"
    )
