"""A lower bound of ε from one session: canaries included by coins, and an attack's scores of them.

Whoever audits flips a coin for each of m canaries, which decides whether its edit is in the
session, and lets a membership attack score all of them. If the session is (ε, δ)-differentially
private in an edit, the attack cannot tell the coins well; how well it did refutes every ε below a
bound. A claimed ε below that bound is wrong. A bound of 0 refutes nothing, and proves nothing.

Two bounds, each holding with the confidence that is asked for:

* of one run (Steinke, Nasr, Jagielski 2023, arXiv 2305.08846, theorem 5.2): the highest scores are
  guessed to be in, the lowest to be out, and nothing is guessed about the rest. Coins are the only
  randomness that is needed, so canaries of one session may influence each other's scores;
* by Clopper and Pearson: ln((TPR - δ)/FPR) with the lower end of the one and the upper end of the
  other (Jagielski, Ullman, Oprea 2020, arXiv 2006.07709), at a threshold that is chosen on every
  other canary and used on the rest. Canaries count as independent trials: exact for scores that
  depend on their own coin, an approximation in one session.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collabedit.attacks.attack import Finding
from collabedit.attacks.metrics import Members
from collabedit.intervals import CONFIDENCE, clopper_pearson
from collabedit.sketch import Matrix

_LEAST_GUESSES = 8
"""Fewer right guesses refute nothing worth knowing."""

_LARGEST = 64.0
"""An ε beyond is no promise."""


@dataclass(frozen=True, slots=True)
class EpsilonBound:
    """What the scores of canaries refute.

    Attributes:
        method: `one-run`, `clopper-pearson`, or `one-run-pairs` (`pairs`).
        epsilon: every smaller one is refuted; 0 if none is.
        delta: of the promise.
        confidence: with which the bound holds.
        canaries: whose coins were flipped; or pairs of which one was edited.
        guesses: about how many of them the bound rests on guesses.
        right: guesses that were.
    """

    method: str
    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    right: int


def bounds_of(
    finding: Finding,
    included: Members,
    *,
    canaries: Iterable[int] | None = None,
    delta: float = 0.0,
    confidence: float = CONFIDENCE,
) -> tuple[EpsilonBound, EpsilonBound]:
    """Return both bounds from the first row of a finding.

    Args:
        finding: of one session; a higher score is a stronger belief that an edit is in.
        included: how the coins fell, [candidates]; of others than canaries it does not matter.
        canaries: numbers of the candidates that coins were flipped for, with probability 1/2 each
            and independently; None is all of them.
        delta: of the promise.
        confidence: of each bound.

    Raises:
        ValueError: no canary, or numbers that are none.
    """
    chosen = np.arange(len(included)) if canaries is None else np.array(sorted(set(canaries)))
    if not chosen.size or not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ValueError("a bound needs canaries, a delta and a confidence")
    scores, coins = finding.scores[0][chosen], included[chosen]
    return (
        one_run(scores, coins, delta=delta, confidence=confidence),
        by_rates(scores, coins, delta=delta, confidence=confidence),
    )


def one_run(
    scores: Matrix, coins: Members, *, delta: float = 0.0, confidence: float = CONFIDENCE
) -> EpsilonBound:
    """Bound ε by how many guesses about the coins are right.

    How many to guess is tried in halves of m, and the bound is that of the best of them: each has
    its share of the error (Bonferroni), so looking at all of them costs what it must.

    Args:
        scores: of the canaries, [m].
        coins: whether each is in, [m].
        delta: of the promise.
        confidence: of the bound.
    """
    count = len(scores)
    # Ties in the order of the canaries, which no coin depends on.
    order = np.argsort(-scores, kind="stable")
    halves = [count // 2]
    while halves[-1] // 2 * 2 >= _LEAST_GUESSES:
        halves.append(halves[-1] // 2)
    error = (1 - confidence) / len(halves)
    best = EpsilonBound("one-run", 0.0, delta, confidence, count, 0, 0)
    for half in halves:
        right = int(coins[order[:half]].sum() + (~coins[order[count - half :]]).sum())
        epsilon = refuted(count, 2 * half, right, delta=delta, error=error)
        if epsilon > best.epsilon or not best.guesses:
            best = EpsilonBound("one-run", epsilon, delta, confidence, count, 2 * half, right)
    return best


def refuted(canaries: int, guesses: int, right: int, *, delta: float, error: float) -> float:
    """Return the largest ε whose p-value is below `error`; 0 if that of 0 is not.

    Args:
        canaries: m.
        guesses: r.
        right: v.
        delta: of the promise.
        error: allowed probability that the bound is wrong.
    """
    if _p_value(canaries, guesses, right, epsilon=0.0, delta=delta) >= error:
        return 0.0
    low, high = 0.0, _LARGEST
    for _ in range(50):
        middle = (low + high) / 2
        if _p_value(canaries, guesses, right, epsilon=middle, delta=delta) < error:
            low = middle
        else:
            high = middle
    return low


def _p_value(canaries: int, guesses: int, right: int, *, epsilon: float, delta: float) -> float:
    """Bound the probability of so many right guesses against an (ε, δ)-DP mechanism.

    Theorem 5.2: f(v) + 2mδ · max over i of (f(v - i) - f(v))/i, with f(v) = P(Binomial(r, q) ≥ v)
    and q = e^ε/(1 + e^ε), what randomized response would do.
    """
    masses = _binomial(guesses, 1 / (1 + math.exp(-epsilon)))
    beyond = float(masses[right:].sum())
    if delta == 0.0 or right == 0:
        return min(beyond, 1.0)
    # f(v - i) - f(v) is the mass of v - i, ..., v - 1.
    nearer = np.cumsum(masses[:right][::-1])
    steepest = float((nearer / np.arange(1, right + 1)).max())
    return min(beyond + 2 * canaries * delta * steepest, 1.0)


def _binomial(trials: int, probability: float) -> NDArray[np.float64]:
    """Return the masses of 0..trials, [trials + 1]."""
    counts = np.arange(trials + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    ways = logs[trials] - logs[counts] - logs[trials - counts]
    failure = -math.log1p(-probability) if probability < 1 else math.inf
    with np.errstate(invalid="ignore"):
        missed = np.where(counts == trials, 0.0, (trials - counts) * failure)
    masses: NDArray[np.float64] = np.exp(ways + counts * math.log(probability) - missed)
    return masses


def by_rates(
    scores: Matrix, coins: Members, *, delta: float = 0.0, confidence: float = CONFIDENCE
) -> EpsilonBound:
    """Bound ε by the rates at which members and others are above a threshold.

    Args:
        scores: of the canaries, [m].
        coins: whether each is in, [m].
        delta: of the promise.
        confidence: of the bound; half of the error goes to each of the two rates.
    """
    chosen, used = slice(0, None, 2), slice(1, None, 2)
    best: tuple[float, float, float] = (-math.inf, math.inf, 1.0)
    for sign in (1.0, -1.0):
        # Of canaries that are out an attack may be surer than of those that are in.
        members = coins if sign > 0 else ~coins
        found = _promising(sign * scores[chosen], members[chosen], delta=delta)
        best = max(best, (*found, sign))
    _, threshold, sign = best
    members = (coins if sign > 0 else ~coins)[used]
    epsilon, above, right = _at(sign * scores[used], members, threshold, delta, confidence)
    return EpsilonBound("clopper-pearson", epsilon, delta, confidence, len(scores), above, right)


def _promising(scores: Matrix, members: Members, *, delta: float) -> tuple[float, float]:
    """Return about what the bound comes to, and at which threshold it is largest.

    By Wilson's interval (1927), which is near the exact one and costs no bisection.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(members[order], dtype=np.int64)
    wrong = np.cumsum(~members[order], dtype=np.int64)
    found = _wilson(right, int(members.sum()), sign=-1) - delta
    rate = _wilson(wrong, int((~members).sum()), sign=1)
    promise = np.log(np.maximum(found, 1e-300) / rate)
    place = int(promise.argmax())
    return float(promise[place]), float(scores[order[place]])


def _wilson(counts: NDArray[np.int64], trials: int, *, sign: int) -> NDArray[np.float64]:
    z = 1.96
    reach = z * np.sqrt(counts * (1 - counts / max(trials, 1)) + z * z / 4)
    ends: NDArray[np.float64] = (counts + z * z / 2 + sign * reach) / (trials + z * z)
    return ends


def _at(
    scores: Matrix, members: Members, threshold: float, delta: float, confidence: float
) -> tuple[float, int, int]:
    """Return the bound at a threshold, how many are at or above it, and members among them."""
    above = scores >= threshold
    inside, outside = int(members.sum()), int((~members).sum())
    right = int((above & members).sum())
    if not inside or not outside:
        return 0.0, int(above.sum()), right
    # Both ends hold together with the confidence: each misses with half of the error, in one tail.
    found, _ = clopper_pearson(right, inside, confidence=confidence)
    _, wrong = clopper_pearson(int((above & ~members).sum()), outside, confidence=confidence)
    if found <= delta or found - delta <= wrong:
        return 0.0, int(above.sum()), right
    return math.log((found - delta) / wrong), int(above.sum()), right
