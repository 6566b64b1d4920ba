"""Balanced factors: the product, the order and the signs, by either way of computing them."""

import numpy as np
import pytest

from collabedit import factors
from collabedit.factors import Matrix, balance

SHAPES = ((9, 4, 13), (4, 9, 13), (9, 13, 4), (30, 30, 30), (1, 1, 1), (2500, 7, 3), (3, 7, 2500))
"""(d_out, r, d')."""


def random_factors(
    seed: int, outputs: int, rank: int, mapped: int, *, spread: float = 1.0
) -> tuple[Matrix, Matrix]:
    """Draw factors whose inner directions have lengths from 1 down to 1/`spread`."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(1.0, 1 / spread, rank)
    # Turned, as a graded matrix is easier than its condition says.
    turn, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    left = (rng.normal(size=(outputs, rank)) * scale) @ turn
    return left, turn.T @ (scale[:, None] * rng.normal(size=(rank, mapped)))


def check(left: Matrix, right: Matrix, found: tuple[Matrix, Matrix], *, cosine: float) -> None:
    """Hold balanced factors against the singular value decomposition of the product."""
    product = left @ right
    size = float(np.linalg.norm(product, 2))
    np.testing.assert_allclose(found[0] @ found[1], product, atol=1e-13 * size * len(right))
    values = np.linalg.svd(product, compute_uv=False)[: len(found[1])]
    lengths = np.linalg.norm(found[0], axis=0)
    others = np.linalg.norm(found[1], axis=1)
    seen = values > 1e-12 * size
    np.testing.assert_allclose((lengths * others)[seen], values[seen], rtol=1e-3, atol=1e-12 * size)
    np.testing.assert_allclose(lengths[seen], others[seen], rtol=1e-3)
    for columns in (found[0][:, seen] / lengths[seen], (found[1][seen] / others[seen, None]).T):
        assert float(np.abs(columns.T @ columns - np.eye(seen.sum())).max()) < cosine
    assert (np.take_along_axis(found[0], np.abs(found[0]).argmax(axis=0)[None], 0)[0] >= 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_are_those_of_the_singular_value_decomposition(
    shape: tuple[int, int, int],
) -> None:
    left, right = random_factors(1, *shape)
    check(left, right, balance(left, right), cosine=factors.ORTHOGONALITY)


@pytest.mark.parametrize("spread", [1e2, 1e4, 1e7])
def test_factors_of_any_condition_stay_orthogonal(spread: float) -> None:
    """Squared, these conditions are beyond what a Gram matrix can tell apart."""
    left, right = random_factors(2, 60, 12, 200, spread=spread)
    check(left, right, balance(left, right), cosine=factors.ORTHOGONALITY)


def test_a_gram_matrix_alone_would_not_be_orthogonal(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = random_factors(2, 60, 12, 200, spread=1e4)
    monkeypatch.setattr(factors, "ORTHOGONALITY", np.inf)
    with pytest.raises(AssertionError):
        check(left, right, balance(left, right), cosine=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_agree(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = random_factors(3, *shape)
    one = balance(left, right)
    monkeypatch.setattr(factors, "ORTHOGONALITY", 0.0)
    other = balance(left, right)
    kept = min(shape)
    for found, expected in zip(one, other, strict=True):
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(found[:kept, :kept], expected[:kept, :kept], atol=1e-9 * scale)


def test_dependent_rows_are_no_trouble() -> None:
    rng = np.random.default_rng(4)
    left, right = rng.normal(size=(20, 6)), rng.normal(size=(6, 50))
    right[5] = right[0]
    check(left, right, balance(left, right), cosine=1e-9)
    left[:, 3] = 0.0
    check(left, right, balance(left, right), cosine=1e-9)


def test_a_product_that_is_zero_stays_zero() -> None:
    left, right = balance(np.zeros((5, 3)), np.random.default_rng(5).normal(size=(3, 8)))
    assert not (left @ right).any()
    assert np.isfinite(left).all()
    assert np.isfinite(right).all()


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_a_rank_keeps_the_largest(rank: int) -> None:
    left, right = random_factors(6, 12, 5, 3000)
    whole, cut = balance(left, right), balance(left, right, rank=rank)
    kept = min(rank, 5)
    np.testing.assert_allclose(cut[0], whole[0][:, :kept], atol=1e-12)
    np.testing.assert_allclose(cut[1], whole[1][:kept], atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_that_is_given_up_changes_nothing_else(shape: tuple[int, int, int]) -> None:
    left, right = random_factors(7, *shape)
    before = left.copy(), right.copy()
    kept = balance(left, right)
    np.testing.assert_array_equal(left, before[0])
    np.testing.assert_array_equal(right, before[1])
    reused = balance(left, right, overwrite=True)
    np.testing.assert_allclose(reused[0], kept[0], atol=1e-12)
    np.testing.assert_allclose(reused[1], kept[1], atol=1e-12)
    np.testing.assert_array_equal(left, before[0])
