"""Reals to ring elements and back, with headroom proven before anything is sent.

Departs from the usual fixed-point encoders of this field, which truncate, wrap or clip in silence:
here a setting that could overflow cannot be constructed, and a value beyond its bound is refused
before it is masked.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from collabedit.crypto.ring import Ring, RingArray
from collabedit.errors import NumericError

_BLOCK = 1 << 14
"""Numbers that are scaled and rounded at once: they stay in a core's cache on the way."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """How a real is written in the ring: round(x * 2^f), in two's complement.

    *Headroom.* An accepted x has |x| <= B (the magnitude bound), so its integer has magnitude at
    most M = ceil(B * 2^f + 1/2). The constructor proves N * M < 2^(bits-1), in exact arithmetic: a
    sum over any subset of N parties cannot wrap, so decoding reads it back exactly as the integer
    that it is.

    *Error.* Scaling by 2^f is exact in float64 (a power of two; B * 2^f < 2^63 excludes overflow, f
    >= 0 underflow). Rounding to nearest errs by at most half a step, 2^-f / 2, per party. The ring
    sum is exact, so a decoded sum of N parties is within

        N/2 * 2^-f

    of the true sum, plus the one rounding of an integer beyond 2^53 to float64 (relative 2^-53).

    Attributes:
        ring: the ring of the sum.
        fractional_bits: f, 0..bits-2.
        magnitude_bound: B, the largest |x| that any party may contribute; finite and positive.
        parties: N, the most contributions that are ever added; 1 or more.

    Raises:
        NumericError: N parties at the bound could wrap.
        ValueError: an attribute is out of its own range.
    """

    ring: Ring
    fractional_bits: int
    magnitude_bound: float
    parties: int

    def __post_init__(self) -> None:
        if not 0 <= self.fractional_bits <= self.ring.bits - 2:
            raise ValueError(f"fractional_bits must be in 0..{self.ring.bits - 2}")
        if not (math.isfinite(self.magnitude_bound) and self.magnitude_bound > 0):
            raise ValueError("magnitude_bound must be finite and positive")
        if self.parties < 1:
            raise ValueError("parties must be 1 or more")
        scaled = Fraction(self.magnitude_bound) * 2**self.fractional_bits
        largest = math.ceil(scaled + Fraction(1, 2))
        if self.parties * largest >= 1 << (self.ring.bits - 1):
            wider = "" if self.ring is Ring.Z64 else ", use the 64-bit ring"
            raise NumericError(
                f"{self.parties} parties, each up to {self.magnitude_bound:g} with "
                f"{self.fractional_bits} fractional bits, may overflow the "
                f"{self.ring.bits}-bit ring; use fewer fractional bits or a smaller magnitude "
                f"bound{wider}"
            )

    @property
    def step(self) -> float:
        """The distance of two neighbouring values, 2^-f."""
        return math.ldexp(1.0, -self.fractional_bits)

    def check(self, values: npt.NDArray[np.float64]) -> None:
        """Refuse what `encode` refuses.

        Args:
            values: float64, any shape.

        Raises:
            NumericError: a value is not finite or beyond the bound. Says which rule, never the
                value or its place.
            TypeError: not float64: another precision must be widened by who knows what it means.
        """
        self._check_type(values)
        self._check_range(values)

    def _check_type(self, values: npt.NDArray[np.float64]) -> None:
        if values.dtype != np.float64:
            raise TypeError(f"fixed point encodes float64, not {values.dtype.str}")

    def _check_range(self, values: npt.NDArray[np.float64]) -> None:
        if values.size:
            # max passes a NaN on.
            peak = max(float(values.max()), -float(values.min()))
            if not math.isfinite(peak):
                raise NumericError("a contribution holds a value that is not finite")
            if peak > self.magnitude_bound:
                raise NumericError(
                    f"a contribution exceeds the magnitude bound {self.magnitude_bound:g}; "
                    f"nothing was sent. Raise the bound, or look for an outlier among the inputs"
                )

    def encode(self, values: npt.NDArray[np.float64]) -> RingArray:
        """Round to the nearest step (half to even) and write as ring elements.

        Args:
            values: float64, any shape.

        Returns:
            A new ring array of the same shape.

        Raises:
            NumericError, TypeError: as of `check`.
        """
        self._check_type(values)
        signed = np.empty(values.shape, dtype=np.dtype(f"<i{self.ring.element_bytes}"))
        factor = math.ldexp(1.0, self.fractional_bits)
        source, target = np.ascontiguousarray(values).reshape(-1), signed.reshape(-1)
        scratch = np.empty(min(source.size, _BLOCK))
        for start in range(0, source.size, _BLOCK):
            block = source[start : start + _BLOCK]
            self._check_range(block)
            scaled = np.multiply(block, factor, out=scratch[: block.size])
            np.rint(scaled, out=scaled)
            # Exact: integers below 2^(bits-1) by the bound just checked and the headroom proven on
            # construction.
            target[start : start + _BLOCK] = scaled
        return signed.view(self.ring.dtype)

    def decode(self, values: RingArray) -> npt.NDArray[np.float64]:
        """Read ring elements, single contributions or sums of at most `parties`, as reals.

        Args:
            values: an array of this ring, any shape.

        Raises:
            TypeError: an array of another ring.
        """
        if Ring.of(values) is not self.ring:
            raise TypeError(
                f"expected the {self.ring.bits}-bit ring, not an array of {values.dtype.str}"
            )
        signed = values.view(np.dtype(f"<i{self.ring.element_bytes}"))
        reals = signed.astype(np.float64)
        reals *= self.step
        return reals
