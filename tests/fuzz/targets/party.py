"""A party's machine against an aggregator that signs whatever it likes, parties colluding with it.

The first byte chooses a state that an honest walk reached. Every further step shows the party the
honest next packet, an altered one, or lets its own driver act.
"""

import dataclasses
import functools

from collabedit.errors import (
    AbortReason,
    InvalidSignatureError,
    MalformedMessageError,
    UnexpectedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import states as s
from collabedit.party.task import advance, receive
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, decode_packet, encode_packet
from collabedit.proto.envelope import open_envelope
from tests.fuzz.choices import Choices
from tests.fuzz.forger import Forger
from tests.fuzz.scene import HONEST, ROUNDS, Scene, as_it_was, scenes, with_field
from tests.protocol.stage import DIGEST, fingerprint

MAXIMUM_STEPS = 10
WAITS: dict[type[s.State], type[m.Message]] = {
    s.AwaitingRoster: m.Roster,
    s.AwaitingShares: m.RelayShares,
    s.AwaitingConfirmations: m.Confirmed,
    s.AwaitingSurvivors: m.ProposeSurvivors,
    s.AwaitingSurvivorConfirmations: m.SurvivorsConfirmed,
    s.AwaitingRelease: m.Release,
    s.AwaitingVerification: m.UpdateVerified,
}
HONEST_STEP, OTHER_PACKET, EVENT = 0, 6, 7
"""Kinds of step, of 8; all others alter the packet that is due."""


@functools.cache
def starts() -> tuple[tuple[Scene, s.State], ...]:
    """List every state of the honest party, in both scenes."""
    return tuple(
        (scene, state)
        for scene in scenes()
        for (party, _), state in scene.walk.party.items()
        if party == HONEST
    )


class Party:
    """The machine under test, with everything it ever sent, checked after each step."""

    def __init__(self, scene: Scene, state: s.State) -> None:
        self.scene = scene
        self.state = state
        self.unmaskings: list[m.Unmask] = []
        self.said: dict[int, m.Envelope] = {}

    def due(self, shown: type[m.Message]) -> m.Packet:
        """Return the walk's packet, with what this party said in this execution in its lists."""
        walk = self.scene.walk
        packet = walk.shown[HONEST, shown]
        message = decode_body(packet.envelope.kind, packet.envelope.body)
        for field in dataclasses.fields(message):
            listed = getattr(message, field.name)
            if not isinstance(listed, tuple):
                continue
            now = tuple(self.said.get(e.kind, e) if e.sender == HONEST else e for e in listed)
            if now != listed:
                envelope = walk.sign(with_field(message, field.name, now))
                return m.Packet(envelope, packet.attachments)
        return packet

    def show(self, packet: m.Packet, *, guilty: set[PartyId]) -> None:
        try:
            arrived = decode_packet(encode_packet(packet))
        except (MalformedMessageError, ValueError):
            return  # no packet of the wire; the codec's own target covers that
        before, state = fingerprint(self.state), self.state
        try:
            step = receive(self.state, arrived)
        except (UnexpectedMessageError, InvalidSignatureError, MalformedMessageError):
            assert fingerprint(state) == before, "a refused packet changed the state"
            return
        assert fingerprint(state) == before, "a state changed in place"
        ended = arrived.envelope.kind == m.KINDS[m.Abort]
        self._take(step, guilty=guilty, silent=ended)

    def happen(self, event: s.Event) -> None:
        before, state = fingerprint(self.state), self.state
        try:
            step = advance(self.state, event)
        except UnexpectedMessageError:
            assert fingerprint(state) == before, "a refused event changed the state"
            return
        assert fingerprint(state) == before, "a state changed in place"
        self._take(step, guilty={AGGREGATOR, HONEST}, silent=False)

    def _take(self, step: s.Step, *, guilty: set[PartyId], silent: bool) -> None:
        before, self.state = self.state, step.state
        plan = self.scene.walk.federation.plan
        for packet in step.outbound:
            assert decode_packet(encode_packet(packet)) == packet
            assert packet.envelope.sender == HONEST
            self.said[packet.envelope.kind] = packet.envelope
            self._sent(before, packet)
        if isinstance(step.state, s.Aborted):
            self._check_end(step, guilty=guilty, silent=silent)
        if isinstance(step.state, s.AwaitingSurvivorConfirmations | s.AwaitingRelease):
            assert len(step.state.survivors) >= plan.threshold
            assert HONEST in step.state.survivors
        if isinstance(step.state, s.Completed):
            assert isinstance(before, s.AwaitingVerification)
            assert step.state.update_digest == before.update_digest

    def _sent(self, before: s.State, packet: m.Packet) -> None:
        walk = self.scene.walk
        if packet.envelope.kind != m.KINDS[m.Unmask]:
            return
        message = open_envelope(
            packet.envelope,
            m.Unmask,
            context=walk.context,
            identities=walk.federation.plan.identity,
        )
        self.unmaskings.append(message)
        assert len(self.unmaskings) == 1, "a second unmasking in one task"
        assert isinstance(before, s.AwaitingSurvivorConfirmations)
        assert message.shares.keys() == before.shares.keys()
        for owner, share in message.shares.items():
            held = before.shares[owner]
            if owner in before.survivors:
                assert share == m.SelfMaskShare(held.self_mask)
            else:
                assert share == m.MaskKeyShare(held.mask_key)

    def _check_end(self, step: s.Step, *, guilty: set[PartyId], silent: bool) -> None:
        state, walk = step.state, self.scene.walk
        assert isinstance(state, s.Aborted)
        assert state.reason in set(AbortReason)
        assert state.detail
        if silent:
            assert not step.outbound
            return
        (packet,) = step.outbound
        farewell = open_envelope(
            packet.envelope, m.Abort, context=walk.context, identities=walk.federation.plan.identity
        )
        assert farewell == m.Abort(state.reason, state.culprit)
        assert state.reason is not AbortReason.INTERNAL, "a refusal without a reason of its own"
        assert state.culprit is None or state.culprit in guilty, (
            f"{state.reason.name} blames party {state.culprit}, who said nothing wrong"
        )


def run(data: bytes) -> None:
    """Play one script."""
    choices = Choices(data)
    scene, state = choices.pick(starts())
    party = Party(scene, as_it_was(state))
    forger = Forger(choices, scene)
    forger.guilty.add(AGGREGATOR)
    for _ in range(MAXIMUM_STEPS):
        if choices.is_exhausted or isinstance(party.state, s.Completed | s.Aborted):
            break
        _step(choices, party, forger)


def _step(choices: Choices, party: Party, forger: Forger) -> None:
    action = choices.below(8)
    due = WAITS.get(type(party.state))
    if action == EVENT or (due is None and action != OTHER_PACKET):
        party.happen(_event(choices, party.state))
        return
    if due is None or action == OTHER_PACKET:
        due = choices.pick([shown for _, shown in ROUNDS])
    packet = party.due(due)
    if action != HONEST_STEP:
        packet = forger.packet(packet, signer=AGGREGATOR)
    party.show(packet, guilty=forger.guilty)


def _event(choices: Choices, state: s.State) -> s.Event:
    kind = choices.below(6)
    if kind == 5:
        return s.LeaveSession(choices.pick([r for r in AbortReason if r.name != "INTERNAL"]))
    if isinstance(state, s.FetchingUpdate) or kind == 4:
        return s.UpdateFetched(choices.take(32) if kind == 3 else DIGEST)
    assert not isinstance(state, s.Completed | s.Aborted)
    elements = state.setup.plan.task_length(state.setup.context.task) if kind < 3 else 7
    return s.Uploaded(elements, 1, bytes([HONEST]) * 32)


def seeds() -> dict[str, bytes]:
    """Return every state finished honestly, and one alteration of each kind in each state."""
    made = {f"honest-{start:02}": bytes([start, *[0] * 24]) for start in range(len(starts()))}
    for start in range(len(starts()) // 2):
        for kind in range(9):
            how = (4, 0, 2)[kind % 3]  # an entry altered, left out, swapped
            made[f"altered-{start:02}-{kind}"] = bytes([start, 1, 0, kind, 0, how, 1, 0, 1, 1])
    # Another roster than the others have, then their honest answers without the one left out.
    made["another-roster"] = bytes([0, 1, 0, 7, 3, 1, 0, 7, 3])
    return made
