"""Freivalds' check: a wrong update passes as seldom as docs/closed-sums.md, section 8, says.

The parties hold Δ'(ρv + S'v) - T'v against a tolerance, for Gaussian v that the aggregator never
sees. What it can do without them is to return Δ' + E, and to add shifts to the padded columns.
"""

import math

import numpy as np
import pytest

from collabedit.sketch import Matrix, dense_statistics, merge_dense
from tests.support.closed_sums import Edits, random_edits

MAPPED, OUTPUTS, EDITS = 40, 16, 9
DRAWS = 40_000
TAMPERINGS = (
    "rank one",
    "full rank",
    "scaled",
    "an edit left out",
    "another ridge",
    "nothing returned",
)


@pytest.fixture(scope="module")
def edits() -> Edits:
    return random_edits(np.random.default_rng(1), mapped=MAPPED, outputs=OUTPUTS, edits=EDITS)


def merged(edits: Edits, *, ridge: float) -> Matrix:
    statistics = dense_statistics(edits.keys, edits.residuals)
    return merge_dense(statistics, ridge=ridge, noise=0.0).dense()


def residues(
    update: Matrix, edits: Edits, vectors: Matrix, *, ridge: float, shift: Matrix | None = None
) -> Matrix:
    """‖Δ'(ρv + S'v) - T'v‖ for each column v of `vectors`, with a shift of the opened columns.

    Args:
        update: what came back, [d_out, d'].
        edits: all of them.
        vectors: [d', draws].
        ridge: ρ.
        shift: [d' + d_out], added to S'v and T'v.
    """
    grams, crosses = edits.gram @ vectors, edits.cross @ vectors
    if shift is not None:
        grams, crosses = grams + shift[:MAPPED, None], crosses + shift[MAPPED:, None]
    lengths: Matrix = np.linalg.norm(update @ (ridge * vectors + grams) - crosses, axis=0)
    return lengths


def bound(size: float, tampering: Matrix) -> float:
    """√(2/π)·s/‖M‖₂."""
    return math.sqrt(2 / math.pi) * size / float(np.linalg.norm(tampering, 2))


def draws(seed: int, count: int = DRAWS) -> Matrix:
    return np.random.default_rng(seed).normal(size=(MAPPED, count))


def exceeds(misses: int, count: int, probability: float) -> bool:
    """Whether so many misses are beyond five deviations of what the bound allows."""
    expected = count * probability
    return misses > expected + 5 * math.sqrt(expected + 1)


def tamperings(edits: Edits) -> dict[str, Matrix]:
    rng = np.random.default_rng(2)
    one = np.outer(rng.normal(size=OUTPUTS), rng.normal(size=MAPPED))
    honest = merged(edits, ridge=1.0)
    without_first = Edits(edits.keys[:, 1:], edits.residuals[:, 1:])
    return {
        "rank one": one,
        "full rank": rng.normal(size=(OUTPUTS, MAPPED)),
        "scaled": 0.01 * honest,
        "an edit left out": merged(without_first, ridge=1.0) - honest,
        "another ridge": merged(edits, ridge=1.1) - honest,
        "nothing returned": -honest,
    }


@pytest.mark.parametrize("ridge", [0.0, 1.0, 20.0])
def test_the_true_update_passes(ridge: float, edits: Edits) -> None:
    found = residues(merged(edits, ridge=ridge), edits, draws(3, 1000), ridge=ridge)
    assert found.max() < 1e-12


@pytest.mark.parametrize("name", TAMPERINGS)
def test_misses_stay_below_the_bound(name: str, edits: Edits) -> None:
    tampering = tamperings(edits)[name]
    effect = tampering @ (np.eye(MAPPED) + edits.gram)
    update = merged(edits, ridge=1.0) + tampering
    found = residues(update, edits, draws(4), ridge=1.0)
    assert found.min() > 1e-7, "every tampering is seen at the tolerance of exact arithmetic"
    for share in (0.003, 0.03, 0.1, 0.3):
        size = share * float(np.linalg.norm(effect, 2))
        assert not exceeds(int((found <= size).sum()), DRAWS, bound(size, effect)), share


def test_the_bound_is_nearly_tight_for_rank_one(edits: Edits) -> None:
    tampering = tamperings(edits)["rank one"]
    effect = tampering @ (np.eye(MAPPED) + edits.gram)
    size = 0.1 * float(np.linalg.norm(effect, 2))
    found = residues(merged(edits, ridge=1.0) + tampering, edits, draws(5), ridge=1.0)
    misses = int((found <= size).sum())
    assert misses > 0.95 * DRAWS * bound(size, effect)


