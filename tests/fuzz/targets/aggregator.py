"""The aggregator's machine against parties that sign whatever they like, one honest among them.

The first byte chooses a round that an honest walk reached. Every further step delivers an honest
answer, an altered one, or lets the driver act. The honest party is a live machine: what the
aggregator sends must never make it blame the aggregator or somebody who kept to the rules, and
what it answers must be taken whenever an answer of it is due.
"""

import functools
from collections.abc import Mapping

from collabedit.aggregator import states as a
from collabedit.aggregator.rounds import expected, waiting_for
from collabedit.aggregator.task import advance, receive
from collabedit.crypto.ring import Ring
from collabedit.errors import (
    AbortReason,
    InvalidSignatureError,
    MalformedMessageError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.statements import RefusalError
from tests.fuzz.choices import Choices
from tests.fuzz.forger import Forger
from tests.fuzz.scene import ANSWERS, HONEST, ROUNDS, Scene, as_it_was, scenes
from tests.protocol.stage import BUNDLE, DIGEST, fingerprint

MAXIMUM_STEPS = 14
COLLECTS: dict[type[a.State], type[m.Message]] = {
    a.CollectingAdvertisements: m.Advertise,
    a.CollectingShares: m.ShareKeys,
    a.CollectingConfirmations: m.Confirm,
    a.CollectingContributions: m.Contribute,
    a.CollectingSurvivorConfirmations: m.ConfirmSurvivors,
    a.CollectingUnmaskings: m.Unmask,
    a.CollectingVerifications: m.VerifyUpdate,
}
NEXT_HONEST, ONE_HONEST, OTHER_MESSAGE, LEAVES, EVENT = 0, 1, 5, 6, 7
"""Kinds of step, of 8; all others alter the answer that is due."""


@functools.cache
def starts() -> tuple[tuple[Scene, type[m.Message], a.State], ...]:
    """List the states before anybody answered, and the one with a sum to open, in both scenes."""
    found = []
    for scene in scenes():
        found += [(scene, kind, state) for kind, state in scene.walk.aggregator.items()]
        assert scene.walk.opening is not None
        found.append((scene, m.Release, scene.walk.opening))
    return tuple(found)


def mask_bytes(state: a.Opening) -> list[tuple[int, bytes]]:
    """Return enough of each mask to tell it from every other."""
    return [
        (mask.sign, mask.keystream.tile(0, 2, Ring.from_bits(64)).tobytes()) for mask in state.masks
    ]


class Aggregator:
    """The machine under test and the honest party, checked after each step."""

    def __init__(self, scene: Scene, before: type[m.Message], state: a.State) -> None:
        walk = scene.walk
        self.scene = scene
        self.state = state
        self.guilty: set[PartyId] = set()
        shown = ANSWERS.get(before, m.Release)
        self.honest: s.State = as_it_was(walk.state(HONEST, shown))
        sent = walk.sent.get((HONEST, before))
        self.pending = [sent] if sent else []

    def answer_honestly(self) -> None:
        """Deliver what the honest party has to say."""
        if not self.pending:
            return
        packet = self.pending.pop(0)
        due = HONEST in waiting_for(self.state)
        error = self.deliver(packet)
        farewell = packet.envelope.kind == m.KINDS[m.Abort]
        assert error is None or not due or farewell, f"an honest answer is refused: {error}"

    def deliver(self, packet: m.Packet) -> Exception | None:
        try:
            arrived = decode_packet(encode_packet(packet))
        except (MalformedMessageError, ValueError) as error:
            return error  # no packet of the wire; the codec's own target covers that
        before, state = fingerprint(self.state), self.state
        sender = arrived.envelope.sender
        try:
            step = receive(self.state, arrived)
        except (UnexpectedMessageError, InvalidSignatureError, MalformedMessageError) as error:
            assert fingerprint(state) == before, "a refused packet changed the state"
            return error
        except RefusalError as error:
            assert fingerprint(state) == before, "a refused packet changed the state"
            assert error.culprit == sender
            assert error.reason is not AbortReason.INTERNAL
            return error
        assert fingerprint(state) == before, "a state changed in place"
        if arrived.envelope.kind != m.KINDS[m.Abort]:
            assert not isinstance(state, a.Summing | a.Opening | a.Completed | a.Aborted)
            assert sender in expected(state)
            assert sender not in state.answers, "a second answer was taken"
        self._take(step)
        return None

    def happen(self, event: a.Event) -> None:
        before, state = fingerprint(self.state), self.state
        try:
            step = advance(self.state, event)
        except UnexpectedMessageError:
            assert fingerprint(state) == before, "a refused event changed the state"
            return
        assert fingerprint(state) == before, "a state changed in place"
        self._take(step)

    def _take(self, step: a.Step) -> None:
        before, self.state = self.state, step.state
        threshold = self.scene.walk.federation.plan.threshold
        assert not isinstance(before, a.Completed | a.Aborted)
        if type(step.state) is type(before):
            self._check_same_round(before, step.state)
        elif isinstance(step.state, a.Aborted):
            assert step.state.reason in set(AbortReason)
            assert step.state.reason is not AbortReason.INTERNAL
            assert step.state.detail
            assert all(kind_of(o.packet) == m.KINDS[m.Abort] for o in step.outbound)
        elif isinstance(before, a.Opening):
            assert isinstance(step.state, a.CollectingVerifications)
        else:
            # The one who made the round end has answered in it, unless the round ended without.
            count = len(
                {o.receiver for o in step.outbound if kind_of(o.packet) != m.KINDS[m.Abort]}
            )
            assert count >= threshold or isinstance(step.state, a.Opening | a.Completed)
        if isinstance(step.state, a.Opening) and not isinstance(before, a.Opening):
            self._check_opening(before, step.state)
        for outbound in step.outbound:
            assert decode_packet(encode_packet(outbound.packet)) == outbound.packet
            assert outbound.packet.envelope.sender == AGGREGATOR
            if outbound.receiver == HONEST:
                self._show(outbound.packet)

    @staticmethod
    def _check_same_round(before: a.State, after: a.State) -> None:
        if isinstance(before, a.Summing | a.Opening) or isinstance(after, a.Summing | a.Opening):
            return
        assert not isinstance(before, a.Completed | a.Aborted)
        assert not isinstance(after, a.Completed | a.Aborted)
        kept = {party: after.answers[party] for party in before.answers}
        assert kept == dict(before.answers), "an answer was replaced or lost"
        assert len(after.answers) <= len(before.answers) + 1

    def _check_opening(self, before: a.State, state: a.Opening) -> None:
        threshold = self.scene.walk.federation.plan.threshold
        assert isinstance(before, a.CollectingUnmaskings)
        assert len(state.awaiting) >= threshold, "a sum is opened with too few unmaskings"
        assert len(state.survivors) >= threshold
        assert state.awaiting <= before.confirmed <= before.survivors == state.survivors
        walked = self.scene.walk.aggregator[m.Unmask]
        opening = self.scene.walk.opening
        assert isinstance(walked, a.CollectingUnmaskings)
        assert isinstance(opening, a.Opening)
        if (before.roster, before.sharers, before.survivors) == (
            walked.roster,
            walked.sharers,
            walked.survivors,
        ):
            # Keys, commitments and survivors fix the masks; lies about shares cannot change them.
            assert mask_bytes(state) == mask_bytes(opening)

    def _show(self, packet: m.Packet) -> None:
        if isinstance(self.honest, s.Completed | s.Aborted):
            return
        self._live(party_task.receive(self.honest, packet))
        if isinstance(self.honest, s.Contributing):
            plan = self.scene.walk.federation.plan
            elements = plan.task_length(self.honest.setup.context.task)
            uploaded = s.Uploaded(elements, 1, bytes([HONEST]) * 32)
            self._live(party_task.advance(self.honest, uploaded))
        elif isinstance(self.honest, s.FetchingUpdate):
            self._live(party_task.advance(self.honest, s.UpdateFetched(DIGEST)))

    def _live(self, step: s.Step) -> None:
        self.honest = step.state
        self.pending += step.outbound
        if isinstance(step.state, s.Aborted):
            own = {HONEST} if step.state.reason is AbortReason.TIMEOUT else set()
            assert step.state.culprit is None or step.state.culprit in self.guilty | own, (
                f"{step.state.detail}: blames party {step.state.culprit}"
            )


def kind_of(packet: m.Packet) -> int:
    return packet.envelope.kind


def run(data: bytes) -> None:
    """Play one script."""
    choices = Choices(data)
    scene, before, state = choices.pick(starts())
    aggregator = Aggregator(scene, before, state)
    forger = Forger(choices, scene)
    aggregator.guilty = forger.guilty
    for _ in range(MAXIMUM_STEPS):
        if choices.is_exhausted or isinstance(aggregator.state, a.Completed | a.Aborted):
            break
        _step(choices, aggregator, forger)


def _answers(sent: Mapping[tuple[PartyId, type], m.Packet], kind: type) -> list[m.Packet]:
    return [packet for (_, message), packet in sent.items() if message is kind]


def _step(choices: Choices, aggregator: Aggregator, forger: Forger) -> None:
    walk = aggregator.scene.walk
    action = choices.below(8)
    due = COLLECTS.get(type(aggregator.state))
    if action == EVENT or (due is None and action not in {OTHER_MESSAGE, LEAVES}):
        aggregator.happen(_event(choices))
        return
    if action == LEAVES:
        party = PartyId(2 + choices.below(walk.federation.plan.party_ids[-1] - 1))
        abort = m.Abort(choices.pick(tuple(AbortReason)), None)
        aggregator.deliver(walk.packet(abort, sender=party))
        return
    if due is None or action == OTHER_MESSAGE:
        due = choices.pick([sent for sent, _ in ROUNDS])
    packets = _answers(walk.sent, due)
    if action == NEXT_HONEST:
        waited = waiting_for(aggregator.state)
        packets = [p for p in packets if p.envelope.sender in waited] or packets
        packet = packets[0]
    else:
        packet = choices.pick(packets)
    if packet.envelope.sender == HONEST:
        aggregator.answer_honestly()
    elif action in {NEXT_HONEST, ONE_HONEST}:
        aggregator.deliver(packet)
    else:
        forged = forger.packet(packet, signer=packet.envelope.sender)
        # Whoever is connected must be the sender: nobody gets the honest party's packets through.
        if forged.envelope.sender != HONEST:
            aggregator.deliver(forged)


def _event(choices: Choices) -> a.Event:
    match choices.below(4):
        case 0:
            return a.Merged(DIGEST, len(BUNDLE), bytes(32))
        case 1:
            return a.MergeRefused("the sums do not allow a merge")
        case _:
            return a.RoundClosed()


def seeds() -> dict[str, bytes]:
    """Return every round finished honestly, and one alteration of each kind in each round."""
    made = {f"honest-{start:02}": bytes([start, *[0] * 14]) for start in range(len(starts()))}
    for start in range(len(starts())):
        script = (2, 1, 0, start % 9, 0, 0, 4, 1, 0, 0, 7, 3)
        made[f"altered-{start:02}"] = bytes([start, *script])
        made[f"closed-{start:02}"] = bytes([start, 0, 0, 0, 7, 3, 0, 0, 0, 7, 3])
        made[f"left-{start:02}"] = bytes([start, 0, 0, 6, 1, 18, 0, 0, 0, 0])
    return made
