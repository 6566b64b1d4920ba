"""The graph's parameters: exact against two other computations, and against graphs drawn at random.

The real levels, 2^-40 and 2^-20, cannot be seen to fail; the same derivation at weak levels can.
"""

import itertools
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

from collabedit.crypto.graph import (
    CORRECTNESS_BITS,
    FULL_GRAPH_PARTIES,
    SECURITY_BITS,
    Neighbourhood,
    choose_receivers,
    log2_disconnected,
    neighbourhood,
    plan_neighbourhood,
    smallest_neighbourhood,
)
from collabedit.ids import PartyId, TaskIndex
from collabedit.threat_model import maximum_corruptions, minimum_threshold, proposed_corruptions
from tests.support.federations import build_federation
from tests.support.randomness import InsecureTestRandomness

# n, t, c of rosters small and large, with few, some and as many corrupt parties as a plan may say.
FIRST = TaskIndex(0)
CASES = [
    (n, t, c)
    for n in (33, 40, 64, 100, 137)
    for t in (minimum_threshold(n), math.ceil(0.85 * n))
    for c in sorted({0, n // 10, n // 5, min(n // 3, maximum_corruptions(n, t))})
]


def at_least(roster: int, marked: int, degree: int, count: int) -> Fraction:
    """P(X >= count): `degree` draws among the others, `marked` of them marked."""
    others = roster - 1
    ways = sum(
        math.comb(marked, x) * math.comb(others - marked, degree - x)
        for x in range(count, degree + 1)
    )
    return Fraction(ways, math.comb(others, degree))


def disconnected(n: int, d: int, honest: int, k: int) -> Fraction:
    """Condition 2 for a number of honest parties, in exact fractions, group by group."""
    total = Fraction(0)
    for b in range(d + 1):
        for a in range(1, (honest - b) // 2 + 1):
            r = honest - a - b
            apart = math.comb(n - 1 - r, k) ** a * math.comb(n - 1 - a, k) ** r
            ways = math.comb(honest, a) * math.comb(honest - a, b)
            total += Fraction(ways * apart, math.comb(n - 1, k) ** (a + r))
    return total


def is_good(n: int, t: int, c: int, k: int, shares: int) -> bool:
    """Whether the three conditions hold, by the fractions above."""
    half = Fraction(1, 2 ** (SECURITY_BITS + 1))
    return (
        n * at_least(n, c, k, shares) <= half
        and all(disconnected(n, n - t, h, k) <= half for h in range(n - c, n + 1))
        and n * at_least(n, n - t, k, k - shares + 1) <= Fraction(1, 2**CORRECTNESS_BITS)
    )


@pytest.mark.parametrize(("n", "t", "c"), [(33, 23, 6), (33, 23, 12), (40, 27, 8), (40, 36, 4)])
def test_the_derived_graph_is_good_and_no_sparser_one_is(n: int, t: int, c: int) -> None:
    graph = smallest_neighbourhood(n, threshold=t, corruptions=c)
    assert graph is not None
    assert graph.degree < n - 1
    assert is_good(n, t, c, graph.degree, graph.threshold)
    assert not is_good(n, t, c, graph.degree, graph.threshold - 1) or graph.threshold == 2
    fewer = graph.degree - 1
    assert not any(is_good(n, t, c, fewer, shares) for shares in range(2, fewer + 2))


@pytest.mark.parametrize(("n", "d", "c", "k"), [(12, 3, 2, 4), (33, 10, 6, 17), (60, 6, 10, 12)])
def test_the_logarithms_are_those_of_the_exact_sum(n: int, d: int, c: int, k: int) -> None:
    exact = max(disconnected(n, d, h, k) for h in range(n - c, n + 1))
    want = math.log2(exact.numerator) - math.log2(exact.denominator)
    assert log2_disconnected(n, d, c, k) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(("n", "t", "c"), CASES)
def test_guards_meet_their_levels_by_scipy(n: int, t: int, c: int) -> None:
    graph = smallest_neighbourhood(n, threshold=t, corruptions=c)
    assert graph is not None
    k, shares = graph.degree, graph.threshold
    corrupt, dropped = hypergeom(n - 1, c, k), hypergeom(n - 1, n - t, k)
    assert n * corrupt.sf(shares - 1) <= 2.0 ** -(SECURITY_BITS + 1) * (1 + 1e-6)
    assert shares == 2 or n * corrupt.sf(shares - 2) > 2.0 ** -(SECURITY_BITS + 1) * (1 - 1e-6)
    assert n * dropped.sf(k - shares) <= 2.0**-CORRECTNESS_BITS * (1 + 1e-6)
    assert log2_disconnected(n, n - t, c, k) <= -(SECURITY_BITS + 1)


def test_the_probability_of_missing_a_group_is_scipys() -> None:
    # One honest party against one, nobody drops out: neither chose the other. The sum counts an
    # even split from both sides.
    one = hypergeom(9, 1, 4).pmf(0)
    assert float(disconnected(10, 0, 2, 4)) == pytest.approx(2 * one**2)
    # One against two: it chose neither, neither chose it, and there are three such splits.
    none = hypergeom(9, 2, 4).pmf(0)
    assert float(disconnected(10, 0, 3, 4)) == pytest.approx(3 * none * one**2)


@pytest.mark.parametrize("n", [33, 64, 100, 200])
def test_more_corrupt_parties_need_a_denser_graph(n: int) -> None:
    t = minimum_threshold(n)
    graphs = [
        neighbourhood(n, threshold=t, corruptions=c)
        for c in range(0, maximum_corruptions(n, t) + 1, 3)
    ]
    for sparser, denser in itertools.pairwise(graphs):
        assert sparser.degree <= denser.degree
        assert sparser.threshold <= denser.threshold


@pytest.mark.parametrize("n", [40, 100])
def test_more_dropouts_need_a_denser_graph(n: int) -> None:
    degrees = [
        neighbourhood(n, threshold=t, corruptions=3).degree
        for t in range(n, minimum_threshold(n) - 1, -1)
    ]
    assert degrees == sorted(degrees)
    assert degrees[0] < degrees[-1]


def test_the_bound_falls_with_the_degree_and_grows_with_dropouts() -> None:
    by_degree = [log2_disconnected(50, 10, 5, k) for k in range(1, 50)]
    assert by_degree == sorted(by_degree, reverse=True)
    by_dropouts = [log2_disconnected(50, d, 5, 20) for d in range(40)]
    assert by_dropouts == sorted(by_dropouts)


def test_small_rosters_and_plans_without_a_bound_have_the_full_graph() -> None:
    for n in range(3, FULL_GRAPH_PARTIES + 1):
        t = minimum_threshold(n)
        assert neighbourhood(n, threshold=t, corruptions=0) == Neighbourhood(n - 1, t)
    assert neighbourhood(33, threshold=23, corruptions=6) == Neighbourhood(17, 7)
    for n in (33, 200, 500):
        t = minimum_threshold(n)
        assert neighbourhood(n, threshold=t, corruptions=None) == Neighbourhood(n - 1, t)


def test_without_a_good_sparse_graph_it_is_the_full_one() -> None:
    # All but two corrupt, and every edge counts: 34 of 35 others may be corrupt guards.
    assert smallest_neighbourhood(36, threshold=36, corruptions=34) is None
    assert neighbourhood(36, threshold=36, corruptions=34) == Neighbourhood(35, 36)


def test_the_table_of_the_decision_is_what_the_code_derives() -> None:
    path = Path(__file__).parents[3] / "docs" / "adr" / "0010-parties-choose-their-own-guards.md"
    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| (.*) \|$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) == 10
    for n, t, cells in rows:
        for cell in cells.split(" | "):
            c, degree, shares = (int(number) for number in re.findall(r"\d+", cell))
            assert neighbourhood(int(n), threshold=int(t), corruptions=c) == Neighbourhood(
                degree, shares
            )


@pytest.mark.parametrize(("n", "t", "c"), [(33, 34, 0), (33, 2, 0), (33, 23, 22), (33, 23, -1)])
def test_arguments_out_of_range_are_refused(n: int, t: int, c: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        neighbourhood(n, threshold=t, corruptions=c)


def test_a_plan_and_a_roster_fix_the_graph() -> None:
    plan = build_federation(40, corruptions=proposed_corruptions(40)).plan
    assert plan_neighbourhood(plan, 40, task=FIRST) == neighbourhood(
        40, threshold=27, corruptions=8
    )
    # Whoever did not advertise makes the graph a smaller one, with fewer dropouts left.
    assert plan_neighbourhood(plan, 35, task=FIRST) == neighbourhood(
        35, threshold=27, corruptions=8
    )
    assert plan_neighbourhood(plan, 32, task=FIRST) == Neighbourhood(31, 27)


# Graphs drawn at random, at levels at which failures can be counted.


def drawn(n: int, k: int, randomness: InsecureTestRandomness) -> list[frozenset[int]]:
    """Everybody's receivers; party i of the list is i + 1 in the protocol."""
    return [
        frozenset(
            choose_receivers([PartyId(j) for j in range(n) if j != i], k, randomness)  # from 0 here
        )
        for i in range(n)
    ]


def sides(alive: frozenset[int], receivers: list[frozenset[int]]) -> int:
    """Number of connected components among `alive`."""
    left, components = set(alive), 0
    while left:
        components += 1
        queue = [left.pop()]
        while queue:
            one = queue.pop()
            near = {j for j in left if j in receivers[one] or one in receivers[j]}
            left -= near
            queue += near
    return components


def can_be_cut(honest: frozenset[int], d: int, receivers: list[frozenset[int]]) -> bool:
    """Whether a coordinator that sees the graph finds d dropouts that cut the honest in two."""
    return any(
        sides(honest - set(gone), receivers) > 1
        for b in range(d + 1)
        for gone in itertools.combinations(sorted(honest), b)
    )


@pytest.mark.parametrize(("n", "d", "c", "k"), [(11, 2, 2, 4), (11, 1, 3, 3)])
def test_graphs_are_cut_no_oftener_than_the_bound_says(n: int, d: int, c: int, k: int) -> None:
    runs, randomness = 1200, InsecureTestRandomness(n + d + c + k)
    honest = frozenset(range(n - c))
    cuts = sum(can_be_cut(honest, d, drawn(n, k, randomness)) for _ in range(runs))
    bound = 2.0 ** log2_disconnected(n, d, c, k)
    assert bound < 0.5
    # Failures are seen, and no more of them than chance puts above the bound.
    assert 0 < cuts <= runs * bound + 3 * math.sqrt(runs * bound)


@pytest.mark.parametrize("bits", [3, 4])
def test_guards_fail_no_oftener_than_their_levels(bits: int) -> None:
    n, t, c, runs = 48, 40, 15, 700
    graph = smallest_neighbourhood(
        n, threshold=t, corruptions=c, security_bits=bits, correctness_bits=bits
    )
    assert graph is not None
    randomness = InsecureTestRandomness(bits)
    corrupt, dropped = frozenset(range(c)), frozenset(range(0, 3 * (n - t), 3))
    captured = starved = nearly = 0
    for _ in range(runs):
        receivers = drawn(n, graph.degree, randomness)
        most = max(len(one & corrupt) for one in receivers[c:])
        captured += most >= graph.threshold
        nearly += most >= graph.threshold - 1
        starved += any(len(one - dropped) < graph.threshold for one in receivers)
    for failures, level in ((captured, 2.0 ** -(bits + 1)), (starved, 2.0**-bits)):
        assert 0 < failures <= runs * level + 3 * math.sqrt(runs * level)
    # One share less, and the first level would not hold.
    assert nearly > runs * 2.0 ** -(bits + 1)


# The choice itself.


def test_receivers_are_distinct_others_in_order() -> None:
    others = [PartyId(i) for i in range(2, 50)]
    chosen = choose_receivers(others, 20, InsecureTestRandomness(1))
    assert len(chosen) == 20
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(others)


def test_the_full_graph_draws_nothing() -> None:
    class NoRandomness:
        def random_bytes(self, count: int) -> bytes:
            raise AssertionError(count)

    others = [PartyId(i) for i in (5, 3, 4)]
    assert choose_receivers(others, 3, NoRandomness()) == (3, 4, 5)


def test_more_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="cannot choose 4 of 3"):
        choose_receivers([PartyId(i) for i in (1, 2, 3)], 4, InsecureTestRandomness(0))


def test_every_set_is_chosen_alike() -> None:
    others, runs = [PartyId(i) for i in range(1, 7)], 6000
    randomness = InsecureTestRandomness(9)
    counts: dict[tuple[PartyId, ...], int] = {}
    for _ in range(runs):
        chosen = choose_receivers(others, 3, randomness)
        counts[chosen] = counts.get(chosen, 0) + 1
    assert len(counts) == math.comb(6, 3)
    spread = np.array(list(counts.values())) - runs / 20
    # Chi-square with 19 degrees of freedom: above 44 once in a thousand seeds.
    assert float((spread**2).sum() / (runs / 20)) < 44


def test_a_draw_that_would_favour_some_is_thrown_away() -> None:
    draws = [b"\xff" * 4, (2).to_bytes(4, "big")]

    class Scripted:
        def random_bytes(self, count: int) -> bytes:
            assert count == 4
            return draws.pop(0)

    # 2^32 - 1 is the one value beyond the last full run of three: it is drawn again.
    assert choose_receivers([PartyId(i) for i in (1, 2, 3)], 1, Scripted()) == (3,)
    assert not draws
