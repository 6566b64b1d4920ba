"""A whole federation in one process: the deployed state machines over a lossy in-memory network.

The parties are `party.task`, the aggregator is the `Coordinator` that the gRPC service stands on,
and every packet and frame passes through the wire codec, so what runs here is what is deployed,
less sockets and clocks. Faults are drawn from a seed: the same seed gives the same run. Rounds that
starve are closed when no message is in flight any more, which stands for the deadline.

Used by `collabedit simulate`, by the tests, and by the attacks, which read the transcript.
"""

import hashlib
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from collabedit.acceptance import Vote
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.records import TaskRecord
from collabedit.aggregator.reporting import Observer
from collabedit.aggregator.states import Aborted as AggregatorAborted
from collabedit.aggregator.states import Completed as AggregatorCompleted
from collabedit.aggregator.states import Opening, Summing
from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.crypto.rng import Randomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import (
    CollabEditError,
    CryptoError,
    NumericError,
    ProtocolError,
    SessionAbortedError,
    TransportError,
)
from collabedit.exchange import plan_encoding
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.closing import Released, Statistics, UnverifiedError
from collabedit.party.contribution import bring, contributed_vector, masked_upload, uploaded_vector
from collabedit.party.cover import with_cover
from collabedit.party.decisions import Decision
from collabedit.party.items import Item
from collabedit.party.noise import noisy
from collabedit.party.overlap import OwnEdits
from collabedit.party.task import advance, receive, start_task
from collabedit.plan import Plan
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.envelope import first_chain, next_chain
from collabedit.proto.messages import Context, Packet
from collabedit.proto.statements import RefusalError
from collabedit.recorder import Recorder
from collabedit.recording import Delivery
from collabedit.sketch import LowRankUpdate, Matrix

Contribute: TypeAlias = Callable[[PartyId, TaskIndex], Matrix | Statistics]
"""Gives a party's K̃ and R of each layer of a task, without cover edits.

With open sums it may give a contribution vector instead (`exchange.contribution_vector`)."""

Apply: TypeAlias = Callable[[PartyId, TaskIndex, Mapping[LayerIndex, LowRankUpdate]], None]
"""Told by each party of the update that it verified."""

Weigh: TypeAlias = Callable[[PartyId, tuple[Decision, ...]], None]
"""Told by each party what it decided about its edits, once their copies are counted."""

Encoded: TypeAlias = Callable[[s.TaskSetup, RingArray, bytes | None], None]
"""Shown what a party encoded in a task, before masks or encryption, and the task's group secret."""

CastVote: TypeAlias = Callable[[PartyId, Mapping[LayerIndex, LowRankUpdate]], Vote]
"""Gives a party's vote on the update of the last task, which it has fetched and not applied."""

_FIRST_TASK = TaskIndex(0)


