"""Real machines of both roles, with a place to lie at every step.

A `Walk` runs one honest task through the pure machines and keeps every state and packet on the
way. States are immutable, so a test takes the state it needs and shows it something else.

A `Session` drives parties around a real `Coordinator` to the end, and lets a test replace what a
party sends.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from collabedit.acceptance import Vote
from collabedit.aggregator import states as a
from collabedit.aggregator import task as aggregator_task
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.reporting import Observer
from collabedit.ciphertexts import offer_bytes
from collabedit.crypto.ring import RingArray, add_into
from collabedit.crypto.rng import Randomness
from collabedit.errors import AbortReason, CollabEditError
from collabedit.exchange import plan_encoding
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.party.contribution import masked_upload
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.envelope import first_chain, next_chain, open_envelope, sign_message
from collabedit.recorder import Recorder
from tests.support.federations import TestFederation, build_federation
from tests.support.randomness import InsecureTestRandomness

T = TypeVar("T", bound=m.Message)

FIRST = TaskIndex(0)
BUNDLE = b"the merged update"
DIGEST = hashlib.sha256(BUNDLE).digest()


def parties(*ids: int) -> frozenset[PartyId]:
    return frozenset(PartyId(i) for i in ids)


def plain_sum(
    federation: TestFederation, survivors: Iterable[PartyId], task: TaskIndex = FIRST
) -> RingArray:
    """Sum in the ring without any mask."""
    encoding = plan_encoding(federation.plan)
    total: RingArray = np.zeros(federation.plan.task_length(task), dtype=encoding.ring.dtype)
    for party in survivors:
        add_into(total, encoding.encode(federation.contribute(party, task)))
    return total


def changed_digest(statement: m.VerifyUpdate, which: str) -> m.VerifyUpdate:
    """The same statement on another update (`update_digest`) or sum (`sum_digest`)."""
    if which == "update_digest":
        return dataclasses.replace(statement, update_digest=b"\xff" * 32)
    return dataclasses.replace(statement, sum_digest=b"\xff" * 32)


def fingerprint(thing: object) -> object:
    """Everything that a state holds, by value where values are plain and else by identity."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return (
            type(thing),
            *(fingerprint(getattr(thing, f.name)) for f in dataclasses.fields(thing)),
        )
    if isinstance(thing, Mapping):
        return tuple((key, fingerprint(value)) for key, value in thing.items())
    if isinstance(thing, tuple):
        return tuple(fingerprint(item) for item in thing)
    if isinstance(thing, bytes | int | str | frozenset | type(None)):
        return thing
    return id(thing)


@dataclass
class Walk:
    """One honest task of five parties (threshold 4), message by message.

    Attributes:
        party: each party's state before it receives that message or event of its own.
        sent: what each party sent, by message.
        shown: what the aggregator sent each party, by message.
        aggregator: its state before anybody answered with that message.
        summing: its state before it adds ciphertexts.
        opening: its state once all shares are in.
        completed: its last state.
        votes: by party; who has none votes where one is asked to accept.
        ends: each party's last state.
    """

    federation: TestFederation
    context: m.Context
    party: dict[tuple[PartyId, type], s.State] = field(default_factory=dict)
    sent: dict[tuple[PartyId, type], m.Packet] = field(default_factory=dict)
    shown: dict[tuple[PartyId, type], m.Packet] = field(default_factory=dict)
    aggregator: dict[type, a.State] = field(default_factory=dict)
    summing: a.State | None = None
    opening: a.State | None = None
    completed: a.State | None = None
    votes: Mapping[PartyId, Vote] = field(default_factory=dict)
    ends: dict[PartyId, s.State] = field(default_factory=dict)

    def sign(
        self,
        message: m.Message,
        *,
        sender: int = 0,
        key: int | None = None,
        context: m.Context | None = None,
    ) -> m.Envelope:
        """Sign as `sender`, with somebody else's key if `key` says so."""
        identity = self.federation.identities[PartyId(sender if key is None else key)]
        return sign_message(
            message, context=context or self.context, sender=PartyId(sender), key=identity
        )

    def packet(
        self, message: m.Message, *attachments: bytes, sender: int = 0, key: int | None = None
    ) -> m.Packet:
        return m.Packet(self.sign(message, sender=sender, key=key), attachments)

    def envelope(self, party: int, message: type) -> m.Envelope:
        return self.sent[PartyId(party), message].envelope

    def message(self, party: int, message: type[T]) -> T:
        return open_envelope(
            self.envelope(party, message),
            message,
            context=self.context,
            identities=self.federation.plan.identity,
        )

    def shown_message(self, party: int, message: type[T]) -> T:
        return open_envelope(
            self.shown[PartyId(party), message].envelope,
            message,
            context=self.context,
            identities=self.federation.plan.identity,
        )

    def state(self, party: int, before: type) -> s.State:
        return self.party[PartyId(party), before]


