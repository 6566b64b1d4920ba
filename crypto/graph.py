"""Who guards whose secrets: the random graph of a large roster, and how dense it has to be.

Implements the random neighbour graph of Bell et al. 2020 (CCS, "Secure Single-Server Aggregation
with (Poly)Logarithmic Overhead") in its form for active adversaries: each party chooses k others
itself, uniformly, gives each of them a share of its two secrets and keeps one, so neither a
coordinator nor corrupt parties choose who guards an honest one. Two parties share a mask if either
chose the other. Departs from the paper in what it bounds: here the coordinator picks the dropouts
after it has seen the graph, all honest survivors must end up in one sum, and the consistency rounds
stay global. That costs a degree which grows with the dropouts that the plan tolerates, and spares
every rule that local agreement would need.

With n parties in the roster, of which c were corrupt before the graph was drawn, and d = n - t that
may drop out, a degree k and a share threshold t' are good if

1. with 41 bits, no honest party chose t' corrupt ones: n · P(X ≥ t') ≤ 2^-41 for X of the
   hypergeometric distribution of k draws from n - 1 parties, c of them corrupt;
2. with 41 bits, the honest survivors are connected, whichever d parties drop out. In two groups of
   a and r without an edge each of the a chose none of the r and each of the r none of the a, which
   has probability q(r)^a · q(a)^r with q(x) = C(n-1-x, k) / C(n-1, k). Over all groups and all sets
   of b ≤ d dropped among h honest parties:

       sum over b of C(h, b) · sum over a ≤ s/2 of C(s, a) · q(s-a)^a · q(a)^(s-a),   s = h - b;

   fewer corrupt parties than c are more honest ones: the largest value for h = n - c .. n counts;
3. with 20 bits, d dropouts that do not depend on the graph leave every owner t' of the k holders
   that it chose.

1 and 2 together are 40 bits for each task. 1 and 3 are compared in exact integers, 2 in float64
logarithms with relative errors below 1e-9. Two ends could differ only where a bound lies that close
to its limit; they would then refuse each other's messages (SPEC 4.2(c)), and nothing is opened.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from collabedit.crypto.rng import Randomness
from collabedit.crypto.shamir import MIN_THRESHOLD
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan

FULL_GRAPH_PARTIES: Final = 32
"""Rosters up to this size use the full graph: there a sparse one would save next to nothing."""

SECURITY_BITS: Final = 40
CORRECTNESS_BITS: Final = 20
"""A task in a million fails for want of shares although few enough dropped out: it is repeated."""

_DRAW_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """What the size of a roster fixes.

    Attributes:
        degree: k, how many others a party gives a share of its secrets; it keeps one share itself.
        threshold: t', how many of these k + 1 shares give a secret back.
    """

    degree: int
    threshold: int


def plan_neighbourhood(plan: Plan, roster: int, *, task: TaskIndex) -> Neighbourhood:
    """Return the neighbourhoods of `task` under `plan` if its roster has `roster` parties.

    Full where the task has a use for its group secret, whatever the plan says: everybody needs
    everybody's part of it there (SPEC 4.9(d)).
    """
    corruptions = None if plan.needs_secret(task) else plan.federation.corruptions
    return neighbourhood(roster, threshold=plan.threshold, corruptions=corruptions)


def neighbourhood(roster: int, *, threshold: int, corruptions: int | None) -> Neighbourhood:
    """Derive the graph from the roster's size and the plan, the same at every end (SPEC 4.2).

    Args:
        roster: n, parties in the roster.
        threshold: t of the plan, 3..n.
        corruptions: c of the plan, 0..t-2: parties that may collude with the coordinator. None
            takes the full graph whatever the size.

    Returns:
        The sparse graph of the smallest degree that is good in the sense above, with the smallest
        share threshold; the full graph, with the plan's threshold, for small rosters and where no
        sparse one is good.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 3 <= threshold <= roster:
        raise ValueError(f"threshold {threshold} for a roster of {roster}")
    if corruptions is not None and not 0 <= corruptions <= threshold - 2:
        raise ValueError(f"{corruptions} corrupt parties under threshold {threshold}")
    sparse = None
    if corruptions is not None and roster > FULL_GRAPH_PARTIES:
        sparse = smallest_neighbourhood(roster, threshold=threshold, corruptions=corruptions)
    return sparse or Neighbourhood(degree=roster - 1, threshold=threshold)


