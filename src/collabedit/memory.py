"""The plan's `[memory]`: past edits join a session's sums, so that new ones leave them alone.

A past edit is a column √w·k̃ of K̃ whose residual is zero: S grows by w·k̃k̃ᵀ and T by nothing
(CollabEdit, arXiv 2410.09508, "dynamic covariance"; docs/mathematics.md, section 10). Its key is
computed anew on the weights of today, so that it is the one that the update will meet.
"""

from typing import Annotated

from pydantic import Field

from collabedit.section import Section


class Memory(Section):
    """How past edits take part.

    Attributes:
        weight: w, what a past edit weighs in S against a new one. 1 is AlphaEdit's; the published
            code of CollabEdit takes λ, the weight of the covariance.
        max_edits: most past edits that any one party brings; 0 if they are only to be kept for
            later sessions.
    """

    weight: Annotated[float, Field(gt=0, le=1e9)]
    max_edits: Annotated[int, Field(ge=0, le=1_000_000)]
