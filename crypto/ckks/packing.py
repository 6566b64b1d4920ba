"""Reals to polynomials, and phases of sums to reals.

Numbers become integers by `FixedPoint`, like those of masked sums, with the same proofs of
headroom. Each is a coefficient of the message polynomial.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ckks.flooding import uniform_residues
from collabedit.crypto.ckks.modular import (
    Residues,
    add_mod,
    multiply_mod,
    reduce_mod,
    subtract_mod,
    to_centred,
    to_residues,
)
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.errors import NumericError

_TILE_BITS: Final = 16
"""Rejection takes a few tiles for each draw; 2^16 are set apart."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How the numbers of one task are written.

    Attributes:
        parameters: ring and scale.
        magnitude_bound: B, the largest |x| that any party may contribute.
        parties: N, the most contributions that are ever added.

    Raises:
        NumericError: N parties at the bound could exceed what the data prime holds.
    """

    parameters: CkksParameters
    magnitude_bound: float
    parties: int

    def __post_init__(self) -> None:
        largest = self.parties * self.largest_integer
        if largest > self.parameters.largest_sum:
            raise NumericError(
                f"{self.parties} parties, each up to {self.magnitude_bound:g} with "
                f"{self.parameters.scale_bits} fractional bits, may exceed the data prime, which "
                f"holds {self.parameters.largest_real_sum:g}; use fewer scale_bits or shift_bits, "
                f"or a smaller magnitude bound"
            )

    @property
    def fixed_point(self) -> FixedPoint:
        """The rounding; refuses what is beyond the bound or not finite."""
        return FixedPoint(Ring.Z64, self.parameters.scale_bits, self.magnitude_bound, self.parties)

    @property
    def largest_integer(self) -> int:
        """Largest |z| of one contribution."""
        fixed = self.fixed_point
        return math.floor(math.ldexp(fixed.magnitude_bound, fixed.fractional_bits)) + 1

    def encode(self, values: npt.NDArray[np.float64]) -> Residues:
        """Write numbers as message polynomials z·Γ modulo the data prime: [chunks, n].

        Modulo the guard primes, which divide Γ, they are zero.

        Raises:
            NumericError: a value is not finite or beyond the bound.
        """
        return self.encode_integers(self.fixed_point.encode(values).view(np.int64))

    def check_integers(self, integers: npt.NDArray[np.int64]) -> None:
        """Refuse what `encode_integers` has no room for.

        Raises:
            NumericError: an integer is beyond what the bound allows one party.
        """
        if integers.size and max(int(integers.max()), -int(integers.min())) > self.largest_integer:
            raise NumericError(
                f"a contribution exceeds the magnitude bound {self.magnitude_bound:g}"
            )

    def encode_integers(self, integers: npt.NDArray[np.int64]) -> Residues:
        """Write numbers that are fixed-point integers already; see `encode`.

        Raises:
            NumericError: an integer is beyond what the bound allows one party.
        """
        self.check_integers(integers)
        degree, prime = self.parameters.ring_degree, self.parameters.data_prime
        padded = np.zeros(self.parameters.chunks(len(integers)) * degree, np.int64)
        padded[: len(integers)] = integers
        residues = to_residues(padded, prime).reshape(-1, degree)
        return multiply_mod(residues, self.parameters.guard, prime)

    def check_sum(self, integers: npt.NDArray[np.int64]) -> None:
        """Refuse opened integers that no sum can have.

        Raises:
            NumericError: one is beyond what N parties within the bound can make. It was encrypted
                under another key, or altered, or a party broke its bound.
        """
        if integers.size and int(np.abs(integers).max()) > self.parties * self.largest_integer + 1:
            raise NumericError(
                "an opened sum is beyond what the parties may contribute together: an upload was "
                "made under another key or altered, or a party broke its bound"
            )

    def decode(self, integers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Read opened integers as reals.

        Raises:
            NumericError: see `check_sum`.
        """
        self.check_sum(integers)
        return np.ldexp(integers.astype(np.float64), -self.parameters.scale_bits)


def rescale_flooded(
    parameters: CkksParameters, phase: Residues, stream: Keystream, tile: int
) -> npt.NDArray[np.int64]:
    """Return ⌊(Σz·Γ + e + F)/Γ⌋ for fresh uniform F: the flooded rounding of `flooding`.

    Args:
        parameters: with a guard.
        phase: c₀ + c₁·s in coefficients, [primes, n].
        stream: gives F; a fresh key for each opening.
        tile: place in the stream, below 2^32; each chunk has its own.

    Returns:
        Integers, [n].
    """
    prime, guards, count = parameters.data_prime, parameters.guard_primes, phase.shape[-1]
    first = (tile * (len(guards) + 1)) << _TILE_BITS
    # (phase + F) modulo Πp, p the guard primes, is uniform if F is, so it is what is drawn, digit
    # by digit in mixed radix: t = t₁ + p₁·(t₂ + p₂·(...)). F, 0 ≤ F < Πp, follows from residues.
    digits = [
        uniform_residues(stream, first + (place << _TILE_BITS), count, guard)
        for place, guard in enumerate(guards)
    ]
    differences = [
        subtract_mod(_from_digits(digits, guards, guard, count), residue, guard)
        for guard, residue in zip(guards, phase[1:], strict=True)
    ]
    flood = _from_digits(_to_digits(differences, guards), guards, prime, count)
    remainder = _from_digits(digits, guards, prime, count)
    # (phase + F - t) is a multiple of Πp; dividing by it modulo the data prime is exact.
    lifted = subtract_mod(add_mod(phase[0], flood, prime), remainder, prime)
    inverse = pow(math.prod(guards), -1, prime)
    quotient = to_centred(multiply_mod(lifted, inverse, prime), prime)
    # The rest of Γ is a power of two: uniform low bits, then the floor.
    mask = np.uint64((1 << parameters.shift_bits) - 1)
    drawn = stream.tile(first + (len(guards) << _TILE_BITS), count, Ring.Z64).astype(np.uint64)
    low = (drawn & mask).view(np.int64)
    released: npt.NDArray[np.int64] = (quotient + low) >> parameters.shift_bits
    return released


def _to_digits(residues: list[Residues], primes: tuple[int, ...]) -> list[Residues]:
    """Return the mixed-radix digits of the integer with these residues (Garner's algorithm)."""
    digits: list[Residues] = []
    for place, (residue, prime) in enumerate(zip(residues, primes, strict=True)):
        below = _from_digits(digits, primes[:place], prime, residue.size)
        inverse = pow(math.prod(primes[:place]), -1, prime)
        digits.append(multiply_mod(subtract_mod(residue, below, prime), inverse, prime))
    return digits


def _from_digits(
    digits: list[Residues], primes: tuple[int, ...], modulus: int, count: int
) -> Residues:
    """Return the integers with these mixed-radix digits, modulo a prime."""
    total, radix = np.zeros(count, np.uint64), 1
    for digit, prime in zip(digits, primes, strict=True):
        term = multiply_mod(reduce_mod(digit, modulus), radix, modulus)
        total = add_mod(total, term, modulus)
        radix *= prime
    return total