class _Walker:
    def __init__(self, result: Walk, contributors: frozenset[PartyId], seed: int) -> None:
        plan, identities = result.federation.plan, result.federation.identities
        self.result = result
        self.everybody = frozenset(plan.party_ids)
        self.contributors = contributors
        self.aggregator = aggregator_task.start_task(
            a.TaskSetup(plan, result.context, identities[AGGREGATOR], self.everybody)
        )
        for party in plan.party_ids:
            randomness = InsecureTestRandomness(1000 * seed + party)
            setup = s.TaskSetup(plan, result.context, party, identities[party], randomness)
            self.take(party, party_task.start_task(setup))

    def take(self, party: PartyId, step: s.Step) -> None:
        self.result.ends[party] = step.state
        for packet in step.outbound:
            self.result.sent[party, kind_of(packet)] = packet

    def record(self, step: a.Step) -> None:
        self.aggregator = step.state
        for outbound in step.outbound:
            self.result.shown[outbound.receiver, kind_of(outbound.packet)] = outbound.packet

    def answer(self, message: type[m.Message], who: frozenset[PartyId]) -> None:
        self.result.aggregator[message] = self.aggregator
        for party in sorted(who):
            packet = self.result.sent[party, message]
            self.record(aggregator_task.receive(self.aggregator, packet))
        if who != self.everybody and message is m.Contribute:
            self.record(aggregator_task.advance(self.aggregator, a.RoundClosed()))

    def show(self, message: type[m.Message], who: frozenset[PartyId]) -> None:
        for party in sorted(who):
            state = self.result.party[party, message] = self.result.ends[party]
            self.take(party, party_task.receive(state, self.result.shown[party, message]))

    def happen(self, party: PartyId, event: s.Event) -> None:
        state = self.result.party[party, type(event)] = self.result.ends[party]
        self.take(party, party_task.advance(state, event))

    def run(self) -> None:
        for sent, shown in ((m.Advertise, m.Roster), (m.ShareKeys, m.RelayShares)):
            self.answer(sent, self.everybody)
            self.show(shown, self.everybody)
        self.answer(m.Confirm, self.everybody)
        self.show(m.Confirmed, self.everybody)
        plan = self.result.federation.plan
        elements = plan.upload_length(FIRST)
        for party in sorted(self.contributors):
            seeds = bytes([party]) * 32 if plan.is_encrypted else b""
            self.happen(party, s.Uploaded(elements, 1, bytes([party]) * 32, seeds))
        self.answer(m.Contribute, self.contributors)
        self.show(m.ProposeSurvivors, self.contributors)
        self.answer(m.ConfirmSurvivors, self.contributors)
        self.show(m.SurvivorsConfirmed, self.contributors)
        if plan.is_encrypted:
            self.open_encrypted()
        else:
            self.answer(m.Unmask, self.contributors)
        self.result.opening = self.aggregator
        merged = a.Merged(DIGEST, len(BUNDLE), bytes(32))
        self.record(aggregator_task.advance(self.aggregator, merged))
        self.show(m.Release, self.contributors)
        asked = self.result.federation.plan.is_voted(FIRST)
        for party in sorted(self.contributors):
            vote = self.result.votes.get(party, Vote.ACCEPT) if asked else Vote.NONE
            self.happen(party, s.UpdateFetched(DIGEST, vote))
        self.answer(m.VerifyUpdate, self.contributors)
        self.show(m.UpdateVerified, self.contributors)
        self.result.completed = self.aggregator

    def open_encrypted(self) -> None:
        plan, opener = self.result.federation.plan, min(self.contributors)
        self.result.summing = self.aggregator
        summed = a.Summed(DIGEST, offer_bytes(plan, FIRST, len(self.contributors)))
        self.record(aggregator_task.advance(self.aggregator, summed))
        self.show(m.OfferSum, frozenset({opener}))
        self.happen(opener, s.Uploaded(plan.statistics_length(FIRST), 1, bytes(32)))
        self.answer(m.SumOpened, frozenset({opener}))


