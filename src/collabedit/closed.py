"""The plan's section about closed sums: parties alone know in which basis the aggregator sees them.

They check its merge with vectors that it does not know, either. Neither the basis nor the vectors
are in the plan: both follow from the group secret of each task (SPEC 4.3(b)). Hence every task of
such a plan has the full graph.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Final

from pydantic import Field

from collabedit.section import Section

INTEGERS: Final = 4
"""Of each layer behind the check columns: columns of K̃ and of R, key and residual energy."""

ENERGY_UNITS: Final = 1 << 20
"""An energy is counted in this part of the most that all parties may bring, and rounded up."""

PROPOSED_MIN_EDITS: Final = 30
"""The trace of S is a subset sum over candidates' lengths. With 1,000 candidates and their exact
prompts, meeting in the middle finds all of 5 edits in seconds and one in ten of 10
(`make closed-sums-table`); 30 would take C(1000, 15) ≈ 2¹⁰⁹ half sums."""

PROPOSED_DECOY_BOUND: Final = 0.01
"""Of new plans with keys of one length, whose residuals would tell what the keys no longer do."""

TAG_BITS: Final = 64
"""An aggregator that shifts the integers is caught but with probability 2⁻⁶⁴."""

DECOY_REACH: Final = 32.0
"""Standard deviations that an entry of σD·K̃ᵀω may reach: of a product of two standard normals
P(|xy| > 32) is below 10⁻¹⁴, and it falls off faster the more columns share the sum."""


class Closed(Section):
    """How the sums of layers are closed to the aggregator.

    Attributes:
        check_columns: c, secret vectors with which each party checks each layer's update.
        check_tolerance: largest share of ‖R‖₂‖S‖₂^½ by which an update may miss beyond what
            rounding always explains, for keys that sums cannot tell apart (`party.tolerance`).
        cover_edits: random keys without a residual that each party adds to its own.
        min_edits: fewest edits, of all survivors together, whose update parties let pass; 0 for
            any number.
        decoy_bound: ε, largest total variation between what the aggregator sees of a task and what
            the spectrum of S alone would give it (docs/closed-sums.md, proposition 6), by rows of
            noise under the residuals; None adds none.
    """

    check_columns: Annotated[int, Field(ge=1, le=64)] = 4
    check_tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-4
    cover_edits: Annotated[int, Field(ge=0, le=10_000)] = 0
    min_edits: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    decoy_bound: Annotated[float, Field(ge=1e-6, le=1)] | None = None

    def check_elements(self, rows: Sequence[int]) -> int:
        """Ring elements of the check columns and integers of a task, without the tags.

        Args:
            rows: of S and T together, of each layer.
        """
        return self.check_columns * sum(rows) + INTEGERS * len(rows)

    def decoy_deviation(self, *, residuals: float) -> float:
        """Return σ of the decoy rows: ‖R‖_F/(2σ) ≤ ε; 0 without them.

        Args:
            residuals: largest ‖R‖_F² of all parties together.
        """
        return 0.0 if self.decoy_bound is None else math.sqrt(residuals) / (2 * self.decoy_bound)

    def decoy_reach(self, *, residuals: float, keys: float) -> float:
        """Largest number, by all likelihood, that decoys make of one party's contribution.

        Args:
            residuals: largest ‖R‖_F² of all parties together.
            keys: largest ‖K̃‖_F² of one party.
        """
        return DECOY_REACH * self.decoy_deviation(residuals=residuals) * math.sqrt(keys)


def decoy_norm(rows: int, columns: int) -> float:
    """Bound ‖D‖_F of independent standard normals D [rows, columns].

    √(rows·columns) + √(2t) but with probability e^(-t), here 2⁻⁶⁴ (Boucheron, Lugosi and Massart
    2013, theorem 5.6: the norm is 1-Lipschitz).
    """
    return math.sqrt(rows * columns) + math.sqrt(2 * TAG_BITS * math.log(2))


def check_tags(columns: int, *, ring_bits: int) -> int:
    """Return how many tags follow the integers of a task (SPEC 6.9(d)).

    An integer of at most x that is shifted and stays within 0..x is shifted by a multiple of no
    higher power of two than 2^⌊log2 x⌋, which each tag catches with probability
    1 - 2^(⌊log2 x⌋ - bits).

    Args:
        columns: of K̃, that all parties may bring.
        ring_bits: 32 or 64.
    """
    largest = max(columns, 2 * ENERGY_UNITS)
    return math.ceil(Fraction(TAG_BITS, ring_bits - (largest.bit_length() - 1)))
