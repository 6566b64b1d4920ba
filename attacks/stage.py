"""A federation in which sessions of the deployed machines run, to be lied in.

For attacks that act: a lying aggregator, or a malicious party. A play is one session of
`simulation`; the attack may alter what one of its adversary's ends sends, and may show any machine
something else first: a machine is a pure function, so what it would have answered is told, and the
session goes on as if it had not been asked. All keys are on the stage, since honest ends act, too;
an attack signs by `sign` as the aggregator alone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from collabedit.acceptance import Vote
from collabedit.aggregator import task as aggregator_task
from collabedit.aggregator.states import Aborted as AggregatorAborted
from collabedit.attacks.claims import Attempt
from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.ring import to_bytes
from collabedit.crypto.rng import Randomness, SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import CollabEditError, CryptoError, ProtocolError
from collabedit.exchange import plan_encoding, statistics_vector
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.party.closing import Statistics, statistics_to_bytes
from collabedit.party.cover import with_cover
from collabedit.plan import Plan
from collabedit.proto.codec import decode_packet
from collabedit.proto.envelope import first_chain, sign_message
from collabedit.proto.messages import KINDS, Context, Envelope, Message, Packet
from collabedit.recording import Delivery
from collabedit.simulation import Contribute, Outcome, Simulation
from collabedit.sketch import LowRankUpdate

Edits: TypeAlias = Callable[[PartyId, TaskIndex], Statistics]
"""A party's K̃ and R of each layer of a task."""

Voting: TypeAlias = Callable[[PartyId, Mapping[LayerIndex, LowRankUpdate]], Vote]

