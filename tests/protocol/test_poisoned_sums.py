"""A party masks whatever it likes: nothing beyond the plan's bounds is ever released.

Scene: five parties, threshold 4, a real coordinator and real uploads; party 2's software checks
nothing and masks any ring elements. The others do all as they should. A sum does not show who
spoiled it, so the session ends for all, by reason and without a culprit, and no update leaves.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator import states as a
from collabedit.crypto.ring import RingArray
from collabedit.errors import AbortReason, UnexpectedMessageError
from collabedit.exchange import plan_encoding, plan_test_matrix
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.sketch import Matrix, dense_statistics, sketch
from tests.protocol.stage import FIRST, Session, kind_of, parties, plain_sum
from tests.support.federations import MAPPED, OUTPUTS, TestFederation, build_federation

LIAR = PartyId(2)
FORMS = pytest.mark.parametrize("statistics", ["sketch", "dense"])
Vector = Callable[[Plan, np.random.Generator], Matrix]


def build(statistics: str, *, ring_bits: int = 64) -> TestFederation:
    form = f'"{statistics}"'
    if ring_bits == 64:
        return build_federation(5, statistics=form)
    return build_federation(
        5, statistics=form, ring_bits=32, fractional_bits=16, magnitude_bound=6000.0
    )


def contribution(plan: Plan, keys: Matrix, residuals: Matrix) -> Matrix:
    """Like `contribution_vector`, without its checks."""
    if plan.aggregation.statistics == "dense":
        return dense_statistics(keys, residuals).to_vector()
    return sketch(keys, residuals, plan_test_matrix(plan, plan.editing.layers[0])).to_vector()


def run_poisoned(
    federation: TestFederation, tmp_path: Path, poison: Callable[[RingArray], RingArray]
) -> Session:
    def alter(party: PartyId, encoded: RingArray) -> RingArray:
        return poison(encoded) if party == LIAR else encoded

    return Session(federation, tmp_path, alter_encoded=alter).run()


def assert_contained(session: Session, *reasons: AbortReason) -> None:
    state = session.coordinator.state
    assert isinstance(state, a.Aborted), state
    assert state.reason in reasons
    assert state.culprit is None
    assert not session.sums
    assert not session.coordinator.records
    with pytest.raises(UnexpectedMessageError):
        session.coordinator.bundle(FIRST)
    for party in session.federation.plan.party_ids:
        sent = [kind_of(packet) for packet in session.coordinator.mailbox(party, cursor=0)]
        assert m.Release not in sent
        held = session.states[party]
        assert isinstance(held, s.Aborted)
        assert (held.reason, held.culprit) == (state.reason, None)


def keys_of(rng: np.random.Generator, norm: float, count: int = 3) -> Matrix:
    made: Matrix = rng.normal(size=(MAPPED, count))
    scaled: Matrix = made * norm / np.linalg.norm(made, axis=0)
    return scaled


def residuals_of(rng: np.random.Generator, norm: float, count: int = 3) -> Matrix:
    made: Matrix = rng.normal(size=(OUTPUTS, count))
    scaled: Matrix = made * norm / np.linalg.norm(made, axis=0)
    return scaled


EXCESSIVE: dict[str, Vector] = {
    "one huge key without a residual": lambda plan, rng: contribution(
        plan, keys_of(rng, 60.0, 1), np.zeros((OUTPUTS, 1))
    ),
    "huge keys and residuals": lambda plan, rng: contribution(
        plan, keys_of(rng, 50.0), residuals_of(rng, 50.0)
    ),
    "a huge residual on a small key": lambda plan, rng: contribution(
        plan, keys_of(rng, 0.01, 1), residuals_of(rng, 1e4, 1)
    ),
    "a hundred times the declared edits": lambda plan, rng: contribution(
        plan, keys_of(rng, 9.0, 300), residuals_of(rng, 9.0, 300)
    ),
}


@FORMS
@pytest.mark.parametrize("vector", EXCESSIVE.values(), ids=EXCESSIVE)
def test_energy_beyond_the_bounds_is_not_released(
    vector: Vector, statistics: str, tmp_path: Path
) -> None:
    federation = build(statistics)
    made = vector(federation.plan, np.random.default_rng(0))
    # All of these are within the magnitude bound: the encoding alone would have let them through.
    encoded = plan_encoding(federation.plan).encode(made)
    session = run_poisoned(federation, tmp_path, lambda _encoded: encoded)
    assert_contained(session, AbortReason.BOUNDS_EXCEEDED)


@FORMS
def test_a_negative_direction_is_not_released(statistics: str, tmp_path: Path) -> None:
    federation = build(statistics)
    rng = np.random.default_rng(1)
    made = -contribution(federation.plan, keys_of(rng, 5.0), residuals_of(rng, 1.0))
    encoded = plan_encoding(federation.plan).encode(made)
    session = run_poisoned(federation, tmp_path, lambda _encoded: encoded)
    assert_contained(session, AbortReason.MERGE_FAILED)


def test_a_contribution_that_is_no_sketch_is_not_released(tmp_path: Path) -> None:
    federation = build("sketch")

    def twist(encoded: RingArray) -> RingArray:
        changed = encoded.copy()
        changed[5] += np.uint64(1 << 30)  # 2^-10: little, but in one half of W only
        return changed

    session = run_poisoned(federation, tmp_path, twist)
    assert_contained(session, AbortReason.MERGE_FAILED)


def test_a_change_orthogonal_to_the_test_matrix_is_not_released(tmp_path: Path) -> None:
    """ΩᵀY does not show it, so W is symmetric and semidefinite as if nothing was."""
    federation = build("sketch")
    plan = federation.plan
    omega = plan_test_matrix(plan, plan.editing.layers[0])
    basis = np.linalg.qr(omega)[0]
    change = np.random.default_rng(2).normal(size=omega.shape)
    change -= basis @ (basis.T @ change)
    hidden = np.concatenate([change.ravel(), np.zeros(OUTPUTS * omega.shape[1])])
    encoded = plan_encoding(plan).encode(hidden)
    session = run_poisoned(federation, tmp_path, lambda honest: honest + encoded)
    assert_contained(session, AbortReason.BOUNDS_EXCEEDED)


@FORMS
@pytest.mark.parametrize("ring_bits", [64, 32])
@pytest.mark.parametrize(
    "pattern",
    ["random", "largest", "smallest", "wrap", "float64 NaN", "float64 infinity"],
)
def test_absurd_ring_elements_are_not_released(
    pattern: str, ring_bits: int, statistics: str, tmp_path: Path
) -> None:
    federation = build(statistics, ring_bits=ring_bits)

    def absurd(encoded: RingArray) -> RingArray:
        top = 1 << (ring_bits - 1)
        bits = {
            "largest": top - 1,
            "smallest": top,
            # A quarter of the ring on top of the honest numbers: the sum comes out wrapped nowhere.
            "wrap": top >> 1,
            "float64 NaN": 0x7FF8000000000000 >> (64 - ring_bits),
            "float64 infinity": 0xFFF0000000000000 >> (64 - ring_bits),
        }
        if pattern == "random":
            rng = np.random.default_rng(3)
            return rng.integers(0, 1 << ring_bits, encoded.shape, encoded.dtype)
        return encoded + np.full_like(encoded, bits[pattern])

    session = run_poisoned(federation, tmp_path, absurd)
    assert_contained(session, AbortReason.BOUNDS_EXCEEDED, AbortReason.MERGE_FAILED)


def test_a_sum_that_wraps_around_to_an_honest_one_is_just_that(tmp_path: Path) -> None:
    """Two halves of the ring cancel: what is opened is the honest sum, and it is released."""
    federation = build("sketch")

    def alter(party: PartyId, encoded: RingArray) -> RingArray:
        return encoded + np.uint64(1 << 63) if party in {2, 3} else encoded

    session = Session(federation, tmp_path, alter_encoded=alter).run()
    assert session.survivors == parties(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(session.sums[FIRST], plain_sum(federation, session.survivors))


@FORMS
def test_a_party_at_all_its_caps_is_released(statistics: str, tmp_path: Path) -> None:
    """The bounds refuse nothing that the plan allows."""
    federation = build(statistics)
    rng = np.random.default_rng(4)
    made = contribution(federation.plan, keys_of(rng, 10.0), residuals_of(rng, 100.0))
    encoded = plan_encoding(federation.plan).encode(made)
    session = run_poisoned(federation, tmp_path, lambda _encoded: encoded)
    assert session.survivors == parties(1, 2, 3, 4, 5)


def test_a_reason_is_the_same_for_everybody_and_blames_nobody(tmp_path: Path) -> None:
    federation = build("sketch")
    seen: list[dict[str, object]] = []
    session = Session(
        federation,
        tmp_path,
        alter_encoded=lambda party, encoded: encoded * np.uint64(1000) if party == 2 else encoded,
        observer=lambda event, fields: seen.append(dict(fields)) if event == "aborted" else None,
    ).run()
    assert_contained(session, AbortReason.BOUNDS_EXCEEDED)
    (fields,) = seen
    assert fields["reason"] == "BOUNDS_EXCEEDED"
    assert not any(f"party-{i}" in str(fields) or f"party {i}" in str(fields) for i in range(6))
