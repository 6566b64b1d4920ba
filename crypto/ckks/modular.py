"""Arithmetic on arrays of residues of primes below 2^60.

Residues are uint64 in 0..p-1. SEAL multiplies polynomials; what is left here is adding, and
multiplying by constants, which numpy does without 128-bit integers.
"""

import numpy as np
import numpy.typing as npt

Residues = npt.NDArray[np.uint64]
"""One polynomial modulo one prime, or several: values in 0..p-1, n along the last axis."""

_HALF_BITS = 30


def add_mod(left: Residues, right: Residues, prime: int) -> Residues:
    """Return left + right modulo p."""
    total = left + right  # below 2^61
    # Where total < p the difference wraps to something huge, and the minimum is the total.
    reduced: Residues = np.minimum(total, total - np.uint64(prime))
    return reduced


def subtract_mod(left: Residues, right: Residues, prime: int) -> Residues:
    """Return left - right modulo p."""
    difference = left - right
    reduced: Residues = np.minimum(difference, difference + np.uint64(prime))
    return reduced


def _multiply_half(values: Residues, factor: int, prime: int) -> Residues:
    # Barrett's reduction with a quotient in float64: values·factor/p is below 2^30, so its relative
    # error of 2^-51 moves the floor by one at most, and the remainder, exact modulo 2^64, is in
    # -p..2p-1.
    quotient = (values.astype(np.float64) * (factor / prime)).astype(np.uint64)
    remainder: Residues = values * np.uint64(factor) - quotient * np.uint64(prime)
    remainder = np.minimum(remainder, remainder + np.uint64(prime))
    reduced: Residues = np.minimum(remainder, remainder - np.uint64(prime))
    return reduced


def multiply_mod(values: Residues, factor: int, prime: int) -> Residues:
    """Return values·factor modulo p, for one factor.

    Args:
        values: residues.
        factor: any integer.
        prime: p, below 2^60.
    """
    factor %= prime
    high, low = factor >> _HALF_BITS, factor & ((1 << _HALF_BITS) - 1)
    product = _multiply_half(values, low, prime)
    if not high:
        return product
    upper = _multiply_half(values, high, prime)
    return add_mod(product, _multiply_half(upper, 1 << _HALF_BITS, prime), prime)


def to_residues(integers: npt.NDArray[np.int64], prime: int) -> Residues:
    """Return signed integers of magnitude below p as residues."""
    unsigned = integers.view(np.uint64)
    residues: Residues = np.minimum(unsigned, unsigned + np.uint64(prime))
    return residues


def to_centred(residues: Residues, prime: int) -> npt.NDArray[np.int64]:
    """Return the representatives in -(p-1)/2..(p-1)/2."""
    signed = residues.astype(np.int64)
    signed[residues > np.uint64(prime // 2)] -= prime
    return signed


def reduce_mod(residues: Residues, prime: int) -> Residues:
    """Return any uint64 values modulo p."""
    return residues % np.uint64(prime)
