"""A whole coordinator: packets and frames of lying parties, long polls, closed rounds, openings.

The first byte chooses how many of an honest session's deliveries come first. Parties may sign
what they like; what is opened must still be the sum of what the survivors uploaded.
"""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collabedit.aggregator import states as a
from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.ring import RingArray
from collabedit.errors import (
    AbortReason,
    InvalidSignatureError,
    MalformedMessageError,
    SessionAbortedError,
    UnexpectedMessageError,
)
from collabedit.exchange import (
    FRAME_HEADER,
    FRAME_OVERHEAD,
    TileLayout,
    _frame_digest,
    decode_bundle,
    encode_bundle,
    tiles_root,
)
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.statements import RefusalError
from tests.fuzz.choices import Choices
from tests.fuzz.forger import Forger
from tests.fuzz.scene import HONEST, PARTIES, Scene, scenes
from tests.fuzz.targets.aggregator import mask_bytes
from tests.protocol.stage import FIRST, Session, Walk
from tests.support.federations import build_federation
from tests.support.randomness import InsecureTestRandomness

MAXIMUM_STEPS = 8
NEXT, ALTERED, FRAME, OTHER, CLOSE, OPEN, POLL, JOIN = range(8)
REFUSALS = (RefusalError, InvalidSignatureError, MalformedMessageError, UnexpectedMessageError)

Delivery = m.Packet | tuple[PartyId, bytes] | None
"""A packet, a frame of a party, or None where the sum is opened."""


@dataclass(frozen=True)
class Recording:
    """What reached the coordinator in an honest session, in order.

    Attributes:
        scene: what a forger may use in it.
        opening: the state with everything to open the sum.
        total: what was opened.
    """

    scene: Scene
    deliveries: tuple[Delivery, ...]
    opening: a.Opening
    total: RingArray


class _Recorder:
    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.opening: a.Opening | None = None

    def packet(self, party: PartyId, sent: m.Packet) -> tuple[m.Packet]:
        del party
        self.deliveries.append(sent)
        return (sent,)

    def frames(self, party: PartyId, sent: list[bytes]) -> list[bytes]:
        self.deliveries += [(party, frame) for frame in sent]
        return sent

    def watch(self, session: Session) -> None:
        state = session.coordinator.state
        if isinstance(state, a.Opening):
            self.opening = state
        if session.sums and None not in self.deliveries:
            self.deliveries.append(None)


@functools.cache
def recording() -> Recording:
    federation = build_federation(PARTIES)
    recorder = _Recorder()
    with tempfile.TemporaryDirectory() as directory:
        session = Session(
            federation,
            Path(directory),
            alter=recorder.packet,
            alter_frames=recorder.frames,
            watch=recorder.watch,
        )
        context = session.context
        session.run()
    assert session.survivors == frozenset(federation.plan.party_ids)
    assert recorder.opening is not None
    sent = [d.envelope for d in recorder.deliveries if isinstance(d, m.Packet)]
    keys = {}
    for party in federation.plan.party_ids:
        randomness = InsecureTestRandomness(party)
        AgreementKey.generate(randomness)  # r0 draws the mask key first
        keys[party] = AgreementKey.generate(randomness)
    scene = Scene(Walk(federation, context), (*sent, *scenes()[0].pool), keys)
    return Recording(scene, tuple(recorder.deliveries), recorder.opening, session.sums[FIRST])


@functools.cache
def _spool() -> tempfile.TemporaryDirectory[str]:
    memory = Path("/dev/shm")  # noqa: S108  a place, the directory in it has a random name
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None)


