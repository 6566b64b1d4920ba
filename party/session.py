"""A party's whole session: join, one secure sum after the other, apply each verified update.

The protocol is `task`; this module is its driver. It owns the order of things that matter: a
contribution is encoded, and so checked against the plan's bounds, before the party's first message
of the task; an update is applied only after at least a threshold of parties signed the same one;
and if the session ends early, everything that was applied is taken back.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from collabedit.crypto.ring import RingArray
from collabedit.crypto.rng import Randomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import (
    AbortReason,
    CollabEditError,
    MalformedMessageError,
    NumericError,
    PlanError,
    ProtocolError,
    SessionAbortedError,
    TransportError,
    UnexpectedMessageError,
)
from collabedit.exchange import contribution_vector, decode_bundle, plan_encoding
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.channel import Channel
from collabedit.party.contribution import masked_upload
from collabedit.party.task import advance, receive, start_task
from collabedit.party.witness import Witness
from collabedit.plan import Layer, Plan, format_digest
from collabedit.proto import messages as m
from collabedit.proto.envelope import (
    check_identities,
    first_chain,
    next_chain,
    open_envelope,
    sign_message,
)
from collabedit.proto.evidence import EvidenceSink
from collabedit.sketch import LowRankUpdate, Matrix

Observer: TypeAlias = Callable[[str, Mapping[str, object]], None]
"""Receives what happens as (event, fields). Fields never hold edits, keys or statistics."""

_POLL_SECONDS = 1.0


class Editor(Protocol):
    """The party's model and edits."""

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        """Return K̃ [d', n] and R [d_out, n] of each layer, on the model as edited so far."""

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        """Apply merged updates, given in mapped coordinates."""

    def rollback(self) -> None:
        """Take back everything that was applied, bit by bit."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One finished task, as this party knows it."""

    task: TaskIndex
    layers: tuple[int, ...]
    survivors: tuple[str, ...]
    sum_digest: str
    update_digest: str
    compute_seconds: float
    protocol_seconds: float


