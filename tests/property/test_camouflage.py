"""Camouflage keeps what an update does to its own keys, and changes the space that they are in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.attacks.span import range_basis, span_scores
from collabedit.errors import InputError
from collabedit.party.editing.camouflage import Camouflage, camouflaged, row_space
from collabedit.sketch import LowRankUpdate, Matrix, dense_statistics, merge_dense
from tests.support.randomness import InsecureTestRandomness

OUTPUTS, SIZE = 24, 120

seeds = st.integers(min_value=0, max_value=2**32 - 1)
cases = given(
    seed=seeds,
    edits=st.integers(min_value=1, max_value=8),
    strength=st.floats(min_value=0.2, max_value=6),
    per_direction=st.integers(min_value=1, max_value=4),
)


def parts(seed: int, edits: int, per_direction: int) -> tuple[Matrix, LowRankUpdate, Matrix]:
    """Keys of edits, their merged update, and keys of more decoys than are needed."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(SIZE, edits)) / np.sqrt(SIZE)
    residuals = rng.normal(size=(OUTPUTS, edits))
    update = merge_dense(dense_statistics(keys, residuals), ridge=1.0, noise=0.0)
    decoys = rng.normal(size=(SIZE, edits * per_direction + 2)) / np.sqrt(SIZE)
    return keys, update, decoys


@settings(max_examples=60, deadline=None)
@cases
def test_edits_behave_alike_in_another_row_space_of_the_same_dimension(
    seed: int, edits: int, strength: float, per_direction: int
) -> None:
    keys, update, decoys = parts(seed, edits, per_direction)
    camouflage = Camouflage(strength, per_direction)
    hidden = camouflaged(update, decoys, camouflage, InsecureTestRandomness(seed))
    before, after = update.dense(), hidden.dense()
    scale = float(np.linalg.norm(before, 2))
    np.testing.assert_allclose(after @ keys, before @ keys, rtol=0, atol=1e-11 * scale)
    basis = row_space(hidden)
    assert basis.shape[1] == row_space(update).shape[1] == np.linalg.matrix_rank(after) == edits
    # It is the graph of a map from the edits' span to its complement: no direction is left.
    assert span_scores(basis, keys).max() < 1 / np.sqrt(1 + strength**2 / 4)
    # Longer by √(1 + α²q), as far as decoys are orthogonal to each other.
    ratio = np.linalg.norm(after) / np.linalg.norm(before)
    assert ratio == pytest.approx(np.sqrt(1 + strength**2 * per_direction), rel=0.6)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, edits=st.integers(min_value=2, max_value=8))
def test_at_strength_one_decoys_pass_the_span_test_as_edits_do(seed: int, edits: int) -> None:
    for per_direction in (1, 3):
        keys, update, decoys = parts(seed, edits, per_direction)
        taken = decoys[:, : edits * per_direction]
        hidden = camouflaged(
            update, taken, Camouflage(1.0, per_direction), InsecureTestRandomness(seed)
        )
        basis = range_basis(hidden.canonical().right.T, noise=0.0)
        chance = float(np.sqrt(edits / SIZE))
        expected = 1 / np.sqrt(1 + per_direction)
        for columns in (keys, taken):
            assert np.median(span_scores(basis, columns)) == pytest.approx(expected, abs=0.2)
        others = np.random.default_rng(seed + 1).normal(size=(SIZE, 50))
        assert np.median(span_scores(basis, others)) < 1.3 * chance


@settings(max_examples=30, deadline=None)
@cases
def test_the_published_formula_gives_the_same(
    seed: int, edits: int, strength: float, per_direction: int
) -> None:
    keys, update, decoys = parts(seed, edits, per_direction)
    hidden = camouflaged(
        update, decoys, Camouflage(strength, per_direction), InsecureTestRandomness(seed)
    )
    # ΔK(K̃ᵀK)⁻¹K̃ᵀ for K̃ = (I + A)K, A what was mixed in: any basis of the span gives Δ_def.
    mixed = hidden.right.T
    shadow = mixed @ np.linalg.pinv(keys @ np.linalg.pinv(keys) @ mixed) @ keys
    formula = update.dense() @ keys @ np.linalg.inv(shadow.T @ keys) @ shadow.T
    scale = float(np.linalg.norm(formula, 2))
    np.testing.assert_allclose(hidden.dense(), formula, rtol=0, atol=1e-9 * scale)


def test_strength_zero_hides_nothing_and_copies_differ() -> None:
    _, update, decoys = parts(1, 6, 1)
    alike = camouflaged(update, decoys, Camouflage(0.0), InsecureTestRandomness(1))
    np.testing.assert_allclose(alike.dense(), update.dense(), atol=1e-12)
    first, second = (
        camouflaged(update, decoys, Camouflage(), InsecureTestRandomness(seed)).dense()
        for seed in (1, 2)
    )
    assert np.linalg.norm(first - second) > np.linalg.norm(update.dense()) / 2


def test_averaged_copies_are_camouflaged_less() -> None:
    keys, update, _ = parts(1, 6, 1)
    rng = np.random.default_rng(0)
    copies = [
        camouflaged(
            update, rng.normal(size=(SIZE, 6)), Camouflage(), InsecureTestRandomness(seed)
        ).dense()
        for seed in range(25)
    ]
    score = {
        count: float(
            span_scores(range_basis(np.mean(copies[:count], axis=0).T, noise=1e-9), keys).mean()
        )
        for count in (1, 25)
    }
    assert score[1] < 0.8
    assert score[25] > 0.95  # α is a fifth: 1/√(1 + 1/25) = 0.98


def test_decoys_that_are_edits_are_passed_over_and_counted() -> None:
    keys, update, decoys = parts(3, 4, 1)
    randomness = InsecureTestRandomness(0)
    given_ = np.concatenate([keys[:, :1], decoys[:, :4]], axis=1)
    hidden = camouflaged(update, given_, Camouflage(), randomness)
    assert hidden.rank == 4
    with pytest.raises(InputError, match=r"4 decoys for 4 .* give 5 or more, 1 have the keys"):
        camouflaged(update, given_[:, :4], Camouflage(), randomness)
    with pytest.raises(InputError, match=r"3 decoys for 4 directions with 1 each: give 4 or more$"):
        camouflaged(update, decoys[:, :3], Camouflage(), randomness)


def test_an_empty_update_stays_empty() -> None:
    empty = LowRankUpdate(np.zeros((OUTPUTS, 0)), np.zeros((0, SIZE)))
    decoys = np.eye(SIZE)[:, :2]
    assert camouflaged(empty, decoys, Camouflage(), InsecureTestRandomness(0)).rank == 0


@pytest.mark.parametrize(("strength", "per_direction"), [(-1.0, 1), (float("nan"), 1), (1.0, 0)])
def test_what_is_out_of_range_is_refused(strength: float, per_direction: int) -> None:
    with pytest.raises(ValueError, match="decoys per direction"):
        Camouflage(strength, per_direction)
