"""Figures of an attack from its scores, each with the value of blind guessing beside it.

Numpy only. Members are candidates that truly are among the edits; scores of ties count half.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collabedit.intervals import clopper_pearson
from collabedit.sketch import Matrix

Members = NDArray[np.bool_]
"""Which candidates are members, [candidates]."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value, what guessing gives, and where the truth lies with 95 % confidence.

    Attributes:
        value: what was measured.
        chance: its expectation for scores that do not depend on membership.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    chance: float
    low: float
    high: float

    @property
    def is_chance(self) -> bool:
        """Whether the interval contains the chance level."""
        return self.low <= self.chance <= self.high


def proportion(successes: int, trials: int, *, chance: float) -> Figure:
    """Return the share of successes with its Clopper-Pearson interval."""
    low, high = clopper_pearson(successes, trials)
    return Figure(successes / trials, chance, low, high)


def _check(scores: Matrix, members: Members) -> tuple[int, int]:
    if scores.ndim != 1 or scores.shape != members.shape:
        raise ValueError(f"scores {scores.shape} and members {members.shape} are not one list")
    inside = int(members.sum())
    if not 0 < inside < len(scores):
        raise ValueError("there must be members and others")
    return inside, len(scores) - inside


def recall_at(scores: Matrix, members: Members, count: int) -> Figure:
    """Return the share of members among the `count` highest scores; KSTER's recall@N.

    Ties at the border count by their share of the places left. The interval takes members for
    independent trials. Chance: count/candidates.
    """
    inside, _ = _check(scores, members)
    if not 1 <= count <= len(scores):
        raise ValueError(f"the highest {count} of {len(scores)} scores")
    border = np.sort(scores)[-count]
    above = scores > border
    tied = scores == border
    share = (count - int(above.sum())) / int(tied.sum())
    found = float((members & above).sum()) + share * float((members & tied).sum())
    low, high = clopper_pearson(round(found), inside)
    return Figure(found / inside, count / len(scores), low, high)


def auc(scores: Matrix, members: Members) -> Figure:
    """Return the probability that a random member scores above a random other.

    Mann and Whitney 1947 (Annals of Mathematical Statistics 18). The interval is the normal one of
    Hanley and McNeil 1982 (Radiology 143), but at least as wide as under chance, where the variance
    is (n₁ + n₂ + 1)/(12 n₁n₂): near 1 theirs shrinks to nothing. Chance: 1/2.
    """
    inside, outside = _check(scores, members)
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Mean rank of each group of equal scores, from 1.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    value = (float(ranks[members].sum()) - inside * (inside + 1) / 2) / (inside * outside)
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value) + (inside - 1) * (q1 - value**2) + (outside - 1) * (q2 - value**2)
    ) / (inside * outside)
    blind = (inside + outside + 1) / (12 * inside * outside)
    reach = 1.959964 * math.sqrt(max(variance, blind))
    return Figure(value, 0.5, max(0.0, value - reach), min(1.0, value + reach))


def tpr_at_fpr(scores: Matrix, members: Members, rate: float) -> Figure:
    """Return the share of members above a threshold that at most `rate` of the others exceed.

    Carlini et al. 2022 (arXiv 2112.03570): what an attacker that must be sure gets. The threshold
    is set on the others' scores themselves. Chance: `rate`, less what small numbers round off.
    """
    inside, outside = _check(scores, members)
    if not 0 <= rate < 1:
        raise ValueError("a false positive rate is in 0..1")
    allowed = math.floor(rate * outside)
    threshold = np.sort(scores[~members])[-1 - allowed]
    found = int((scores[members] > threshold).sum())
    low, high = clopper_pearson(found, inside)
    return Figure(found / inside, allowed / outside, low, high)
