"""A lower bound of ε from sessions that edit so many of a pool, drawn at random: one of each pair.

A session that edits exactly n of N candidates includes none of them independently of the others, as
the one-run bound wants (`canaries`, arXiv 2305.08846). But draw a random order, edit the first n,
and lay each of them beside one that was not: given who is paired with whom, which of the two was
edited is a fair coin for each pair, independent of all others, since every way to turn pairs round
is equally likely. To turn one round replaces one edit by another and changes nothing else. So the
coins of pairs are what the bound is about (theorem 5.2 there), and neighbours are two sessions of
which one has another edit in one place (substitution; sizes of shares stay).

The attack's guess is the member of a pair with the higher score. Of pairs it may guess the surest
ones only; which share is best is tried, and each try has its part of the error (Bonferroni).
Draws with orders of their own flip coins of their own. All draws together are one mechanism in
which a coin touches one session, so their guesses add up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collabedit.attacks.attack import Finding
from collabedit.attacks.canaries import EpsilonBound, refuted
from collabedit.ids import PartyId
from collabedit.intervals import CONFIDENCE
from collabedit.sketch import Matrix

SHARES: Final = (1.0, 0.5, 0.25, 0.125)
"""Of the pairs of each draw, how many are guessed about; chosen before any score is seen."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two candidates of which the draw's order made one a member.

    Attributes:
        member: number of the one that was edited.
        other: of the one that was not.
        party: who edited, and would have edited the other one instead.
    """

    member: int
    other: int
    party: PartyId


@dataclass(frozen=True, slots=True)
class Guesses:
    """What came of guessing which of each pair was edited.

    Attributes:
        pairs: of one draw, or of all.
        made: for each of `SHARES` how many guesses that was.
        right: for each how many of them were.
    """

    pairs: int
    made: tuple[int, ...]
    right: tuple[int, ...]


def guess(finding: Finding, pairs: Sequence[Pair]) -> Guesses | None:
    """Let an attack's scores choose between the two of each pair.

    A pair is looked up in the row about its party, else in the best of the rows about nobody in
    particular; pairs of parties that no row is about are left out. Nothing here depends on who is
    the member but the count of right guesses: pairs are looked at by the lower number, which wins
    ties.

    Returns:
        None without a pair to guess about.
    """
    rows = {pair.party: row for pair in pairs if (row := _row(finding, pair.party)) is not None}
    asked = sorted(
        (min(pair.member, pair.other), max(pair.member, pair.other), pair.member, pair.party)
        for pair in pairs
        if pair.party in rows
    )
    if not asked:
        return None
    lead = np.array([rows[party][low] - rows[party][high] for low, high, _, party in asked])
    first_is_member = np.array([low == member for low, _, member, _ in asked])
    is_right = (lead >= 0) == first_is_member
    order = np.argsort(-np.abs(lead), kind="stable")
    made = tuple(math.ceil(share * len(asked)) for share in SHARES)
    right: NDArray[np.int64] = np.cumsum(is_right[order], dtype=np.int64)
    return Guesses(len(asked), made, tuple(int(right[count - 1]) for count in made))


def _row(finding: Finding, party: PartyId) -> Matrix | None:
    about = [row for row, whom in zip(finding.scores, finding.about, strict=True) if whom == party]
    if not about:
        about = [row for row, whom in zip(finding.scores, finding.about, strict=True) if not whom]
    if not about:
        return None
    best: Matrix = np.max(about, axis=0)
    return best


def together(draws: Sequence[Guesses]) -> Guesses:
    """Add the guesses of independent draws up."""
    return Guesses(
        sum(draw.pairs for draw in draws),
        tuple(map(sum, zip(*(draw.made for draw in draws), strict=True))),
        tuple(map(sum, zip(*(draw.right for draw in draws), strict=True))),
    )


def bound_of(
    guesses: Guesses, *, delta: float = 0.0, confidence: float = CONFIDENCE
) -> EpsilonBound:
    """Return the largest ε that the guesses refute, 0 if none.

    Args:
        guesses: of all draws.
        delta: of the promise.
        confidence: of the bound.

    Raises:
        ValueError: no guess, or a delta or confidence that is none.
    """
    if not guesses.pairs or not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ValueError("a bound needs pairs, a delta and a confidence")
    error = (1 - confidence) / len(guesses.made)
    found = [
        EpsilonBound(
            "one-run-pairs",
            refuted(guesses.pairs, made, right, delta=delta, error=error),
            delta,
            confidence,
            guesses.pairs,
            made,
            right,
        )
        for made, right in zip(guesses.made, guesses.right, strict=True)
    ]
    return max(found, key=lambda each: each.epsilon)