MESSAGES = {kind: message.__name__ for message, kind in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Moment:
    """A packet that is about to be shown to a machine.

    Attributes:
        receiver: whose machine.
        packet: what an honest session shows it.
    """

    receiver: PartyId
    packet: Packet

    @property
    def envelope(self) -> Envelope:
        """The statement."""
        return self.packet.envelope

    @property
    def message(self) -> str:
        """Name of its kind."""
        return MESSAGES[self.envelope.kind]


Tries: TypeAlias = Callable[[Moment], Iterable[tuple[str, Packet]]]
"""Gives what to show a machine instead, each with a label."""


@dataclass(frozen=True, slots=True)
class Played:
    """One session on the stage.

    Attributes:
        outcome: how it ended.
        tried: each label, with what refused it; None if the machine took it.
    """

    outcome: Outcome
    tried: tuple[tuple[str, str | None], ...]

    def attempts(self) -> tuple[Attempt, ...]:
        """Return one attempt for each label: it succeeded if any machine took it."""
        by_label: dict[str, list[str | None]] = {}
        for label, said in self.tried:
            by_label.setdefault(label, []).append(said)
        return tuple(
            Attempt(
                label,
                succeeded=None in said,
                outcome="taken" if None in said else ", ".join(sorted({*map(str, said)})),
            )
            for label, said in by_label.items()
        )


def refusal_of(answer: Callable[[], object]) -> str | None:
    """Name what a machine refuses by: an abort reason, else the kind of error; None if by nothing.

    Args:
        answer: asks the machine.
    """
    try:
        state = getattr(answer(), "state", None)
    except (CryptoError, ProtocolError) as error:
        return name_of(error)
    return state.reason.name if isinstance(state, s.Aborted | AggregatorAborted) else None


def name_of(error: CollabEditError) -> str:
    """Name an error by its abort reason, or else by its kind."""
    reason = getattr(error, "reason", None)
    return type(error).__name__ if reason is None else str(reason.name)


def _nothing(moment: Moment) -> Iterable[tuple[str, Packet]]:
    del moment
    return ()


def _as_it_is(delivery: Delivery) -> Delivery:
    return delivery


def _system(play: int, end: PartyId) -> Randomness:
    del play, end
    return SystemRandomness()


@dataclass(frozen=True, slots=True)
class Stage:
    """Where an attack that acts runs sessions.

    Attributes:
        plan: public.
        identities: of every end, the aggregator under 0.
        edits: what the honest parties bring.
        directory: for the aggregator's files.
        vote: of the honest parties, if the plan asks for votes.
        randomness: of an end in a play, counted from 0; seeded for audits that are repeated.
    """

    plan: Plan
    identities: Mapping[PartyId, SigningKey] = field(repr=False)
    edits: Edits = field(repr=False)
    directory: Path
    vote: Voting = field(default=lambda _party, _updates: Vote.ACCEPT, repr=False)
    randomness: Callable[[int, PartyId], Randomness] = field(default=_system, repr=False)

    def sign(self, message: Message, context: Context) -> Envelope:
        """Sign as the aggregator."""
        return sign_message(
            message, context=context, sender=AGGREGATOR, key=self.identities[AGGREGATOR]
        )

    def begin(self, party: PartyId, plan: Plan, session_id: bytes) -> s.Step:
        """Return what an honest party begins a session with that was handed this plan."""
        context = Context(
            plan.digest, session_id, TaskIndex(0), first_chain(plan.digest, session_id)
        )
        setup = s.TaskSetup(
            plan, context, party, self.identities[party], self.randomness(-1, party)
        )
        return party_task.start_task(setup)

    def play(
        self,
        number: int,
        *,
        edits: Edits | None = None,
        unchecked: frozenset[PartyId] = frozenset(),
        tries: Tries = _nothing,
        sends: Callable[[Delivery], Delivery] = _as_it_is,
    ) -> Played:
        """Run one session.

        Args:
            number: of the play, for its randomness.
            edits: what is brought instead.
            unchecked: parties whose software does not hold their own edits against the plan.
            tries: what else machines are shown.
            sends: alters what parties send before it arrives.
        """
        session = _Play(self, number, unchecked=unchecked, tries=tries, sends=sends)
        chosen: Contribute = self.edits if edits is None else edits
        outcome = session.run(chosen, vote=self.vote)
        return Played(outcome, tuple(session.tried))


class _Play(Simulation):
    """A simulation whose machines are asked beside the course of the session."""

    def __init__(
        self,
        stage: Stage,
        number: int,
        *,
        unchecked: frozenset[PartyId],
        tries: Tries,
        sends: Callable[[Delivery], Delivery],
    ) -> None:
        plan = stage.plan
        super().__init__(
            plan,
            identities=stage.identities,
            directory=stage.directory / f"play-{number}",
            randomness={
                end: stage.randomness(number, end) for end in (AGGREGATOR, *plan.party_ids)
            },
        )
        self._unchecked = unchecked
        self._tries = tries
        self._sends = sends
        self.tried: list[tuple[str, str | None]] = []

    def _bring(self, party: PartyId, task: TaskIndex, contribute: Contribute) -> bytes | memoryview:
        if party not in self._unchecked or self._plan.counting(task) is not None:
            return super()._bring(party, task, contribute)
        statistics = contribute(party, task)
        if isinstance(statistics, np.ndarray):
            return super()._bring(party, task, contribute)
        randomness = self._randomness[party]
        statistics = with_cover(self._plan, statistics, randomness)
        if self._plan.closed is not None:
            seed = randomness.random_bytes(SECRET_BYTES) if self._plan.decoys else b""
            return seed + statistics_to_bytes(statistics)
        vector = statistics_vector(self._plan, task, statistics)
        return to_bytes(plan_encoding(self._plan).encode(vector))

    def _send(self, delivery: Delivery) -> None:
        sent = delivery if delivery.sender == AGGREGATOR else self._sends(delivery)
        super()._send(sent)

    def _to_aggregator(self, delivery: Delivery) -> None:
        if delivery.kind == "packet":
            state = self.coordinator.state
            for label, packet in self._tries(Moment(AGGREGATOR, decode_packet(delivery.data))):
                answer = partial(aggregator_task.receive, state, packet)
                self.tried.append((label, refusal_of(answer)))
        super()._to_aggregator(delivery)

    def _to_party(self, delivery: Delivery, brought: Mapping[PartyId, bytes | memoryview]) -> None:
        simulated = self._parties.get(delivery.receiver)
        if simulated is not None:
            for label, packet in self._tries(
                Moment(delivery.receiver, decode_packet(delivery.data))
            ):
                answer = partial(party_task.receive, simulated.state, packet)
                self.tried.append((label, refusal_of(answer)))
        super()._to_party(delivery, brought)