def accept_all(party: PartyId, updates: Mapping[LayerIndex, LowRankUpdate]) -> Vote:
    """Vote for everything."""
    del party, updates
    return Vote.ACCEPT


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Probabilities are per message; everything else is exact.

    Frames of an upload are never lost, only delayed, repeated or damaged: the transport under them
    repeats what it loses. A damaged frame is refused and its sender counts as dropped.

    Attributes:
        drop: a control message is lost.
        duplicate: a message arrives twice.
        tamper: one bit of a message is flipped.
        delay: largest extra delay, in message times; reorders messages.
        crash_before: a party falls silent instead of sending its answer of this round (`r0`..`r6`).
        crash_after_frames: a party falls silent in its upload, after so many frames.
        crash_task: the task in which the crashes happen.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    tamper: float = 0.0
    delay: int = 0
    crash_before: Mapping[PartyId, str] = field(default_factory=dict)
    crash_after_frames: Mapping[PartyId, int] = field(default_factory=dict)
    crash_task: TaskIndex = _FIRST_TASK


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a simulated session ended.

    Attributes:
        records: finished tasks.
        sums: the opened ring vectors of finished tasks.
        updates: what parties made of the released bytes of tasks of layers, in the model's mapped
            coordinates; also of a task that ended after its release.
        aborted: the aggregator's last state if the session ended early.
        votes: what was voted on the last task; empty if nothing was.
        party_states: each party's last state.
        decisions: of each party that finished a counting task, about its items in order.
        refusals: messages that were refused, as (receiver, error).
        transcript: everything that crossed the network; empty if it was not kept.
        bytes_sent: by each party, packets and frames.
    """

    records: tuple[TaskRecord, ...]
    sums: Mapping[TaskIndex, RingArray] = field(repr=False)
    updates: Mapping[TaskIndex, Mapping[LayerIndex, LowRankUpdate]] = field(repr=False)
    aborted: AggregatorAborted | None
    party_states: Mapping[PartyId, s.State]
    decisions: Mapping[PartyId, tuple[Decision, ...]]
    refusals: tuple[tuple[PartyId, CollabEditError], ...]
    transcript: tuple[Delivery, ...] = field(repr=False)
    votes: Mapping[PartyId, Vote] = field(default_factory=dict)
    bytes_sent: Mapping[PartyId, int] = field(default_factory=dict)


class _Dice:
    """Seeded choices for faults. Not for keys: those come from the `Randomness` of each end."""

    def __init__(self, seed: int) -> None:
        self._seed = seed.to_bytes(8, "big")
        self._count = 0

    def below(self, bound: int) -> int:
        self._count += 1
        digest = hashlib.sha256(self._seed + self._count.to_bytes(8, "big")).digest()
        return int.from_bytes(digest[:8], "big") % bound

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.below(1 << 30) < probability * (1 << 30)


@dataclass(slots=True)
class _Party:
    state: s.State
    sent_rounds: int = 0
    silent: bool = False
    unacknowledged: set[int] = field(default_factory=set)
    uploaded: s.Uploaded | None = None
    updates: Mapping[LayerIndex, LowRankUpdate] = field(default_factory=dict)


class Simulation:
    """One session.

    Args:
        plan: the plan.
        identities: the private key of every party, and of the aggregator under 0.
        directory: for the aggregator's files.
        randomness: for each end, the aggregator under 0.
        faults: what goes wrong.
        seed: of the faults.
        observer: of the aggregator's events.
        journal: opens the aggregator's journal, for sessions in which it is restarted.
        keep_transcript: large sessions have no room for a copy of every upload.
        recorder: keeps the transcript, sums and updates on disk.
        encoded: shown what parties alone know, for controls without a defence and for collusion.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        identities: Mapping[PartyId, SigningKey],
        directory: Path,
        randomness: Mapping[PartyId, Randomness],
        faults: Faults | None = None,
        seed: int = 0,
        observer: Observer | None = None,
        journal: Callable[[], Journal] = Journal.in_memory,
        keep_transcript: bool = True,
        recorder: Recorder | None = None,
        encoded: Encoded | None = None,
    ) -> None:
        self._plan = plan
        self._identities = identities
        self._randomness = randomness
        self._faults = faults or Faults()
        self._dice = _Dice(seed)
        self._directory = directory
        self._observer = observer
        self._open_journal = journal
        self._vote: CastVote = accept_all
        self._keep_transcript = keep_transcript
        self._recorder = recorder
        self._show_encoded = encoded
        self.coordinator = self._start_aggregator()
        if recorder is not None:
            recorder.begin(self.coordinator.session_id)
        self._chain = first_chain(plan.digest, self.coordinator.session_id)
        self._parties: dict[PartyId, _Party] = {}
        self._queue: list[tuple[int, int, Delivery]] = []
        self._clock = 0
        self._sequence = 0
        self._cursors = dict.fromkeys(plan.party_ids, 0)
        self._transcript: list[Delivery] = []
        self._bytes_sent = dict.fromkeys(plan.party_ids, 0)
        self._refusals: list[tuple[PartyId, CollabEditError]] = []
        self._sums: dict[TaskIndex, RingArray] = {}
        self._updates: dict[TaskIndex, Mapping[LayerIndex, LowRankUpdate]] = {}
        self._items: Mapping[PartyId, Sequence[Item]] = {}
        self._weigh: Weigh | None = None
        self._decisions: dict[PartyId, tuple[Decision, ...]] = {}

    def _start_aggregator(self) -> Coordinator:
        self._journal = self._open_journal()
        return Coordinator(
            self._plan,
            self._identities[AGGREGATOR],
            directory=self._directory,
            randomness=self._randomness[AGGREGATOR],
            observer=self._observer or (lambda _event, _fields: None),
            journal=self._journal,
        )

    def restart_aggregator(self) -> None:
        """Lose everything that the aggregator holds in memory and start it from its journal."""
        self._journal.close()
        self.coordinator = self._start_aggregator()

    def run(
        self,
        contribute: Contribute,
        apply: Apply | None = None,
        vote: CastVote = accept_all,
        *,
        items: Mapping[PartyId, Sequence[Item]] | None = None,
        weigh: Weigh | None = None,
    ) -> Outcome:
        """Run all tasks of the plan, or until the session ends early.

        Args:
            contribute: asked once for each party and task of layers, before its first message.
            apply: told of each verified update; in a voted task only if it was accepted.
            vote: asked for each party's vote, if the plan asks for one.
            items: what a counting task counts, by party; needed if the plan has one.
            weigh: told of each party's decisions after it.
        """
        self._vote = vote
        self._items, self._weigh = items or {}, weigh
        present = frozenset(self._plan.party_ids)
        for index in range(len(self._plan.tasks)):
            task = TaskIndex(index)
            self._run_task(task, present, contribute, apply)
            if len(self.coordinator.records) <= index:
                break
            record = self.coordinator.records[index]
            present = frozenset(
                party
                for party, simulated in self._parties.items()
                if isinstance(simulated.state, s.Completed)
            )
            self._chain = next_chain(self._chain, record.update_digest)
        last = self.coordinator.state
        return Outcome(
            records=self.coordinator.records,
            sums=self._sums,
            updates=dict(self._updates),
            aborted=last if isinstance(last, AggregatorAborted) else None,
            party_states={party: simulated.state for party, simulated in self._parties.items()},
            decisions=dict(self._decisions),
            refusals=tuple(self._refusals),
            transcript=tuple(self._transcript),
            votes=last.votes if isinstance(last, AggregatorAborted | AggregatorCompleted) else {},
            bytes_sent=dict(self._bytes_sent),
        )

    def _run_task(
        self,
        task: TaskIndex,
        present: frozenset[PartyId],
        contribute: Contribute,
        apply: Apply | None,
    ) -> None:
        context = Context(self._plan.digest, self.coordinator.session_id, task, self._chain)
        brought: dict[PartyId, bytes | memoryview] = {}
        setups = {
            party: s.TaskSetup(
                self._plan, context, party, self._identities[party], self._randomness[party]
            )
            for party in sorted(present)
        }
        for party, setup in setups.items():
            try:
                brought[party] = self._bring(party, task, contribute)
            except NumericError as error:
                self._refusals.append((party, error))
                continue
            self._take(task, party, start_task(setup))
        while not self.coordinator.finished and self.coordinator.position[0] == task:
            self._settle(task, brought)
            self._drive(task)
        self._settle(task, brought)
        for party, simulated in sorted(self._parties.items()):
            if not isinstance(simulated.state, s.Completed):
                continue
            if self._plan.counting(task) is not None:
                self._count(setups[party], simulated.state, brought[party])
            elif apply is not None:
                apply(party, task, simulated.updates)

    def _bring(self, party: PartyId, task: TaskIndex, contribute: Contribute) -> bytes | memoryview:
        if self._plan.counting(task) is not None:
            return self._own(party).brought()
        contributed = contribute(party, task)
        if isinstance(contributed, np.ndarray):
            return to_bytes(noisy(self._plan, task, plan_encoding(self._plan).encode(contributed)))
        covered = with_cover(self._plan, contributed, self._randomness[party])
        return bring(self._plan, party, task, covered, self._randomness[party])

    def _own(self, party: PartyId) -> OwnEdits:
        return OwnEdits(self._plan, party, self._items[party])

    def _count(
        self, setup: s.TaskSetup, completed: s.Completed, brought: bytes | memoryview
    ) -> None:
        """Read the tables as `party.session` does; a party that refuses them leaves."""
        party, own = setup.me, self._own(setup.me)
        data = self.coordinator.bundle(setup.context.task)
        try:
            counted = own.read(setup, completed, brought=brought, data=data)
        except SessionAbortedError as error:
            self._refusals.append((party, error))
            self._parties[party].state = s.Aborted(error.reason, None, str(error))
            return
        self._decisions[party] = own.decide(counted.counts)
        if self._weigh is not None:
            self._weigh(party, self._decisions[party])

    def _drive(self, task: TaskIndex) -> None:
        """Do what the aggregator does when nothing comes any more."""
        state = self.coordinator.state
        if isinstance(state, Summing | Opening):
            opened = self.coordinator.open_pending()
            if opened is not None:
                self._sums[task] = opened.total
                if self._recorder is not None:
                    self._recorder.open_sum(task, state.survivors, opened.total)
        elif self.coordinator.position[0] == task:
            self.coordinator.close_round()

    def _settle(self, task: TaskIndex, brought: Mapping[PartyId, bytes | memoryview]) -> None:
        """Deliver everything that is in flight."""
        self._collect(task)
        while self._queue:
            self._clock, _, delivery = heapq.heappop(self._queue)
            self._record(delivery)
            try:
                if delivery.receiver == AGGREGATOR:
                    self._to_aggregator(delivery)
                else:
                    self._to_party(delivery, brought)
            except (CryptoError, ProtocolError, TransportError) as error:
                self._refusals.append((delivery.receiver, error))
            self._collect(task)

    def _record(self, delivery: Delivery) -> None:
        delivery = replace(delivery, at=self._clock)
        if self._keep_transcript:
            self._transcript.append(delivery)
        if self._recorder is not None:
            self._recorder.deliver(delivery)

    def _collect(self, task: TaskIndex) -> None:
        for party in self._plan.party_ids:
            for packet in self.coordinator.mailbox(party, cursor=self._cursors[party]):
                self._cursors[party] += 1
                self._send(Delivery(AGGREGATOR, party, task, "packet", encode_packet(packet)))

    def _send(self, delivery: Delivery) -> None:
        faults, dice = self._faults, self._dice
        if delivery.sender != AGGREGATOR:
            self._bytes_sent[delivery.sender] += len(delivery.data)
        if delivery.kind == "packet" and dice.happens(faults.drop):
            return
        copies = 2 if dice.happens(faults.duplicate) else 1
        for _ in range(copies):
            arriving = delivery
            if dice.happens(faults.tamper):
                damaged = bytearray(delivery.data)
                bit = dice.below(8 * len(damaged))
                damaged[bit // 8] ^= 1 << (bit % 8)
                arriving = replace(delivery, data=bytes(damaged))
            self._sequence += 1
            arrival = self._clock + 1 + dice.below(faults.delay + 1)
            heapq.heappush(self._queue, (arrival, self._sequence, arriving))

    def _to_aggregator(self, delivery: Delivery) -> None:
        if delivery.kind == "frame":
            tile = self.coordinator.put_frame(delivery.sender, delivery.task, delivery.data)
            self.coordinator.settle_upload(delivery.sender, delivery.task)
            self._acknowledge(delivery.task, delivery.sender, tile)
        else:
            self.coordinator.deliver(decode_packet(delivery.data))

    def _to_party(self, delivery: Delivery, brought: Mapping[PartyId, bytes | memoryview]) -> None:
        party = delivery.receiver
        simulated = self._parties.get(party)
        if simulated is None or simulated.silent:
            return
        self._take(delivery.task, party, receive(simulated.state, decode_packet(delivery.data)))
        if isinstance(simulated.state, s.Contributing):
            self._upload(delivery.task, party, simulated.state, brought[party])
        elif isinstance(simulated.state, s.OpeningSum):
            self._open(delivery.task, party, simulated.state)
        elif isinstance(simulated.state, s.FetchingUpdate):
            self._fetch(delivery.task, party, simulated.state)

    def _fetch(self, task: TaskIndex, party: PartyId, state: s.FetchingUpdate) -> None:
        bundle = self.coordinator.bundle(task)
        self._record(Delivery(AGGREGATOR, party, task, "bundle", bundle))
        context, secret = state.setup.context, state.group_secret
        released = Released(self._plan, context, bundle, state.survivors, secret)
        event: s.Event
        try:
            vote = Vote.NONE
            if self._plan.counting(task) is None:
                updates = released.opened.updates
                self._updates[task] = self._parties[party].updates = updates
                if self._recorder is not None:
                    self._recorder.verify(task, updates)
                vote = self._vote(party, updates) if self._plan.is_voted(task) else Vote.NONE
            event = s.UpdateFetched(hashlib.sha256(bundle).digest(), vote)
        except UnverifiedError as error:
            self._refusals.append((party, error))
            event = s.UpdateRefused(error.reason, str(error))
        self._take(task, party, advance(state, event))

    def _open(self, task: TaskIndex, party: PartyId, state: s.OpeningSum) -> None:
        """Open an encrypted sum as `party.driver` does, but for the journal."""
        from collabedit.party.decryption import (  # noqa: PLC0415  needs TenSEAL
            open_offer,
            opened_upload,
        )

        offer = b"".join(self.coordinator.download(party, task))
        self._record(Delivery(AGGREGATOR, party, task, "sum", offer))
        try:
            opened = open_offer(state, offer, self._randomness[party])
        except RefusalError as refusal:
            self._refusals.append((party, refusal))
            event = s.SumRefused(refusal.reason, str(refusal), refusal.culprit)
            self._take(task, party, advance(state, event))
            return
        upload = opened_upload(self._plan, task, opened)
        for frame in upload.frames():
            self._send(Delivery(party, AGGREGATOR, task, "frame", frame))
        self._parties[party].unacknowledged = set(range(upload.layout.tiles))
        self._parties[party].uploaded = upload.uploaded()

    def _upload(
        self,
        task: TaskIndex,
        party: PartyId,
        state: s.Contributing,
        brought: bytes | memoryview,
    ) -> None:
        vector = contributed_vector(state.setup, brought, state.group_secret)
        if self._show_encoded is not None:
            self._show_encoded(state.setup, vector, state.group_secret)
        encoded = uploaded_vector(state.setup, vector, state.group_secret)
        upload = masked_upload(self._plan, task, encoded, state.masks)
        limit = None
        if task == self._faults.crash_task:
            limit = self._faults.crash_after_frames.get(party)
        for sent, frame in enumerate(upload.frames()):
            if sent == limit:
                self._parties[party].silent = True
                return
            self._send(Delivery(party, AGGREGATOR, task, "frame", frame))
        self._parties[party].unacknowledged = set(range(upload.layout.tiles))
        self._parties[party].uploaded = upload.uploaded()

    def _acknowledge(self, task: TaskIndex, party: PartyId, tile: int) -> None:
        simulated = self._parties[party]
        simulated.unacknowledged.discard(tile)
        if simulated.uploaded is None or simulated.unacknowledged:
            return
        uploaded, simulated.uploaded = simulated.uploaded, None
        if isinstance(simulated.state, s.Contributing | s.OpeningSum):
            self._take(task, party, advance(simulated.state, uploaded))

    def _take(self, task: TaskIndex, party: PartyId, step: s.Step) -> None:
        simulated = self._parties.setdefault(party, _Party(step.state))
        if isinstance(step.state, s.AwaitingRoster):
            simulated.sent_rounds = 0
        simulated.state = step.state
        for packet in step.outbound:
            if not isinstance(step.state, s.Aborted):
                if self._crashes(task, party, f"r{simulated.sent_rounds}"):
                    simulated.silent = True
                simulated.sent_rounds += 1
            if not simulated.silent:
                self._send(_delivery(task, party, packet))

    def _crashes(self, task: TaskIndex, party: PartyId, round_name: str) -> bool:
        here = task == self._faults.crash_task
        return here and self._faults.crash_before.get(party) == round_name


def _delivery(task: TaskIndex, party: PartyId, packet: Packet) -> Delivery:
    return Delivery(party, AGGREGATOR, task, "packet", encode_packet(packet))