class Stand:
    """The coordinator under test, checked after each step."""

    def __init__(self) -> None:
        self.recording = recording()
        federation = self.recording.scene.walk.federation
        self.plan = federation.plan
        self.coordinator = Coordinator(
            self.plan,
            federation.identities[AGGREGATOR],
            directory=Path(_spool().name),
            randomness=InsecureTestRandomness(AGGREGATOR),
        )
        self.accepted: list[m.Packet] = []
        self.stored: dict[tuple[PartyId, int], bytes] = {}
        self.has_altered_frame = False
        self.openings = 0

    def replay(self, deliveries: tuple[Delivery, ...]) -> None:
        """Come to a place in the honest session."""
        for delivery in deliveries:
            if delivery is None:
                self.open()
            elif isinstance(delivery, m.Packet):
                self.coordinator.deliver(delivery)
                self.accepted.append(delivery)
            else:
                party, frame = delivery
                self.stored[party, self.coordinator.put_frame(party, FIRST, frame)] = frame

    def deliver(self, packet: m.Packet) -> None:
        try:
            arrived = decode_packet(encode_packet(packet))
        except (MalformedMessageError, ValueError):
            return  # no packet of the wire; the codec's own target covers that
        state, before = self.coordinator.state, self._outside()
        try:
            self.coordinator.deliver(arrived)
        except REFUSALS as error:
            assert self._outside() == before, "a refused packet changed the session"
            if isinstance(error, RefusalError):
                assert error.culprit == arrived.envelope.sender
            return
        if any(arrived.envelope.signature == p.envelope.signature for p in self.accepted):
            assert self._outside() == before, "a repeated packet changed the session"
            return
        self.accepted.append(arrived)
        assert not isinstance(state, a.Completed | a.Aborted)
        if arrived.envelope.kind != m.KINDS[m.Abort]:
            assert not isinstance(state, a.Summing | a.Opening)
            assert arrived.envelope.sender not in state.answers, "a second answer was taken"
        self._check()

    def put_frame(self, party: PartyId, frame: bytes) -> None:
        before = self._outside()
        try:
            index = self.coordinator.put_frame(party, FIRST, frame)
        except (MalformedMessageError, UnexpectedMessageError):
            return
        finally:
            assert self._outside() == before, "a frame changed the session"
        known = self.stored.setdefault((party, index), frame)
        assert known == frame, "a stored tile was replaced"
        if (party, frame) not in self.recording.deliveries:
            self.has_altered_frame = True

    def root(self, party: PartyId) -> bytes | None:
        """Return the root of what a party uploaded, None while a tile is missing."""
        tiles = range(TileLayout.of(self.plan, FIRST).tiles)
        frames = [self.stored.get((party, index)) for index in tiles]
        if any(frame is None for frame in frames):
            return None
        return tiles_root(frame[FRAME_HEADER.size : FRAME_OVERHEAD] for frame in frames if frame)

    def close(self) -> None:
        state = self.coordinator.state
        self.coordinator.close_round()
        if isinstance(state, a.Opening | a.Completed | a.Aborted):
            assert self.coordinator.state is state
        self._check()

    def open(self) -> None:
        state = self.coordinator.state
        opened = self.coordinator.open_pending()
        if opened is None:
            ended = isinstance(self.coordinator.state, a.Aborted)
            assert self.coordinator.state is state or (isinstance(state, a.Opening) and ended)
            return
        assert isinstance(state, a.Opening)
        self.openings += 1
        assert self.openings == 1, "one task was opened twice"
        assert len(state.survivors) >= self.plan.threshold
        assert len(state.awaiting) >= self.plan.threshold
        bundle = self.coordinator.bundle(FIRST)
        assert encode_bundle(decode_bundle(self.plan, FIRST, bundle)) == bundle
        if not self.has_altered_frame and mask_bytes(state) == mask_bytes(self.recording.opening):
            np.testing.assert_array_equal(opened.total, self.recording.total)
        self._check()

    def poll(self, party: PartyId, cursor: int) -> None:
        everything = self.coordinator.mailbox(party, cursor=0)
        try:
            packets = self.coordinator.mailbox(party, cursor=cursor)
        except MalformedMessageError:
            assert cursor > len(everything)
            return
        assert packets == everything[cursor:]

    def join(self, packet: m.Packet) -> None:
        before = self._outside()
        try:
            answer = self.coordinator.welcome(decode_packet(encode_packet(packet)))
        except (*REFUSALS, ValueError):
            return
        finally:
            assert self._outside() == before, "joining changed the task"
        assert answer.envelope.kind == m.KINDS[m.Welcome]
        assert packet.envelope.sender in self.plan.party_ids

    def _outside(self) -> object:
        counts = [len(self.coordinator.mailbox(p, cursor=0)) for p in self.plan.party_ids]
        records = len(self.coordinator.records)
        # States are frozen, which the aggregator's own target checks: the same one is unchanged.
        return id(self.coordinator.state), counts, records, self.coordinator.position

    def _check(self) -> None:
        state = self.coordinator.state
        if isinstance(state, a.Aborted):
            assert self.coordinator.finished
            assert state.reason in set(AbortReason)
            assert state.detail
        try:
            self.coordinator.raise_if_aborted()
        except SessionAbortedError as error:
            assert isinstance(state, a.Aborted)
            assert error.reason == state.reason
        else:
            assert not isinstance(state, a.Aborted)
        if isinstance(state, a.Completed):
            assert self.openings == 1
            assert len(self.coordinator.records) == 1