def walk(
    *,
    contributors: frozenset[PartyId],
    seed: int = 0,
    count: int = 5,
    least: int | None = None,
    votes: Mapping[PartyId, Vote] | None = None,
    federation: TestFederation | None = None,
) -> Walk:
    """Walk all `count` parties to r3, then only `contributors`.

    With `least` the plan asks for as many accepting `votes`.
    """
    federation = federation or build_federation(count, votes=least)
    plan = federation.plan
    session_id = hashlib.sha256(f"session {seed}".encode()).digest()
    context = m.Context(plan.digest, session_id, FIRST, first_chain(plan.digest, session_id))
    result = Walk(federation, context, votes=votes or {})
    _Walker(result, contributors, seed).run()
    return result


_TYPES = {kind: message for message, kind in m.KINDS.items()}


def kind_of(packet: m.Packet) -> type[m.Message]:
    return _TYPES[packet.envelope.kind]


Alter = Callable[[PartyId, m.Packet], Iterable[m.Packet]]
"""What a party sends instead of this packet: nothing, another one, several."""


def honest(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
    del party
    return (packet,)


@dataclass
class Session:
    """All tasks of a plan around a real coordinator; refusals are kept, silence closes rounds.

    Attributes:
        alter: replaces what parties send.
        alter_frames: replaces what parties upload.
        alter_encoded: replaces what parties mask, any ring elements.
        watch: told of each party's state and of the coordinator after everything that happens.
    """

    federation: TestFederation
    directory: Path
    alter: Alter = honest
    alter_frames: Callable[[PartyId, list[bytes]], Iterable[bytes]] = lambda _party, frames: frames
    alter_encoded: Callable[[PartyId, RingArray], RingArray] = lambda _party, encoded: encoded
    watch: Callable[["Session"], None] = lambda _session: None
    randomness: Mapping[PartyId, Randomness] | None = None
    observer: Observer = lambda _event, _fields: None
    silent: frozenset[PartyId] = frozenset()
    vote: Callable[[PartyId], Vote] = lambda _party: Vote.ACCEPT
    recorder: Recorder | None = None
    states: dict[PartyId, s.State] = field(default_factory=dict)
    refusals: list[tuple[PartyId, CollabEditError]] = field(default_factory=list)
    sums: dict[TaskIndex, RingArray] = field(default_factory=dict)
    seen: list[bytes] = field(default_factory=list)
    """Every byte string that reached the aggregator."""
    encoded: dict[tuple[PartyId, TaskIndex], RingArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = (AGGREGATOR, *self.federation.plan.party_ids)
        self.randomness = self.randomness or {end: InsecureTestRandomness(end) for end in ends}
        self.coordinator = Coordinator(
            self.federation.plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory,
            randomness=self.randomness[AGGREGATOR],
            observer=self.observer,
            recorder=self.recorder,
        )
        self._cursors = dict.fromkeys(self.federation.plan.party_ids, 0)

    @property
    def context(self) -> m.Context:
        setup = self.coordinator._setup
        return setup.context

    def sign(self, party: PartyId, message: m.Message) -> m.Envelope:
        """Sign as `party` in the current task."""
        key = self.federation.identities[party]
        return sign_message(message, context=self.context, sender=party, key=key)

    def open_own(self, packet: m.Packet, message: type[T]) -> T:
        """Open what a party is about to send in the current task."""
        return open_envelope(
            packet.envelope,
            message,
            context=self.context,
            identities=self.federation.plan.identity,
        )

    def run(self) -> "Session":
        chain = first_chain(self.federation.plan.digest, self.coordinator.session_id)
        present = frozenset(self.federation.plan.party_ids) - self.silent
        for index in range(len(self.federation.plan.tasks)):
            task = TaskIndex(index)
            self._run_task(task, chain, present)
            if len(self.coordinator.records) <= index:
                break
            present = frozenset(
                party for party in present if isinstance(self.states[party], s.Completed)
            )
            chain = next_chain(chain, self.coordinator.records[index].update_digest)
        return self

    def _run_task(self, task: TaskIndex, chain: bytes, present: frozenset[PartyId]) -> None:
        plan, coordinator = self.federation.plan, self.coordinator
        context = m.Context(plan.digest, coordinator.session_id, task, chain)
        assert self.randomness is not None
        for party in sorted(present):
            self.encoded[party, task] = self.alter_encoded(
                party, plan_encoding(plan).encode(self.federation.contribute(party, task))
            )
            setup = s.TaskSetup(
                plan, context, party, self.federation.identities[party], self.randomness[party]
            )
            self._take(party, party_task.start_task(setup))
        while not coordinator.finished and coordinator.position[0] == task:
            self._settle(task, present)
            opened = coordinator.open_pending()
            if opened is not None:
                self.sums[task] = opened.total
                self.watch(self)
            elif coordinator.position[0] == task:
                coordinator.close_round()
        self._settle(task, present)

    def _settle(self, task: TaskIndex, present: frozenset[PartyId]) -> None:
        moved = True
        while moved:
            moved = False
            for party in sorted(present):
                for packet in self.coordinator.mailbox(party, cursor=self._cursors[party]):
                    self._cursors[party] += 1
                    if packet.envelope.context.task != task:
                        self._cursors[party] -= 1
                        break
                    moved = True
                    self._receive(party, packet)

    def _receive(self, party: PartyId, packet: m.Packet) -> None:
        try:
            self._take(party, party_task.receive(self.states[party], packet))
        except CollabEditError as error:
            self.refusals.append((party, error))
            return
        state = self.states[party]
        if isinstance(state, s.Contributing):
            self._upload(party, state)
        elif isinstance(state, s.FetchingUpdate):
            bundle = self.coordinator.bundle(state.setup.context.task)
            asked = self.federation.plan.is_voted(state.setup.context.task)
            vote = self.vote(party) if asked else Vote.NONE
            fetched = s.UpdateFetched(hashlib.sha256(bundle).digest(), vote)
            self._take(party, party_task.advance(state, fetched))

    def _upload(self, party: PartyId, state: s.Contributing) -> None:
        task = state.setup.context.task
        encoded = self.encoded[party, task]
        upload = masked_upload(self.federation.plan, task, encoded, state.masks)
        for frame in self.alter_frames(party, list(upload.frames())):
            self.seen.append(frame)
            try:
                self.coordinator.put_frame(party, task, frame)
            except CollabEditError as error:
                self.refusals.append((party, error))
        self.watch(self)
        self._take(party, party_task.advance(state, upload.uploaded()))

    def _take(self, party: PartyId, step: s.Step) -> None:
        self.states[party] = step.state
        for packet in step.outbound:
            for altered in self.alter(party, packet):
                self.deliver(altered)
        self.watch(self)

    def deliver(self, packet: m.Packet) -> None:
        """Hand a packet in over the codec; a refusal is kept with the sender that it names."""
        data = encode_packet(packet)
        self.seen.append(data)
        try:
            self.coordinator.deliver(decode_packet(data))
        except CollabEditError as error:
            self.refusals.append((packet.envelope.sender, error))

    @property
    def survivors(self) -> frozenset[PartyId]:
        return self.coordinator.records[0].survivors

    def reasons(self, party: int) -> list[AbortReason | str]:
        """Why messages of a party were refused, as reasons or as names of exceptions."""
        return [
            getattr(error, "reason", type(error).__name__)
            for sender, error in self.refusals
            if sender == party
        ]


def instead_of(
    liar: int, message: type, make: Callable[[m.Packet], m.Packet | Iterable[m.Packet]]
) -> Alter:
    """Let one party send something else instead of one of its messages."""

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        if party != liar or kind_of(packet) is not message:
            return (packet,)
        made = make(packet)
        return (made,) if isinstance(made, m.Packet) else made

    return alter