@pytest.mark.parametrize("aim", ["along", "across", "both columns"])
def test_a_blind_shift_of_the_padded_columns_does_not_help(aim: str, edits: Edits) -> None:
    tampering = tamperings(edits)["rank one"]
    effect = tampering @ (np.eye(MAPPED) + edits.gram)
    left, values, _ = np.linalg.svd(effect)
    rng = np.random.default_rng(6)
    shift = np.zeros(MAPPED + OUTPUTS)
    if aim == "along":  # The best guess at what v will do: as large as one deviation of it.
        shift[MAPPED:] = values[0] * left[:, 0]
    elif aim == "across":
        shift[MAPPED:] = values[0] * left[:, 1]
    else:
        shift = rng.normal(size=MAPPED + OUTPUTS)
    update = merged(edits, ridge=1.0) + tampering
    found = residues(update, edits, draws(7), ridge=1.0, shift=shift)
    plain = residues(update, edits, draws(7), ridge=1.0)
    for share in (0.01, 0.1, 0.3):
        size = share * float(values[0])
        misses = int((found <= size).sum())
        assert not exceeds(misses, DRAWS, bound(size, effect))
        # Anderson: no shift does better than none, beyond what chance adds.
        assert not exceeds(misses, DRAWS, float((plain <= size).mean()))


def test_a_share_of_an_opened_column_is_no_bound(edits: Edits) -> None:
    # With b = Δ'a the residue is what it was, and the opened Tv is as large as one likes.
    update = 1.01 * merged(edits, ridge=1.0)
    vectors, share = draws(12, 1000), 1e-4
    along = 1e6 * np.random.default_rng(13).normal(size=MAPPED)
    shift = np.concatenate([along, update @ along])
    plain = residues(update, edits, vectors, ridge=1.0)
    shifted = residues(update, edits, vectors, ridge=1.0, shift=shift)
    np.testing.assert_allclose(shifted, plain, atol=1e-7)
    opened_columns = edits.cross @ vectors
    assert (plain > share * np.linalg.norm(opened_columns, axis=0)).all()
    inflated = np.linalg.norm(opened_columns + shift[MAPPED:, None], axis=0)
    assert (shifted < share * inflated).all()


@pytest.mark.parametrize("columns", [2, 4])
def test_columns_multiply(columns: int, edits: Edits) -> None:
    tampering = tamperings(edits)["rank one"]
    effect = tampering @ (np.eye(MAPPED) + edits.gram)
    size = 0.5 * float(np.linalg.norm(effect, 2))
    found = residues(merged(edits, ridge=1.0) + tampering, edits, draws(8), ridge=1.0)
    together = np.all((found <= size).reshape(-1, columns), axis=1)
    allowed = bound(size, effect) ** columns
    assert not exceeds(int(together.sum()), DRAWS // columns, allowed)
    # It is a power of the bound: one column alone misses far more often.
    assert (found <= size).mean() > 2 * together.mean() > 0


def test_what_passes_is_small_where_the_ridge_is_positive(edits: Edits) -> None:
    rng = np.random.default_rng(9)
    for ridge in (0.1, 1.0, 10.0):
        tampering = rng.normal(size=(OUTPUTS, MAPPED))
        effect = np.linalg.norm(tampering @ (ridge * np.eye(MAPPED) + edits.gram), 2)
        assert np.linalg.norm(tampering, 2) <= effect / ridge
        at_keys = np.linalg.norm(tampering @ edits.keys, axis=0)
        assert (at_keys <= effect / (2 * math.sqrt(ridge))).all()


def test_without_a_ridge_the_check_is_blind_off_the_edits(edits: Edits) -> None:
    # ES' = 0: such an E passes always. It leaves every edit as it is, and any other key not.
    left, _, _ = np.linalg.svd(edits.keys)
    away = left[:, EDITS:]
    tampering = np.random.default_rng(10).normal(size=(OUTPUTS, MAPPED - EDITS)) @ away.T
    update = merged(edits, ridge=0.0) + tampering
    assert residues(update, edits, draws(11, 1000), ridge=0.0).max() < 1e-11
    np.testing.assert_allclose(update @ edits.keys, edits.residuals, atol=1e-10)
    assert np.linalg.norm(tampering, 2) > 1
    # With a ridge the same E is seen.
    update = merged(edits, ridge=1.0) + tampering
    assert residues(update, edits, draws(11, 1000), ridge=1.0).min() > 1
