"""The secret basis: orthogonal, the same from the same key, and Haar-distributed."""

import numpy as np
import pytest

from collabedit.party.basis import Rotation
from collabedit.sketch import Matrix

SIZES = (1, 2, 3, 63, 64, 65, 66, 129, 200)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def dense(number: int, size: int) -> Matrix:
    return Rotation(key(number), size).apply(np.eye(size))


@pytest.mark.parametrize("size", SIZES)
def test_rotation_is_orthogonal(size: int) -> None:
    q = dense(1, size)
    np.testing.assert_allclose(q.T @ q, np.eye(size), atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_undo_is_the_transpose(size: int) -> None:
    rotation = Rotation(key(2), size)
    np.testing.assert_allclose(rotation.undo(np.eye(size)), dense(2, size).T, atol=1e-13)


def test_columns_are_rotated_one_by_one() -> None:
    rotation, columns = Rotation(key(3), 100), np.random.default_rng(3).standard_normal((100, 7))
    before = columns.copy()
    whole = rotation.apply(columns)
    np.testing.assert_array_equal(columns, before)
    np.testing.assert_allclose(whole[:, 2:5], rotation.apply(columns[:, 2:5]), atol=1e-13)
    assert rotation.apply(np.zeros((100, 0))).shape == (100, 0)


def test_a_key_gives_one_rotation() -> None:
    np.testing.assert_array_equal(dense(4, 70), dense(4, 70))
    assert np.abs(dense(4, 70) - dense(5, 70)).max() > 0.1


def test_moments_are_those_of_haar_measure() -> None:
    """E tr Q = 0, E tr² = 1, E tr⁴ = 3 for 2k ≤ size (Diaconis and Shahshahani 1994, theorem 4)."""
    draws = np.array([dense(number, 6) for number in range(3000)])
    traces = np.trace(draws, axis1=1, axis2=2)
    for power, expected in ((1, 0.0), (2, 1.0), (4, 3.0)):
        values = traces**power
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - expected) < 5 * error, power
    # Both components of the group are equally likely, and no entry is like another.
    positive = np.mean(np.linalg.det(draws) > 0)
    assert abs(positive - 0.5) < 5 * 0.5 / np.sqrt(len(draws))
    squares = (draws**2).mean(axis=0)
    np.testing.assert_allclose(squares, 1 / 6, atol=0.02)


def test_repr_shows_no_key() -> None:
    assert repr(Rotation(key(7), 8)) == "Rotation(8)"
