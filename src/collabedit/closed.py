"""The plan's section about closed sums: parties alone know in which basis the aggregator sees them.

They check its merge with vectors that it does not know, either. Neither the basis nor the vectors
are in the plan: both follow from the group secret of each task (SPEC 4.3(b)). Hence every task of
such a plan has the full graph.
"""

from typing import Annotated

from pydantic import Field

from collabedit.section import Section


class Closed(Section):
    """How the sums of layers are closed to the aggregator.

    Attributes:
        check_columns: c, secret vectors with which each party checks each layer's update.
        cover_edits: random keys without a residual that each party adds to its own.
        min_edits: fewest edits, of all survivors together, whose update parties let pass; 0 for
            any number.
    """

    check_columns: Annotated[int, Field(ge=1, le=64)] = 4
    cover_edits: Annotated[int, Field(ge=0, le=10_000)] = 0
    min_edits: Annotated[int, Field(ge=0, le=1 << 30)] = 0
