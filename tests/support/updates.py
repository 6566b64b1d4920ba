"""Simulated sessions with the updates that their parties apply."""

from collections.abc import Mapping

import numpy as np

from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.simulation import Outcome, Simulation
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.federations import TestFederation

Received = dict[tuple[PartyId, TaskIndex], Matrix]
"""ΔW by party and layer, which is the task in sequential schedules, in mapped coordinates."""


def run(federation: TestFederation, simulation: Simulation) -> tuple[Outcome, Received]:
    """Play a session of the federation's own statistics."""
    received: Received = {}

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        for layer, update in updates.items():
            received[party, TaskIndex(int(layer))] = update.dense()

    return simulation.run(federation.statistics, apply), received


def error(found: Matrix, wanted: Matrix) -> float:
    """Return ‖found - wanted‖/‖wanted‖, Frobenius."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