def run(data: bytes) -> None:
    """Replay a part of the honest session, then play the script."""
    choices = Choices(data)
    stand = Stand()
    deliveries = stand.recording.deliveries
    forger = Forger(choices, stand.recording.scene)
    at = choices.below(len(deliveries) + 1)
    stand.replay(deliveries[:at])
    for _ in range(MAXIMUM_STEPS):
        if choices.is_exhausted:
            break
        action = choices.below(8)
        if action == NEXT:
            # Sixteen at a time: what comes next honestly is rarely what goes wrong.
            for delivery in deliveries[at : at + 16]:
                _repeat(stand, delivery)
            at += 16
        else:
            _step(action, choices, stand, forger, deliveries[at:] or deliveries)


def _repeat(stand: Stand, delivery: Delivery) -> None:
    if delivery is None:
        stand.open()
    elif isinstance(delivery, m.Packet):
        stand.deliver(delivery)
    else:
        stand.put_frame(*delivery)


def _step(
    action: int, choices: Choices, stand: Stand, forger: Forger, due: tuple[Delivery, ...]
) -> None:
    scene = stand.recording.scene
    party = PartyId(1 + choices.below(PARTIES))
    packets = [d for d in due if isinstance(d, m.Packet)] or list(stand.accepted)
    if action == CLOSE:
        stand.close()
    elif action == OPEN:
        stand.open()
    elif action == POLL:
        stand.poll(party, choices.below(40))
    elif action == JOIN:
        context = m.Context(stand.plan.digest, bytes(32), FIRST, bytes(32))
        join = m.Packet(scene.walk.sign(m.Join(), sender=2, context=context))
        stand.join(forger.packet(join, signer=PartyId(2)) if choices.below(2) else join)
    elif action == FRAME:
        _frame(choices, stand, party)
    elif packets:
        packet = packets[0] if action == ALTERED else choices.pick(packets)
        sender = packet.envelope.sender
        if sender != HONEST and choices.below(4):
            packet = forger.packet(packet, signer=sender)
            if packet.envelope.sender == HONEST:
                return  # whoever is connected must be the sender
        stand.deliver(packet)


def _frame(choices: Choices, stand: Stand, party: PartyId) -> None:
    """Upload an altered or foreign tile, and sometimes sign for what is stored."""
    frames = [d for d in stand.recording.deliveries if isinstance(d, tuple)]
    frame = bytearray(choices.pick(frames)[1])
    for _ in range(choices.below(3)):
        frame[choices.below(len(frame))] ^= 1 << choices.below(8)
    header, payload = bytes(frame[: FRAME_HEADER.size]), bytes(frame[FRAME_OVERHEAD:])
    if choices.below(2):
        frame[FRAME_HEADER.size : FRAME_OVERHEAD] = _frame_digest(header, payload)
    stand.put_frame(party, bytes(frame))
    root = stand.root(party)
    if party != HONEST and root is not None and choices.below(2):
        layout = TileLayout.of(stand.plan, FIRST)
        message = m.Contribute(layout.elements, layout.tiles, root)
        stand.deliver(stand.recording.scene.walk.packet(message, sender=party))


def seeds() -> dict[str, bytes]:
    """Return the honest session from several places, and one step of each kind after each."""
    count = len(recording().deliveries)
    made = {}
    for at in range(0, count + 1, 3):
        action = 1 + at // 3 % 7
        made[f"honest-{at:02}"] = bytes([at, *[NEXT] * 4])
        made[f"closed-{at:02}"] = bytes([at, CLOSE, 0, OPEN, 0, NEXT])
        made[f"step-{at:02}"] = bytes([at, action, 1, 1, 0, at % 9, 0, 4, 1, 0, 0])
    return made
