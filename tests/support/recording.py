"""What the attacks' views are cut from: deliveries at an aggregator, and what parties keep."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from collabedit import simulation as simulation_module
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.states import CollectingOpening
from collabedit.attacks.encrypted_views import HeldTask
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.ring import RingArray
from collabedit.crypto.rng import SystemRandomness
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import driver as driver_module
from collabedit.party.contribution import MaskedUpload, contributed_vector, masked_upload
from collabedit.party.states import TaskSetup
from collabedit.plan import Plan
from collabedit.proto.codec import encode_packet
from collabedit.proto.messages import Packet
from collabedit.recorder import Recorder
from collabedit.recording import Delivery, Kind
from tests.support.networks import Network

Held = dict[PartyId, dict[TaskIndex, HeldTask]]


class Keeper:
    """Notes what each party contributes and with which secrets, in memory or over gRPC."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: Held = {}
        self._last = threading.local()
        for module in (simulation_module, driver_module):
            monkeypatch.setattr(module, "contributed_vector", self._contributed)
            monkeypatch.setattr(module, "masked_upload", self._masked)

    def _contributed(
        self, setup: TaskSetup, brought: bytes | memoryview, group_secret: bytes | None
    ) -> RingArray:
        vector = contributed_vector(setup, brought, group_secret)
        assert group_secret is not None
        self._last.place = setup.me, setup.context.task
        held = HeldTask(setup.context, group_secret, vector.copy())
        self.held.setdefault(setup.me, {})[setup.context.task] = held
        return vector

    def _masked(
        self, plan: Plan, task: TaskIndex, encoded: RingArray, masks: tuple[SignedMask, ...]
    ) -> MaskedUpload:
        # A party's thread comes here straight from `_contributed`.
        party, noted = self._last.place
        assert noted == task
        held = self.held[party][task]
        self.held[party][task] = HeldTask(held.context, held.group_secret, held.contribution, masks)
        return masked_upload(plan, task, encoded, masks)

    def of(self, party: int) -> dict[TaskIndex, HeldTask]:
        return self.held[PartyId(party)]


class RecordingCoordinator(Coordinator):
    """A coordinator that keeps everything that passes it, as the simulation does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        self.deliveries: list[Delivery] = []
        super().__init__(*arguments, **options)

    def _note(
        self, sender: PartyId, receiver: PartyId, task: TaskIndex, kind: Kind, data: bytes
    ) -> None:
        self.deliveries.append(Delivery(sender, receiver, task, kind, data))

    def put_frame(self, party: PartyId, task: TaskIndex, frame: bytes) -> int:
        self._note(party, AGGREGATOR, task, "frame", frame)
        return super().put_frame(party, task, frame)

    def deliver(self, packet: Packet) -> None:
        envelope = packet.envelope
        task = envelope.context.task
        self._note(envelope.sender, AGGREGATOR, task, "packet", encode_packet(packet))
        super().deliver(packet)

    def mailbox(self, party: PartyId, *, cursor: int) -> tuple[Packet, ...]:
        packets = super().mailbox(party, cursor=cursor)
        for packet in packets:
            task = packet.envelope.context.task
            self._note(AGGREGATOR, party, task, "packet", encode_packet(packet))
        return packets

    def download(self, party: PartyId, task: TaskIndex) -> Iterator[bytes]:
        state = self.state
        opens = isinstance(state, CollectingOpening) and state.opener == party
        pieces = list(super().download(party, task))
        self._note(AGGREGATOR, party, task, "sum" if opens else "bundle", b"".join(pieces))
        return iter(pieces)


@dataclass
class RecordingNetwork(Network):
    """A network whose aggregator keeps what passes it."""

    coordinators: list[RecordingCoordinator] = field(default_factory=list)

    def coordinator(self, recorder: Recorder | None = None) -> Coordinator:
        made = RecordingCoordinator(
            self.federation.plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory,
            randomness=SystemRandomness(),
            recorder=recorder,
        )
        self.coordinators.append(made)
        return made

    @property
    def transcript(self) -> tuple[Delivery, ...]:
        (coordinator,) = self.coordinators
        return tuple(coordinator.deliveries)
