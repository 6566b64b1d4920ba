"""What parties keep: the part of the attacks' views that no recording has."""

import threading

import pytest

from collabedit import simulation as simulation_module
from collabedit.attacks.encrypted_views import HeldTask
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.ring import RingArray
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import driver as driver_module
from collabedit.party.contribution import MaskedUpload, contributed_vector, masked_upload
from collabedit.party.states import TaskSetup
from collabedit.plan import Plan

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
