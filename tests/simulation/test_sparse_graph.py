"""Rosters above 32 parties: exact sums with dropouts in every round, over sparse masks."""

from pathlib import Path

import numpy as np
import pytest

from collabedit.crypto.graph import plan_neighbourhood
from collabedit.errors import AbortReason
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.states import Aborted, Completed
from collabedit.simulation import Faults
from tests.simulation.test_simulation import FIRST, plain_sum
from tests.support.federations import build_federation


@pytest.mark.parametrize("round_name", ["r0", "r1", "r2", "r3", "r4", "r5", "r6"])
def test_dropouts_of_any_round_leave_an_exact_sum(round_name: str, tmp_path: Path) -> None:
    """All eleven that the plan of 36 parties can lose (threshold 25) fall silent at once."""
    federation = build_federation(36, corruptions=7)
    assert federation.plan.threshold == 25
    assert plan_neighbourhood(federation.plan, 36, task=TaskIndex(0)).degree < 35
    gone = {PartyId(3 * i) for i in range(1, 12)}
    faults = Faults(crash_before=dict.fromkeys(gone, round_name))
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert outcome.aborted is None
    early = round_name in {"r0", "r1", "r2", "r3"}
    everybody = frozenset(federation.plan.party_ids)
    survivors = everybody - gone if early else everybody
    assert outcome.records[0].survivors == survivors
    np.testing.assert_array_equal(outcome.sums[FIRST], plain_sum(federation, survivors))
    for party in everybody - gone:
        assert isinstance(outcome.party_states[party], Completed)


@pytest.mark.parametrize("parties", [33, 47, 60])
def test_dropouts_spread_over_the_rounds(parties: int, tmp_path: Path) -> None:
    federation = build_federation(parties, corruptions=parties // 5)
    rounds = {PartyId(2 + 3 * i): f"r{i}" for i in range(7)}
    faults = Faults(
        crash_before=rounds, crash_after_frames={PartyId(30): 1}, duplicate=0.05, delay=3
    )
    outcome = federation.simulation(tmp_path, faults=faults, seed=parties).run(
        federation.contribute
    )
    assert outcome.aborted is None
    early = {party for party, name in rounds.items() if name < "r4"}
    survivors = frozenset(federation.plan.party_ids) - early - {PartyId(30)}
    assert outcome.records[0].survivors == survivors
    np.testing.assert_array_equal(outcome.sums[FIRST], plain_sum(federation, survivors))


def test_a_roster_that_shrinks_to_32_takes_the_full_graph(tmp_path: Path) -> None:
    federation = build_federation(35, layers=2, corruptions=7)
    faults = Faults(crash_before={PartyId(i): "r3" for i in (5, 6, 7)})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert [len(record.survivors) for record in outcome.records] == [32, 32]
    assert plan_neighbourhood(federation.plan, 35, task=TaskIndex(0)).degree < 34
    assert plan_neighbourhood(federation.plan, 32, task=TaskIndex(0)).degree == 31
    for record in outcome.records:
        np.testing.assert_array_equal(
            outcome.sums[record.task], plain_sum(federation, record.survivors, record.task)
        )
    assert outcome.records[1].task == TaskIndex(1)


def test_one_dropout_too_many_opens_nothing(tmp_path: Path) -> None:
    federation = build_federation(33, corruptions=6)
    faults = Faults(crash_before={PartyId(i): "r5" for i in range(1, 12)})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert outcome.aborted is not None
    assert outcome.aborted.reason is AbortReason.BELOW_THRESHOLD
    assert not outcome.sums
    state = outcome.party_states[PartyId(33)]
    assert isinstance(state, Aborted)
    assert state.reason is AbortReason.BELOW_THRESHOLD
