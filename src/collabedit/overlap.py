"""The plan's section about overlap: what is done with edits that several parties bring, or deny.

A counting task adds up two tables, one for (subject, relation), one for (subject, relation,
object). A table has `rows` rows of `width` cells; an item raises one cell in each row, its count is
the smallest of these cells. That is a count-min sketch (Cormode and Muthukrishnan 2005, J.
Algorithms 55) with a row for each hash function: counts are never too low, and too high only if
some other item meets this one in every row. With at most n items in a table the probability of
that is at most (1 - (1 - 1/width)^(n-1))^rows, and over all counts of both tables at most 2n times
as much (docs/mathematics.md, section 9). Departs from the paper in the bound: it is about any error
at all, not about its size, and over all counts at once.
"""

import math
from fractions import Fraction
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from collabedit.section import Section

Policy: TypeAlias = Literal["majority", "drop", "keep", "augment"]

MAXIMUM_ROWS = 64
MAXIMUM_WIDTH = 1 << 20
"""With 64 rows, two tables of 64-bit cells are 1 GiB: the longest tile of a keystream."""

TABLES = 2
CHECK_BITS = 64
"""An altered sum passes the check elements with probability 2^-64 at most (SPEC 6.7(d))."""

_ROUNDING = 1e-9
"""Relative allowance for the last bits of a logarithm, which differ between machines."""


class Overlap(Section):
    """How edits that several parties share are found, and what becomes of those that conflict.

    Attributes:
        policy: of an edit whose subject and relation somebody brings with another object:
            `majority` keeps it if more than half of all such edits agree with it, `drop` never
            does, `keep` always does, `augment` does and lets a majority add paraphrases.
        false_positive: largest probability that any count of the session is too high.
        rows: of a table, each with a hash function of its own.
        width: cells of a row.
        paraphrases: `augment`: most requests that an edit of the majority adds.
    """

    policy: Policy
    false_positive: Annotated[float, Field(gt=0, lt=1)]
    rows: Annotated[int, Field(ge=1, le=MAXIMUM_ROWS)]
    width: Annotated[int, Field(ge=2, le=MAXIMUM_WIDTH)]
    paraphrases: Annotated[int, Field(ge=1, le=1000)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Overlap":
        if (self.paraphrases is not None) != (self.policy == "augment"):
            need = "needs" if self.policy == "augment" else "takes no"
            raise ValueError(f"policy {self.policy} {need} paraphrases")
        return self

    @property
    def cells(self) -> int:
        """Cells of both tables."""
        return TABLES * self.rows * self.width

    def check_size(self, edits: int) -> None:
        """Refuse tables that are too small for `edits` edits of all parties.

        Raises:
            ValueError: says what the tables give, and the smallest ones that do.
        """
        bound = error_bound(edits, rows=self.rows, width=self.width)
        if bound <= self.false_positive * (1 + _ROUNDING):
            return
        try:
            rows, width = smallest_tables(edits, self.false_positive)
        except ValueError as error:
            raise ValueError(f"false_positive {self.false_positive:g}: {error}") from error
        raise ValueError(
            f"{self.rows} rows of {self.width} cells give {edits} edits a count that is too high "
            f"with probability up to {bound:.2g}, allowed is {self.false_positive:g}: {rows} rows "
            f"of {width} are enough"
        )


def error_bound(edits: int, *, rows: int, width: int) -> float:
    """Bound the probability that any count is too high: 2n(1 - (1 - 1/width)^(n-1))^rows.

    Args:
        edits: n, 2 or more, of all parties.
        rows: of a table.
        width: cells of a row, 2 or more.
    """
    meets = -math.expm1((edits - 1) * math.log1p(-1 / width))
    return float(TABLES * edits * meets**rows)


def smallest_tables(edits: int, false_positive: float) -> tuple[int, int]:
    """Choose the rows and width with the fewest cells that keep the bound.

    Args:
        edits: n, 2 or more, of all parties.
        false_positive: largest bound.

    Raises:
        ValueError: the largest tables do not.
    """
    found: list[tuple[int, int, int]] = []
    for rows in range(1, MAXIMUM_ROWS + 1):
        low, high = 2, MAXIMUM_WIDTH
        if error_bound(edits, rows=rows, width=high) > false_positive:
            continue
        while low < high:
            middle = (low + high) // 2
            if error_bound(edits, rows=rows, width=middle) <= false_positive:
                high = middle
            else:
                low = middle + 1
        found.append((rows * low, rows, low))
    if not found:
        raise ValueError(
            f"no tables of up to {MAXIMUM_ROWS} rows of {MAXIMUM_WIDTH} cells count {edits} edits "
            "that well"
        )
    _, rows, width = min(found)
    return rows, width


def check_elements(edits: int, *, ring_bits: int) -> int:
    """Return how many check elements follow the tables (SPEC 6.7(d)).

    A cell of n edits that is altered and stays within 0..n is altered by at most n, so by a
    multiple of no higher power of two than 2^⌊log2 n⌋: each element catches it with probability
    1 - 2^(⌊log2 n⌋ - bits).
    """
    return math.ceil(Fraction(CHECK_BITS, ring_bits - (edits.bit_length() - 1)))