@dataclass(frozen=True, slots=True)
class SessionReport:
    """A finished session."""

    session_id: str
    tasks: tuple[TaskReport, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """Who this party is in a session: the plan, its id there, its identity key, its entropy."""

    plan: Plan
    me: PartyId
    identity: SigningKey = field(repr=False)
    randomness: Randomness = field(repr=False)

    def __post_init__(self) -> None:
        check_identities(self.plan)
        if self.identity.verify_key.to_bytes() != self.plan.identity(self.me):
            raise PlanError(
                f"the identity key is not the one that the plan pins for "
                f"{self.plan.party_name(self.me)}"
            )


def _ignore(event: str, fields: Mapping[str, object]) -> None:
    del event, fields


class OpeningRecord(Protocol):
    """Remembers which sums this party helped to open; see `party.ledger`."""

    def record(self, session_id: bytes, task: TaskIndex) -> None:
        """Store durably that the shares which open this task are about to leave."""


def run_session(
    member: Member,
    channel: Channel,
    editor: Editor,
    *,
    ledger: OpeningRecord | None = None,
    evidence: EvidenceSink | None = None,
    enter: Callable[[bytes], None] | None = None,
    observer: Observer = _ignore,
) -> SessionReport:
    """Take part in one session, to its end.

    Args:
        member: who we are.
        channel: to the aggregator; closed at the end.
        editor: our model and edits.
        ledger: told before each opening; None for throw-away sessions.
        enter: told the session id before anything is signed in the session, and refuses one that
            was entered before; None for throw-away identities.
        evidence: given proof of each lie of the aggregator that a third person can check.
        observer: told of every event.

    Raises:
        SessionAbortedError: the session ended early; `editor` is as it was before.
        NumericError: our own statistics break the plan's bounds; nothing of them was sent.
        TransportError, ProtocolError: see `Channel`.
    """
    session = _Session(member, channel, ledger, observer)
    session.witness = Witness(member.plan, evidence)
    session.enter = enter
    try:
        session.join()
        reports = [
            session.run_task(TaskIndex(index), editor) for index in range(len(member.plan.tasks))
        ]
    except BaseException:
        try:
            editor.rollback()
        finally:
            session.leave()
        raise
    finally:
        channel.close()
    return SessionReport(session.session_id.hex(), tuple(reports))


class _Session:
    def __init__(
        self,
        member: Member,
        channel: Channel,
        ledger: OpeningRecord | None,
        observer: Observer,
    ) -> None:
        self._member = member
        self._plan = member.plan
        self._channel = channel
        self._ledger = ledger
        self._observer = observer
        self._chain = b""
        self._state: s.State | None = None
        self._context: m.Context | None = None
        self._refused = False
        self.session_id = b""
        self.witness = Witness(member.plan)
        self.enter: Callable[[bytes], None] | None = None

    def join(self) -> None:
        plan, member = self._plan, self._member
        nowhere = m.Context(
            plan.digest, bytes(m.SESSION_ID_BYTES), TaskIndex(0), bytes(m.DIGEST_BYTES)
        )
        request = sign_message(m.Join(), context=nowhere, sender=member.me, key=member.identity)
        answer = self._channel.join(m.Packet(request)).envelope
        if answer.sender != AGGREGATOR:
            raise MalformedMessageError("the welcome is not the aggregator's")
        self.session_id = answer.context.session_id
        self._chain = first_chain(plan.digest, self.session_id)
        context = m.Context(plan.digest, self.session_id, TaskIndex(0), self._chain)
        open_envelope(answer, m.Welcome, context=context, identities=plan.identity)
        if self.enter is not None:
            self.enter(self.session_id)
        self._context = context
        self._channel.open(self.session_id)
        self._observer("joined", {"session": self.session_id.hex()[:16]})

    def run_task(self, task: TaskIndex, editor: Editor) -> TaskReport:
        plan = self._plan
        layers = plan.tasks[task]
        self._context = m.Context(plan.digest, self.session_id, task, self._chain)
        self._state = None
        started = time.monotonic()
        encoded = self._encode(task, editor.statistics(layers))
        computed = time.monotonic()
        self._observer("computed", {"task": task, "layers": [layer.index for layer in layers]})
        completed, bundle = self._sum(task, encoded)
        self._chain = next_chain(self._chain, completed.update_digest)
        # The aggregator is at the next task by now: a farewell from here on belongs there.
        self._context = m.Context(plan.digest, self.session_id, TaskIndex(task + 1), self._chain)
        editor.apply(decode_bundle(plan, task, bundle))
        survivors = tuple(plan.party_name(party) for party in sorted(completed.survivors))
        self._observer("applied", {"task": task, "survivors": list(survivors)})
        return TaskReport(
            task=task,
            layers=tuple(layer.index for layer in layers),
            survivors=survivors,
            sum_digest=format_digest(completed.sum_digest),
            update_digest=format_digest(completed.update_digest),
            compute_seconds=computed - started,
            protocol_seconds=time.monotonic() - computed,
        )

    def _encode(self, task: TaskIndex, statistics: list[tuple[Matrix, Matrix]]) -> RingArray:
        try:
            self._check_count(max(keys.shape[1] for keys, _ in statistics))
            vector = contribution_vector(self._plan, task, statistics)
            return plan_encoding(self._plan).encode(vector)
        except NumericError:
            self._refused = True
            raise

    def _check_count(self, edits: int) -> None:
        # More edits than the plan counts on would exceed the sketch's capacity, and the merge would
        # be wrong for everybody without an error showing.
        own = self._plan.federation.parties[self._member.me - 1]
        if edits > own.max_edits:
            raise NumericError(f"{edits} edits, the plan allows {own.name} {own.max_edits}")

    def _sum(self, task: TaskIndex, encoded: RingArray) -> tuple[s.Completed, bytes]:
        member = self._member
        assert self._context is not None  # noqa: S101  for mypy
        setup = s.TaskSetup(
            self._plan, self._context, member.me, member.identity, member.randomness
        )
        bundle = b""
        try:
            self._take(start_task(setup))
            while not isinstance(self._state, s.Completed):
                state = self._state
                if isinstance(state, s.Contributing):
                    self._upload(state, encoded)
                elif isinstance(state, s.FetchingUpdate):
                    bundle = self._channel.download(task, limit=state.update_bytes)
                    digest = hashlib.sha256(bundle).digest()
                    self._take(advance(state, s.UpdateFetched(digest)))
                elif state is not None:
                    self._receive(state)
        except SessionAbortedError:
            raise
        except ProtocolError:
            self._look_for_abort(seconds=_POLL_SECONDS)
            raise
        except TransportError:
            # Only what is here already: an abort that follows is the consequence, not the cause.
            self._look_for_abort(seconds=0.0)
            raise
        return self._state, bundle

    def _upload(self, state: s.Contributing, encoded: RingArray) -> None:
        task = state.setup.context.task
        upload = masked_upload(self._plan, task, encoded, state.masks)
        self._observer("uploading", {"task": task, "tiles": upload.layout.tiles})
        self._channel.upload(task, upload.frames)
        self._observer("uploaded", {"task": task})
        self._take(advance(state, upload.uploaded()))

    def _look_for_abort(self, *, seconds: float) -> None:
        """Raise the abort that waits in the mailbox, if there is one.

        A call that was refused is often only the consequence: the aggregator ended the session, or
        went on without us, and the reason is still on its way.
        """
        while self._state is not None and not isinstance(self._state, s.Completed | s.Aborted):
            try:
                packet = self._channel.next_packet(seconds)
            except (ProtocolError, TransportError):
                return  # the first error says more
            if packet is None:
                return
            if packet.envelope.kind == m.KINDS[m.Abort]:
                self._take(receive(self._state, packet))

    def _receive(self, state: s.State) -> None:
        packet = self._next_packet()
        try:
            self._take(self.witness.receive(state, packet))
        except UnexpectedMessageError:
            # A repeated or late packet; the state stays as it is.
            self._observer("ignored", {"kind": packet.envelope.kind})

    def _next_packet(self) -> m.Packet:
        timing = self._plan.timing
        # The aggregator itself waits at most this long for the slowest peer, in any round.
        limit = timing.liveness + max(timing.join, timing.compute, timing.upload, timing.round)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            packet = self._channel.next_packet(_POLL_SECONDS)
            if packet is not None:
                return packet
        raise SessionAbortedError(
            AbortReason.TIMEOUT, f"no message for {limit:.0f} s", culprit="aggregator"
        )

    def _take(self, step: s.Step) -> None:
        self._state = step.state
        if isinstance(step.state, s.AwaitingRelease) and self._ledger is not None:
            self._ledger.record(self.session_id, step.state.setup.context.task)
        if isinstance(step.state, s.Aborted):
            with contextlib.suppress(CollabEditError):
                self._deliver(step)
            aborted = step.state
            culprit = aborted.culprit
            raise SessionAbortedError(
                aborted.reason,
                aborted.detail.removeprefix(f"{aborted.reason.name}: "),
                culprit="" if culprit is None else self._plan.party_name(culprit),
            )
        self._observer("state", {"state": type(step.state).__name__})
        self._deliver(step)

    def _deliver(self, step: s.Step) -> None:
        for packet in step.outbound:
            self._channel.deliver(packet)

    def leave(self) -> None:
        """Tell the aggregator that we are gone, if it can still be told and doesn't know."""
        if self._context is None or not self.session_id or isinstance(self._state, s.Aborted):
            return
        reason = AbortReason.INPUT_REFUSED if self._refused else AbortReason.PARTY_LEFT
        with contextlib.suppress(CollabEditError):
            if self._state is not None and not isinstance(self._state, s.Completed):
                self._deliver(advance(self._state, s.LeaveSession(reason)))
                return
            # Between two tasks no state machine runs that could say it.
            farewell = sign_message(
                m.Abort(reason, self._member.me),
                context=self._context,
                sender=self._member.me,
                key=self._member.identity,
            )
            self._channel.deliver(m.Packet(farewell))