@functools.lru_cache(maxsize=64)
def smallest_neighbourhood(
    roster: int,
    *,
    threshold: int,
    corruptions: int,
    security_bits: int = SECURITY_BITS,
    correctness_bits: int = CORRECTNESS_BITS,
) -> Neighbourhood | None:
    """Find the smallest degree below n - 1 with a share threshold that meets conditions 1 to 3.

    The levels are arguments for tests only, which need failures that can be counted.

    Returns:
        That degree with the smallest such threshold, or None.
    """
    # Each half of the failures that matter for security gets one of these.
    bits = security_bits + 1
    dropouts = roster - threshold
    # Condition 2 only gets easier with more edges, so bisection finds where it begins to hold.
    low, high = 1, roster - 1
    while low < high:
        middle = (low + high) // 2
        if log2_disconnected(roster, dropouts, corruptions, middle) <= -bits:
            high = middle
        else:
            low = middle + 1
    for degree in range(low, roster - 1):
        shares = max(MIN_THRESHOLD, _rare_count(roster, corruptions, degree, bits))
        present = degree + 1 - _rare_count(roster, dropouts, degree, correctness_bits)
        if shares <= present:
            return Neighbourhood(degree, shares)
    return None


def _rare_count(roster: int, marked: int, degree: int, bits: int) -> int:
    """Return the smallest x such that with `bits` bits nobody chose x or more marked parties.

    Exact: n · P(X ≥ x) ≤ 2^-bits as a comparison of integers. Conditions 1 and 3.
    """
    others, tail = roster - 1, 0
    limit = math.comb(others, degree)
    count = min(marked, degree)
    while count >= 0:
        tail += math.comb(marked, count) * math.comb(others - marked, degree - count)
        if roster * tail << bits > limit:
            break
        count -= 1
    return count + 1


@functools.lru_cache(maxsize=8)
def _log_factorials(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([math.lgamma(i + 1) for i in range(count + 1)])


def log2_disconnected(roster: int, dropouts: int, corruptions: int, degree: int) -> float:
    """Bound the probability that some choice of dropouts cuts the honest survivors in two.

    Args:
        roster: n.
        dropouts: d, how many may drop out, chosen with knowledge of the graph.
        corruptions: c, fixed before the graph is drawn; c + d ≤ n - 2.
        degree: k, 1..n-1.

    Returns:
        log2 of the bound of condition 2, which may exceed 0.
    """
    factorials = _log_factorials(roster)
    others = roster - 1
    avoid = np.full(roster, -np.inf)  # log q(x)
    missed = np.arange(others - degree + 1)
    avoid[missed] = (
        factorials[others - missed]
        - factorials[others - missed - degree]
        + factorials[others - degree]
        - factorials[others]
    )
    cut = np.full(roster + 1, -np.inf)  # log of the sum over a, by s
    for survivors in range(roster - corruptions - dropouts, roster + 1):
        a = np.arange(1, survivors // 2 + 1)
        r = survivors - a
        ways = factorials[survivors] - factorials[a] - factorials[r]
        cut[survivors] = np.logaddexp.reduce(ways + a * avoid[r] + r * avoid[a])
    worst = -math.inf
    for honest in range(roster - corruptions, roster + 1):
        b = np.arange(dropouts + 1)
        ways = factorials[honest] - factorials[b] - factorials[honest - b]
        worst = max(worst, float(np.logaddexp.reduce(ways + cut[honest - b])))
    return worst / math.log(2)


def choose_receivers(
    others: Sequence[PartyId], degree: int, randomness: Randomness
) -> tuple[PartyId, ...]:
    """Choose who gets a share, uniformly among all sets of `degree` parties.

    The first draws of a Fisher-Yates shuffle, each by rejection. Everybody, and no draw, if
    `degree` is their number.

    Args:
        others: the roster without oneself.
        degree: how many to choose.
        randomness: the party's own; nobody else may know it before ShareKeys is out.

    Returns:
        The chosen ones, ascending.

    Raises:
        ValueError: more are asked for than there are.
    """
    if not 0 <= degree <= len(others):
        raise ValueError(f"cannot choose {degree} of {len(others)} parties")
    pool = sorted(others)
    if degree < len(pool):
        for place in range(degree):
            drawn = place + _below(len(pool) - place, randomness)
            pool[place], pool[drawn] = pool[drawn], pool[place]
    return tuple(sorted(pool[:degree]))


def _below(bound: int, randomness: Randomness) -> int:
    # Draws from the incomplete last run of `bound` values are thrown away: reducing them would
    # favour the small ones.
    span = 1 << (8 * _DRAW_BYTES)
    usable = span - span % bound
    while True:
        draw = int.from_bytes(randomness.random_bytes(_DRAW_BYTES), "big")
        if draw < usable:
            return draw % bound
