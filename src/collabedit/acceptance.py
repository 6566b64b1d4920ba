"""Acceptance: what each party holds a session's update against, and how it votes on it.

With an `[acceptance]` section in the plan every party measures the model before the session and
with all updates of the session in it, on data that only it has, and signs one `Vote` in r6 of the
last task (SPEC 4.7). Nothing that was measured leaves the party: the vote says yes, or names the
first bound that does not hold.
"""

import enum
import math
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from collabedit.section import Section

Share = Annotated[float, Field(ge=0, le=1)]

EFFICACY = 0.75
"""Proposed: a party does not ask for every edit, since another party's may contradict it, and one
of four lost leaves room for that; below, the session did not do what the party came for."""

NEIGHBOURHOOD_DROP = 0.1
"""Proposed: the demo's twelve edits cost 3 to 7 points of the neighbourhood prompts with a
covariance of prose, and 20 with one of unfit text (LIMITATIONS.md, Editing), to be refused."""

PERPLEXITY_RATIO = 1.1
"""Proposed: the same edits move the perplexity of general text by less than 1 %, and a broken layer
moves it by orders of magnitude; a short text needs some room."""


class Acceptance(Section):
    """How an update is voted on, once the last task of a session has released it.

    Attributes:
        votes: fewest accepting parties; with fewer everybody takes the session back.
        efficacy: smallest share of a party's own edits that hold afterwards.
        neighbourhood_drop: largest loss of the share of its neighbourhood prompts that answer as
            they should, from before the session to after it.
        perplexity_ratio: largest perplexity of its own text afterwards, in units of that before.
    """

    votes: Annotated[int, Field(ge=1)]
    efficacy: Share
    neighbourhood_drop: Share
    perplexity_ratio: Annotated[float, Field(ge=1, le=1000)]


class Vote(enum.IntEnum):
    """What a party says of an update in r6. Values are wire-stable: never renumber, never reuse."""

    NONE = 0
    """No vote is asked: every task but the last one of a plan with an acceptance section."""
    ACCEPT = 1
    OWN_EDITS = 2
    """Too few of the party's own edits hold."""
    NEIGHBOURHOOD = 3
    """Too many answers changed that should not."""
    PERPLEXITY = 4
    """The model reads general text too much worse."""
    UNUSABLE = 5
    """The update cannot be applied: malformed, beyond the plan's bounds, or not finite."""

    @property
    def word(self) -> str:
        """The vote as logs and reports show it."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Measures:
    """What a party measured of a model, on data that stays with it. Holds no text.

    Attributes:
        efficacy: share of its edits that hold; None without edits that weigh something.
        neighbourhood: share of its neighbourhood prompts that answer as they should; None without
            such prompts.
        perplexity: of its text, at least 1; not finite if the model is broken.
    """

    efficacy: float | None = field(repr=False)
    neighbourhood: float | None = field(repr=False)
    perplexity: float = field(repr=False)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A vote and its reasons. Only `vote` may leave the party.

    Attributes:
        vote: as signed.
        before: of the model before the session.
        after: with the session's updates; None if the last one cannot be applied.
    """

    vote: Vote
    before: Measures
    after: Measures | None


def describe(assessment: Assessment) -> dict[str, object]:
    """Return an assessment as the party's own log and report show it."""
    sides = (("before", assessment.before), ("after", assessment.after))
    return {
        "vote": assessment.vote.word,
        **{
            side: {
                "efficacy": _rounded(measures.efficacy),
                "neighbourhood": _rounded(measures.neighbourhood),
                "perplexity": _rounded(measures.perplexity),
            }
            for side, measures in sides
            if measures is not None
        },
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else round(number, 4)


def judge(acceptance: Acceptance, before: Measures, after: Measures) -> Vote:
    """Hold an update against the plan: accept, or the first bound that does not hold.

    A measure that one of the two does not have is not asked for. One that is not a number fails.
    """
    if after.efficacy is not None and not after.efficacy >= acceptance.efficacy:
        return Vote.OWN_EDITS
    if before.neighbourhood is not None and after.neighbourhood is not None:
        drop = before.neighbourhood - after.neighbourhood
        if not drop <= acceptance.neighbourhood_drop:
            return Vote.NEIGHBOURHOOD
    if not after.perplexity <= acceptance.perplexity_ratio * before.perplexity:
        return Vote.PERPLEXITY
    return Vote.ACCEPT
