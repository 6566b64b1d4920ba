"""The whole protocol in memory: exact sums over whoever is left, or a clean abort."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from collabedit.crypto.ring import Ring, add_into
from collabedit.errors import AbortReason
from collabedit.exchange import decode_bundle, plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.states import Aborted, Completed
from collabedit.proto.codec import decode_body
from collabedit.proto.messages import Abort
from collabedit.simulation import Faults, Outcome
from collabedit.sketch import LowRankUpdate
from tests.support.federations import TestFederation, build_federation

FIRST = TaskIndex(0)
LAYER = LayerIndex(0)


def plain_sum(
    federation: TestFederation, parties: frozenset[PartyId], task: TaskIndex = FIRST
) -> np.ndarray:
    """Sum in the ring without any mask."""
    encoding = plan_encoding(federation.plan)
    total = np.zeros(federation.plan.task_length(task), dtype=encoding.ring.dtype)
    for party in parties:
        add_into(total, encoding.encode(federation.contribute(party, task)))
    return total


def assert_exact(federation: TestFederation, outcome: Outcome, survivors: set[int]) -> None:
    record = outcome.records[0]
    assert record.survivors == survivors
    np.testing.assert_array_equal(outcome.sums[FIRST], plain_sum(federation, record.survivors))


@pytest.mark.parametrize("parties", [3, 4, 5, 10])
def test_everybody_present_gives_the_exact_sum(parties: int, tmp_path: Path) -> None:
    federation = build_federation(parties)
    outcome = federation.simulation(tmp_path).run(federation.contribute)
    assert_exact(federation, outcome, set(range(1, parties + 1)))
    assert not outcome.refusals
    assert all(isinstance(state, Completed) for state in outcome.party_states.values())


def test_update_equals_the_centralised_one(tmp_path: Path) -> None:
    federation = build_federation(4, layers=3)
    received: dict[tuple[PartyId, TaskIndex], np.ndarray] = {}

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        received[party, task] = updates[LayerIndex(task)].dense()

    outcome = federation.simulation(tmp_path).run(federation.contribute, apply)
    assert len(outcome.records) == 3
    everybody = frozenset(federation.plan.party_ids)
    for (_, task), update in received.items():
        want = federation.centralised(everybody, task)
        assert np.linalg.norm(update - want) / np.linalg.norm(want) < 1e-9
    assert len(received) == 12


def test_dense_statistics_give_the_same_update(tmp_path: Path) -> None:
    federation = build_federation(3, statistics='"dense"', tile_bytes=64)
    simulation = federation.simulation(tmp_path)
    outcome = simulation.run(federation.contribute)
    bundle = simulation.coordinator.bundle(FIRST)
    update = decode_bundle(federation.plan, FIRST, bundle)[LAYER].dense()
    want = federation.centralised(outcome.records[0].survivors, FIRST)
    assert np.linalg.norm(update - want) / np.linalg.norm(want) < 1e-9


def test_ring_of_32_bits(tmp_path: Path) -> None:
    federation = build_federation(3, ring_bits=32, fractional_bits=18, magnitude_bound=2000.0)
    outcome = federation.simulation(tmp_path).run(federation.contribute)
    assert outcome.sums[FIRST].dtype == Ring.Z32.dtype
    assert_exact(federation, outcome, {1, 2, 3})


@pytest.mark.parametrize("round_name", ["r0", "r1", "r2", "r3"])
def test_a_party_that_is_silent_before_contributing_is_left_out(
    round_name: str, tmp_path: Path
) -> None:
    federation = build_federation(5)
    faults = Faults(crash_before={PartyId(2): round_name})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert_exact(federation, outcome, {1, 3, 4, 5})
    dropouts = [(d.party, d.round[:2]) for d in outcome.records[0].dropouts]
    assert dropouts == [(2, round_name)]


@pytest.mark.parametrize("round_name", ["r4", "r5", "r6"])
def test_a_party_that_is_silent_after_contributing_stays_in_the_sum(
    round_name: str, tmp_path: Path
) -> None:
    federation = build_federation(5)
    faults = Faults(crash_before={PartyId(2): round_name})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert_exact(federation, outcome, {1, 2, 3, 4, 5})
    assert [d.party for d in outcome.records[0].dropouts] == [2]


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_a_party_that_dies_in_its_upload_is_left_out(frames: int, tmp_path: Path) -> None:
    federation = build_federation(5)
    faults = Faults(crash_after_frames={PartyId(5): frames})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert_exact(federation, outcome, {1, 2, 3, 4})


@pytest.mark.parametrize("round_name", ["r0", "r1", "r2", "r3", "r4", "r5", "r6"])
def test_below_the_threshold_everybody_aborts_by_name(round_name: str, tmp_path: Path) -> None:
    federation = build_federation(5)
    faults = Faults(crash_before={PartyId(1): round_name, PartyId(4): round_name})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert outcome.aborted is not None
    assert outcome.aborted.reason is AbortReason.BELOW_THRESHOLD
    assert not outcome.records
    for party in (2, 3, 5):
        state = outcome.party_states[PartyId(party)]
        assert isinstance(state, Aborted)
        assert state.reason is AbortReason.BELOW_THRESHOLD
    assert bool(outcome.sums) == (round_name == "r6")


def test_dropout_in_a_later_task_keeps_earlier_ones(tmp_path: Path) -> None:
    federation = build_federation(5, layers=3)
    faults = Faults(crash_before={PartyId(3): "r3"}, crash_task=TaskIndex(1))
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert [len(record.survivors) for record in outcome.records] == [5, 4, 4]
    for record in outcome.records:
        np.testing.assert_array_equal(
            outcome.sums[record.task], plain_sum(federation, record.survivors, record.task)
        )


def test_survivors_of_all_threes_lose_nobody(tmp_path: Path) -> None:
    federation = build_federation(3)
    faults = Faults(crash_before={PartyId(1): "r3"})
    outcome = federation.simulation(tmp_path, faults=faults).run(federation.contribute)
    assert outcome.aborted is not None
    assert outcome.aborted.reason is AbortReason.BELOW_THRESHOLD


def test_an_overflowing_party_refuses_itself_and_sends_nothing(tmp_path: Path) -> None:
    federation = build_federation(5)

    def contribute(party: PartyId, task: TaskIndex) -> np.ndarray:
        scale = 1e9 if party == 4 else 1.0
        return scale * federation.contribute(party, task)

    outcome = federation.simulation(tmp_path).run(contribute)
    assert_exact(federation, outcome, {1, 2, 3, 5})
    assert not [d for d in outcome.transcript if d.sender == 4]
    assert [party for party, _ in outcome.refusals] == [4]


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_of_faults_gives_the_exact_sum_or_nothing(seed: int, tmp_path: Path) -> None:
    federation = build_federation(6, layers=2)
    faults = Faults(
        drop=(seed % 4) * 0.01,
        duplicate=0.2,
        tamper=(seed % 3) * 0.005,
        delay=seed % 7,
        crash_before={PartyId(1 + seed % 6): f"r{seed % 7}"} if seed % 2 else {},
        crash_task=TaskIndex(seed // 2 % 2),
    )
    outcome = federation.simulation(tmp_path, faults=faults, seed=seed).run(federation.contribute)
    for record in outcome.records:
        assert len(record.survivors) >= federation.plan.threshold
        np.testing.assert_array_equal(
            outcome.sums[record.task], plain_sum(federation, record.survivors, record.task)
        )
    assert len(outcome.records) == 2 or outcome.aborted is not None
    for state in outcome.party_states.values():
        if isinstance(state, Aborted):
            assert state.reason is not AbortReason.UNSPECIFIED


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    federation = build_federation(4)
    faults = Faults(drop=0.02, duplicate=0.3, delay=5)
    first = federation.simulation(tmp_path / "a", faults=faults, seed=3).run(federation.contribute)
    second = federation.simulation(tmp_path / "b", faults=faults, seed=3).run(federation.contribute)
    assert first.transcript == second.transcript


def test_spool_files_are_gone_after_the_session(tmp_path: Path) -> None:
    federation = build_federation(4)
    federation.simulation(tmp_path).run(federation.contribute)
    assert not list(tmp_path.rglob("*.tiles"))


def test_whoever_is_silent_when_a_session_ends_is_told_why(tmp_path: Path) -> None:
    """Slow is not dead: who still uploads must not wait for a session that is over."""
    federation = build_federation(5)
    simulation = federation.simulation(
        tmp_path, faults=Faults(crash_after_frames={PartyId(1): 1, PartyId(4): 1})
    )
    outcome = simulation.run(federation.contribute)
    assert outcome.aborted is not None
    for party in (1, 4):
        (*_, last) = simulation.coordinator.mailbox(PartyId(party), cursor=0)
        message = decode_body(last.envelope.kind, last.envelope.body)
        assert message == Abort(AbortReason.BELOW_THRESHOLD, None)
