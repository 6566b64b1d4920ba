import numpy as np
import pytest

from collabedit.crypto.ckks.modular import (
    add_mod,
    multiply_mod,
    reduce_mod,
    subtract_mod,
    to_centred,
    to_residues,
)
from collabedit.crypto.ckks.parameters import CkksParameters

PRIMES = sorted(
    {
        *CkksParameters().primes,
        *CkksParameters(moduli_bits=(56, 40, 32, 56), shift_bits=0).primes,
        *CkksParameters(moduli_bits=(60, 20), scale_bits=0, shift_bits=0).primes,
    }
)


def residues(prime: int) -> np.ndarray:
    """The edges of the range, and a few thousand between."""
    edges = [0, 1, 2, prime // 2, prime // 2 + 1, prime - 2, prime - 1]
    drawn = np.random.default_rng(prime % 2**32).integers(0, prime, 3000, dtype=np.uint64)
    return np.concatenate([np.array(edges, np.uint64), drawn])


@pytest.mark.parametrize("prime", PRIMES)
def test_sums_and_differences_are_those_of_integers(prime: int) -> None:
    left, right = residues(prime), residues(prime)[::-1].copy()
    pairs = list(zip(left.tolist(), right.tolist(), strict=True))
    assert add_mod(left, right, prime).tolist() == [(a + b) % prime for a, b in pairs]
    assert subtract_mod(left, right, prime).tolist() == [(a - b) % prime for a, b in pairs]


@pytest.mark.parametrize("prime", PRIMES)
def test_products_with_constants_are_those_of_integers(prime: int) -> None:
    values = residues(prime)
    for factor in (0, 1, 2, 2**30 - 1, 2**30, 2**30 + 1, prime - 1, prime // 3, -5, prime**2 + 7):
        expected = [value * factor % prime for value in values.tolist()]
        assert multiply_mod(values, factor, prime).tolist() == expected


@pytest.mark.parametrize("prime", PRIMES)
def test_signed_integers_come_back(prime: int) -> None:
    half = (prime - 1) // 2
    signed = np.array([0, 1, -1, half, -half, half - 1, 1 - half], np.int64)
    assert to_residues(signed, prime).tolist() == [value % prime for value in signed.tolist()]
    assert to_centred(to_residues(signed, prime), prime).tolist() == signed.tolist()


def test_any_word_can_be_reduced() -> None:
    words = np.array([0, 2**64 - 1, 2**63], np.uint64)
    assert reduce_mod(words, PRIMES[-1]).tolist() == [w % PRIMES[-1] for w in words.tolist()]
