import numpy as np
import pytest

from collabedit.errors import NumericError
from collabedit.party.editing.baselines import (
    centralised_update,
    simple_average,
    task_arithmetic,
    ties_merge,
)
from collabedit.party.editing.key_map import KeyMap, Matrix, null_space_size
from collabedit.sketch import dense_statistics, merge_dense

SIZE, OUTPUTS, EDITS, WEIGHT = 20, 7, 5, 30.0


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.fixture
def second_moment(rng: np.random.Generator) -> Matrix:
    samples = rng.normal(size=(SIZE, 3 * SIZE)) * np.geomspace(1, 1e-3, SIZE)[:, None]
    moment: Matrix = samples @ samples.T / samples.shape[1]
    return moment


def relative_error(actual: Matrix, expected: Matrix) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def merged(key_map: KeyMap, keys: Matrix, residuals: Matrix) -> Matrix:
    """T(I + S)⁻¹Φ through the shared merge."""
    update = merge_dense(dense_statistics(key_map.map_keys(keys), residuals), ridge=1.0, noise=0.0)
    return update.left @ key_map.unmap_rows(update.right)


def test_memit_map_whitens_the_covariance(second_moment: Matrix) -> None:
    key_map = KeyMap.from_covariance(second_moment, WEIGHT)
    white = key_map.map_keys(key_map.map_keys(WEIGHT * second_moment).T)
    np.testing.assert_allclose(white, np.eye(SIZE), atol=1e-9)
    assert (key_map.d_in, key_map.mapped, key_map.ridge) == (SIZE, SIZE, 0.0)


def test_memit_map_gives_the_centralised_update(
    second_moment: Matrix, rng: np.random.Generator
) -> None:
    keys, residuals = rng.normal(size=(SIZE, EDITS)), rng.normal(size=(OUTPUTS, EDITS))
    update = merged(KeyMap.from_covariance(second_moment, WEIGHT), keys, residuals)
    expected = centralised_update(keys, residuals, WEIGHT * second_moment)
    assert relative_error(update, expected) < 1e-10


def test_centralised_update_solves_the_normal_equations(
    second_moment: Matrix, rng: np.random.Generator
) -> None:
    keys, residuals = rng.normal(size=(SIZE, EDITS)), rng.normal(size=(OUTPUTS, EDITS))
    update = centralised_update(keys, residuals, second_moment)
    np.testing.assert_allclose(
        update @ (second_moment + keys @ keys.T), residuals @ keys.T, atol=1e-10
    )


def test_ridge_map(rng: np.random.Generator) -> None:
    keys, residuals = rng.normal(size=(SIZE, EDITS)), rng.normal(size=(OUTPUTS, EDITS))
    expected = centralised_update(keys, residuals, np.exp(0.7) * np.eye(SIZE))
    assert relative_error(merged(KeyMap.scaled(SIZE, 0.7), keys, residuals), expected) < 1e-10


@pytest.mark.parametrize("kind", ["covariance", "scaled", "null"])
def test_unmapping_rows_is_the_transpose_of_mapping_keys(
    kind: str, second_moment: Matrix, rng: np.random.Generator
) -> None:
    key_map = {
        "covariance": lambda: KeyMap.from_covariance(second_moment, WEIGHT),
        "scaled": lambda: KeyMap.scaled(SIZE, 1.5),
        "null": lambda: KeyMap.from_null_space(
            second_moment, kept=null_space_size(second_moment, 1e-3), threshold=1e-3, l2=10.0
        ),
    }[kind]()
    keys, rows = rng.normal(size=(SIZE, 3)), rng.normal(size=(4, key_map.mapped))
    assert key_map.map_keys(keys).shape == (key_map.mapped, 3)
    np.testing.assert_allclose(rows @ key_map.map_keys(keys), key_map.unmap_rows(rows) @ keys)
    assert "_lower" not in repr(key_map)
    merged_rows = key_map.map_keys(keys).T
    again = key_map.remap_rows(key_map.unmap_rows(merged_rows))
    np.testing.assert_allclose(again, merged_rows, rtol=1e-9, atol=1e-12)


def test_a_singular_covariance_gets_the_smallest_ridge_and_says_so(
    rng: np.random.Generator,
) -> None:
    thin = rng.normal(size=(SIZE, 6))
    key_map = KeyMap.from_covariance(thin @ thin.T, WEIGHT)
    mean_diagonal = float(np.mean(np.sum(thin**2, axis=1)))
    assert 0 < key_map.ridge <= 1e-11 * mean_diagonal
    assert np.isfinite(key_map.map_keys(rng.normal(size=(SIZE, 2)))).all()


@pytest.mark.parametrize(
    "matrix", [-np.eye(4), np.diag([1.0, 1.0, 1.0, -0.5]), np.full((4, 4), np.nan)]
)
def test_no_covariance_is_refused(matrix: Matrix) -> None:
    with pytest.raises(NumericError):
        KeyMap.from_covariance(matrix, WEIGHT)


def test_merges_of_parties(rng: np.random.Generator) -> None:
    updates = [rng.normal(size=(OUTPUTS, SIZE)) for _ in range(4)]
    np.testing.assert_allclose(task_arithmetic(updates), sum(updates))
    np.testing.assert_allclose(simple_average(updates), np.mean(updates, axis=0))


def test_ties_equals_a_plain_reading_of_the_paper(rng: np.random.Generator) -> None:
    updates = [rng.normal(size=(OUTPUTS, SIZE)) for _ in range(4)]
    kept = []
    for update in updates:
        count = int(0.2 * update.size)
        threshold = np.sort(np.abs(update), axis=None)[-count]
        kept.append(np.where(np.abs(update) >= threshold, update, 0.0))
    stack = np.stack(kept)
    sign = np.where(stack.sum(axis=0) >= 0, 1, -1)
    agreeing = np.sign(stack) == sign
    expected = 0.4 * (stack * agreeing).sum(axis=0) / np.maximum(agreeing.sum(axis=0), 1)
    np.testing.assert_allclose(ties_merge(updates), expected)


def test_a_sum_that_is_not_positive_definite_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(NumericError, match="not positive definite"):
        centralised_update(np.zeros((3, 1)), np.zeros((2, 1)), -np.eye(3))
