"""A whole session at the aggregator: tasks one after the other, mailboxes, uploads, updates.

The `Coordinator` drives the state machine of `task` and knows no network and no clock: the gRPC
service and the in-memory simulation both stand on it, so what is simulated is what is deployed.
Every method may be called from any thread. The slow part, opening and merging a sum, happens in
`open_pending`, outside the lock.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from collabedit.aggregator import states as s
from collabedit.aggregator.opening import OpenedTask, open_and_merge
from collabedit.aggregator.records import TaskRecord
from collabedit.aggregator.rounds import ROUNDS, waiting_for
from collabedit.aggregator.task import advance, receive, start_task
from collabedit.aggregator.tiles import TileStore
from collabedit.crypto.rng import Randomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import (
    AbortReason,
    CollabEditError,
    MalformedMessageError,
    PlanError,
    SessionAbortedError,
    UnexpectedMessageError,
)
from collabedit.exchange import TileLayout, decode_frame
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.plan import Plan, format_digest
from collabedit.proto import messages as m
from collabedit.proto.envelope import (
    check_identities,
    first_chain,
    next_chain,
    open_envelope,
    sign_message,
)
from collabedit.proto.statements import RefusalError

Observer: TypeAlias = Callable[[str, Mapping[str, object]], None]
"""Receives what happens as (event, fields). Fields never hold keys, shares or statistics."""

NO_CHAIN = bytes(m.DIGEST_BYTES)
NO_SESSION = bytes(m.SESSION_ID_BYTES)


def _ignore(event: str, fields: Mapping[str, object]) -> None:
    del event, fields


class Coordinator:
    """One session of one plan.

    Args:
        plan: the plan.
        identity: the key that the plan pins for the aggregator.
        directory: for spool files.
        randomness: draws the session id.
        observer: told of every event, under the lock; must be quick.

    Raises:
        PlanError: `identity` is not the plan's.
    """

    def __init__(
        self,
        plan: Plan,
        identity: SigningKey,
        *,
        directory: Path,
        randomness: Randomness,
        observer: Observer = _ignore,
    ) -> None:
        check_identities(plan)
        if identity.verify_key.to_bytes() != plan.identity(AGGREGATOR):
            raise PlanError("the identity key is not the one that the plan pins for the aggregator")
        self.plan = plan
        self.session_id = randomness.random_bytes(m.SESSION_ID_BYTES)
        self._identity = identity
        self._directory = directory
        self._observer = observer
        self._changed = threading.Condition(threading.RLock())
        self._mailboxes: dict[PartyId, list[m.Packet]] = {party: [] for party in plan.party_ids}
        self._accepted: set[bytes] = set()
        self._joined: frozenset[PartyId] = frozenset()
        self._bundles: dict[TaskIndex, bytes] = {}
        self._records: list[TaskRecord] = []
        self._interrupted = False
        self._task = TaskIndex(0)
        self._chain = first_chain(plan.digest, self.session_id)
        self._begin(frozenset(plan.party_ids))

    def __repr__(self) -> str:
        return f"Coordinator(plan={self.plan.name!r}, task={self._task}, round={self.round_name!r})"

    def _begin(self, expected: frozenset[PartyId]) -> None:
        context = m.Context(self.plan.digest, self.session_id, self._task, self._chain)
        self._setup = s.TaskSetup(self.plan, context, self._identity, expected)
        self._state = start_task(self._setup)
        layout = TileLayout.of(self.plan, self._task)
        self._layout = layout
        self._store = TileStore(self._directory / f"task-{self._task}", layout)
        self._reported: int = 0
        layers = [layer.index for layer in self.plan.tasks[self._task]]
        self._observer("task-started", {"task": self._task, "layers": layers})

    @property
    def state(self) -> s.State:
        """The current task's state."""
        return self._state

    @property
    def round_name(self) -> str:
        """Name of the current round, or the terminal state."""
        return ROUNDS.get(type(self._state), type(self._state).__name__.lower())

    @property
    def position(self) -> tuple[TaskIndex, str]:
        """Task and round; changes exactly when a round ends."""
        with self._changed:
            return self._task, self.round_name

    @property
    def waiting_for(self) -> frozenset[PartyId]:
        """Who could still answer in this round."""
        with self._changed:
            return waiting_for(self._state)

    @property
    def records(self) -> tuple[TaskRecord, ...]:
        """Finished tasks."""
        return tuple(self._records)

    @property
    def finished(self) -> bool:
        """Whether the session is over, well or not."""
        return isinstance(self._state, s.Completed | s.Aborted)

    def raise_if_aborted(self) -> None:
        """Raise if the session ended early.

        Raises:
            SessionAbortedError: with reason and culprit.
        """
        if isinstance(self._state, s.Aborted):
            culprit = self._state.culprit
            raise SessionAbortedError(
                self._state.reason,
                self._state.detail.removeprefix(f"{self._state.reason.name}: "),
                culprit="" if culprit is None else self.plan.party_name(culprit),
            )

    def welcome(self, packet: m.Packet) -> m.Packet:
        """Answer a `Join`.

        Raises:
            RefusalError: PLAN_MISMATCH, UNKNOWN_PARTY.
            InvalidSignatureError: not signed by the identity that the plan pins.
            MalformedMessageError: not a `Join`.
        """
        envelope = packet.envelope
        if envelope.context.plan_digest != self.plan.digest:
            raise RefusalError(
                AbortReason.PLAN_MISMATCH,
                f"your plan has digest {format_digest(envelope.context.plan_digest)}, this "
                f"session's has {format_digest(self.plan.digest)}: compare the files",
                culprit=envelope.sender,
            )
        if envelope.sender not in self.plan.party_ids:
            raise RefusalError(
                AbortReason.UNKNOWN_PARTY,
                f"party {envelope.sender} is not in the plan",
                culprit=None,
            )
        context = m.Context(self.plan.digest, NO_SESSION, TaskIndex(0), NO_CHAIN)
        open_envelope(envelope, m.Join, context=context, identities=self.plan.identity)
        with self._changed:
            if envelope.sender not in self._joined:
                self._joined |= {envelope.sender}
                self._observer("joined", {"party": self.plan.party_name(envelope.sender)})
        first = m.Context(
            self.plan.digest,
            self.session_id,
            TaskIndex(0),
            first_chain(self.plan.digest, self.session_id),
        )
        answer = sign_message(m.Welcome(), context=first, sender=AGGREGATOR, key=self._identity)
        return m.Packet(answer)

    def deliver(self, packet: m.Packet) -> None:
        """Take one message of a party. The same packet again is ignored.

        Raises:
            RefusalError, InvalidSignatureError, MalformedMessageError, UnexpectedMessageError: see
                `task.receive`; the session goes on without that message.
        """
        envelope = packet.envelope
        with self._changed:
            if envelope.signature in self._accepted:
                return
            if envelope.context.session_id != self.session_id:
                raise UnexpectedMessageError("this message belongs to another session")
            before = self.round_name
            if envelope.kind == m.KINDS[m.Contribute]:
                self._check_upload(envelope)
            step = receive(self._state, packet)
            self._accepted.add(envelope.signature)
            self._observer(
                "received",
                {
                    "party": self.plan.party_name(envelope.sender),
                    "task": self._task,
                    "round": before,
                    "message": "abort" if envelope.kind == m.KINDS[m.Abort] else "answer",
                },
            )
            self._take(step)

    def _check_upload(self, envelope: m.Envelope) -> None:
        if not isinstance(self._state, s.CollectingContributions):
            return  # `receive` refuses it with the right words
        if envelope.sender not in waiting_for(self._state):
            return
        message = open_envelope(
            envelope, m.Contribute, context=self._setup.context, identities=self.plan.identity
        )
        root = self._store.root(envelope.sender)
        if root is None:
            raise RefusalError(
                AbortReason.MALFORMED_MESSAGE, "the upload has gaps", culprit=envelope.sender
            )
        if root != message.root or message.tiles != self._layout.tiles:
            raise RefusalError(
                AbortReason.DIGEST_MISMATCH,
                "the stored tiles are not the signed ones",
                culprit=envelope.sender,
            )

    def put_frame(self, party: PartyId, task: TaskIndex, frame: bytes) -> int:
        """Store one frame of a party's upload and return its tile index.

        Raises:
            UnexpectedMessageError: no upload of this party is due.
            MalformedMessageError: not a frame of this task.
            TransportError: the disk refuses.
        """
        with self._changed:
            state, store, layout = self._state, self._store, self._layout
            due = (
                isinstance(state, s.CollectingContributions)
                and task == self._task
                and party in waiting_for(state)
            )
        if not due:
            raise UnexpectedMessageError(f"no upload of party {party} for task {task} is due")
        tile = decode_frame(frame, layout=layout)
        store.put(party, tile)
        return tile.index

    def close_round(self) -> None:
        """End the current round with who has answered. Does nothing once the session is over."""
        with self._changed:
            if self.finished or isinstance(self._state, s.Opening):
                return
            self._observer(
                "round-closed",
                {
                    "task": self._task,
                    "round": self.round_name,
                    "silent": [self.plan.party_name(p) for p in sorted(self.waiting_for)],
                },
            )
            self._take(advance(self._state, s.RoundClosed()))

    def open_pending(self) -> OpenedTask | None:
        """Open and merge the sum, if the current task has come that far."""
        with self._changed:
            state, store = self._state, self._store
        if not isinstance(state, s.Opening):
            return None
        outcome = open_and_merge(state, store)
        with self._changed:
            if isinstance(outcome, OpenedTask):
                self._bundles[self._task] = outcome.bundle
                self._observer(
                    "opened",
                    {
                        "task": self._task,
                        "survivors": [self.plan.party_name(p) for p in sorted(state.survivors)],
                        "sum": format_digest(outcome.event.sum_digest),
                    },
                )
                self._take(advance(self._state, outcome.event))
            else:
                self._take(advance(self._state, outcome))
            store.delete()
        return outcome if isinstance(outcome, OpenedTask) else None

    def _take(self, step: s.Step) -> None:
        self._state = step.state
        for outbound in step.outbound:
            self._mailboxes[outbound.receiver].append(outbound.packet)
        self._report_dropouts()
        if isinstance(step.state, s.Completed):
            self._finish(step.state)
        elif isinstance(step.state, s.Aborted):
            self._store.delete()
            self._observer("aborted", {"task": self._task, "reason": step.state.reason.name})
        self._changed.notify_all()

    def _report_dropouts(self) -> None:
        if isinstance(self._state, s.Completed | s.Aborted):
            dropouts = self._state.dropouts
        else:
            dropouts = self._state.progress.dropouts
        for dropout in dropouts[self._reported :]:
            self._observer(
                "dropped",
                {
                    "party": self.plan.party_name(dropout.party),
                    "task": self._task,
                    "round": dropout.round,
                },
            )
        self._reported = len(dropouts)

    def _finish(self, done: s.Completed) -> None:
        self._records.append(
            TaskRecord(
                self._task, done.survivors, done.update_digest, done.sum_digest, done.dropouts
            )
        )
        self._observer("task-finished", {"task": self._task})
        if self._task + 1 == len(self.plan.tasks):
            self._observer("session-finished", {"tasks": len(self._records)})
            return
        self._chain = next_chain(self._chain, done.update_digest)
        self._task = TaskIndex(self._task + 1)
        self._begin(done.present)

    def mailbox(self, party: PartyId, *, cursor: int) -> tuple[m.Packet, ...]:
        """Return a party's packets after the first `cursor`.

        Raises:
            MalformedMessageError: the cursor is beyond the mailbox.
        """
        with self._changed:
            packets = self._mailboxes[party]
            if cursor > len(packets):
                raise MalformedMessageError(f"cursor {cursor} of {len(packets)} packets")
            return tuple(packets[cursor:])

    def unread(self, cursors: Mapping[PartyId, int]) -> frozenset[PartyId]:
        """Return which parties in `cursors` have packets beyond what they acknowledged."""
        with self._changed:
            return frozenset(
                party for party, cursor in cursors.items() if len(self._mailboxes[party]) > cursor
            )

    def wait_mailbox(self, party: PartyId, *, cursor: int, seconds: float) -> tuple[m.Packet, ...]:
        """Like `mailbox`, but hold the call up to `seconds` while there is nothing new."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._mailboxes[party]) > cursor or self._interrupted,
                timeout=seconds,
            )
            return self.mailbox(party, cursor=cursor)

    def note_refusal(self, error: CollabEditError) -> None:
        """Tell the observer that a call was refused, so that the operator sees faults of ours."""
        with self._changed:
            fields = {"task": self._task, "round": self.round_name}
            self._observer("refused", {**fields, "error": type(error).__name__, "why": str(error)})

    def interrupt(self) -> None:
        """Let every waiting call return now; the session is being shut down."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def wait_change(self, position: tuple[TaskIndex, str], seconds: float) -> None:
        """Hold the call up to `seconds` while task and round stay as they are."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.position != position or self.finished, timeout=seconds
            )

    def bundle(self, task: TaskIndex) -> bytes:
        """Return a released update bundle.

        Raises:
            UnexpectedMessageError: the task isn't released.
        """
        with self._changed:
            if task not in self._bundles:
                raise UnexpectedMessageError(f"the update of task {task} is not released")
            return self._bundles[task]
