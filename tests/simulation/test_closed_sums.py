"""Closed sums over the whole protocol in memory: the same update, of sums without directions."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from collabedit.acceptance import Vote
from collabedit.errors import AbortReason
from collabedit.exchange import plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.states import Aborted, Completed
from collabedit.simulation import Faults
from collabedit.sketch import LowRankUpdate
from tests.support.federations import build_federation
from tests.support.updates import error, run

FIRST = TaskIndex(0)
CLOSED = "check_columns = 4"


@pytest.mark.parametrize("schedule", ['"sequential"', '"parallel"'])
@pytest.mark.parametrize("statistics", ['"sketch"', '"dense"'])
def test_update_equals_the_centralised_one(schedule: str, statistics: str, tmp_path: Path) -> None:
    federation = build_federation(
        4, layers=3, closed=CLOSED, schedule=schedule, statistics=statistics
    )
    outcome, received = run(federation, federation.simulation(tmp_path))
    assert outcome.aborted is None
    assert not outcome.refusals
    assert len(received) == 12
    everybody = frozenset(federation.plan.party_ids)
    for (_, layer), update in received.items():
        assert error(update, federation.centralised(everybody, layer)) < 1e-8


def test_the_opened_sum_is_in_no_basis_of_the_model(tmp_path: Path) -> None:
    federation = build_federation(4, closed=CLOSED)
    outcome, _ = run(federation, federation.simulation(tmp_path))
    plan = federation.plan
    size = plan.statistics_length(FIRST)
    plain = np.sum([federation.contribute(party, FIRST) for party in plan.party_ids], axis=0)
    opened = plan_encoding(plan).decode(outcome.sums[FIRST][:size])
    assert abs(np.corrcoef(opened, plain)[0, 1]) < 0.2
    # What is left is the spectrum.
    for rows in (slice(0, 48), slice(48, 68)):
        lengths = [np.linalg.norm(vector.reshape(68, -1)[rows]) for vector in (opened, plain)]
        assert lengths[0] == pytest.approx(lengths[1], rel=0.5)


@pytest.mark.parametrize("round_name", ["r0", "r1", "r2", "r3", "r4", "r5", "r6"])
def test_dropouts_in_every_round(round_name: str, tmp_path: Path) -> None:
    federation = build_federation(5, layers=2, closed=CLOSED)
    faults = Faults(crash_before={PartyId(2): round_name})
    outcome, received = run(federation, federation.simulation(tmp_path, faults=faults))
    assert outcome.aborted is None
    record = outcome.records[0]
    for party in (1, 3, 4, 5):
        found = received[PartyId(party), FIRST]
        assert error(found, federation.centralised(record.survivors, FIRST)) < 1e-8


def test_cover_edits_leave_the_update_nearly_as_it_is(tmp_path: Path) -> None:
    section = CLOSED + "\ncover_edits = 3"
    federation = build_federation(4, closed=section, mapped=600, capacity=32, key_energy=200.0)
    _, received = run(federation, federation.simulation(tmp_path))
    wanted = federation.centralised(frozenset(federation.plan.party_ids), FIRST)
    # 12 random directions of 600.
    assert 1e-3 < error(received[PartyId(1), FIRST], wanted) < 0.25


def test_a_voted_session(tmp_path: Path) -> None:
    federation = build_federation(4, layers=2, closed=CLOSED, votes=3)
    seen: list[LayerIndex] = []

    def vote(party: PartyId, updates: Mapping[LayerIndex, LowRankUpdate]) -> Vote:
        wanted = federation.centralised(frozenset(federation.plan.party_ids), TaskIndex(1))
        assert error(updates[LayerIndex(1)].dense(), wanted) < 1e-8
        seen.extend(updates)
        return Vote.ACCEPT

    outcome = federation.simulation(tmp_path).run(federation.statistics, vote=vote)
    assert outcome.aborted is None
    assert seen == [1, 1, 1, 1]
    assert all(isinstance(state, Completed) for state in outcome.party_states.values())


def test_too_few_edits_end_the_session(tmp_path: Path) -> None:
    federation = build_federation(4, closed=CLOSED + "\nmin_edits = 12")
    faults = Faults(crash_before={PartyId(2): "r3"})
    outcome, received = run(federation, federation.simulation(tmp_path, faults=faults))
    assert not received
    assert outcome.aborted is not None
    for party in (1, 3, 4):
        state = outcome.party_states[PartyId(party)]
        assert isinstance(state, Aborted)
        assert state.reason in {AbortReason.TOO_FEW_EDITS, AbortReason.BELOW_THRESHOLD}


def test_large_federations_have_the_full_graph(tmp_path: Path) -> None:
    """A sparse graph would leave some without the group secret."""
    sizes = {"edits_each": 1, "mapped": 8, "outputs": 4, "capacity": 48}
    federation = build_federation(40, closed="check_columns = 1", corruptions=5, **sizes)
    outcome, received = run(federation, federation.simulation(tmp_path))
    assert outcome.aborted is None
    assert len(received) == 40
