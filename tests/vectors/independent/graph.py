"""SPEC 4.9: degree and share threshold of a task. Exact integers throughout. No project code."""

import functools
from math import comb

from independent.plan import Plan
from independent.wire import Json


def neighbourhood(plan: Plan, task: int, roster: int) -> tuple[int, int]:
    full = plan.counts(task) or plan.is_closed(task)
    corruptions = None if full else plan.values["federation"].get("corruptions")
    return degree_and_threshold(roster, plan.threshold, corruptions)


def degree_and_threshold(n: int, t: int, c: int | None) -> tuple[int, int]:
    """Return (k, t')."""
    if n <= 32 or c is None:
        return n - 1, t
    low, high = 1, n - 1
    while low < high:  # 2. only gets easier with k
        middle = (low + high) // 2
        low, high = (low, middle) if is_connected(n, t, c, middle) else (middle + 1, high)
    for k in range(low, n - 1):
        guards = next(x for x in range(2, k + 3) if is_rare(n, c, k, x, 41))
        lost = next(x for x in range(k + 2) if is_rare(n, n - t, k, x, 20))
        # P(X(d) > k - t') is P(X(d) >= k - t' + 1).
        if guards <= k + 1 - lost:
            return k, guards
    return n - 1, t


def is_rare(n: int, marked: int, k: int, least: int, bits: int) -> bool:
    """n · P(X(marked) ≥ least) ≤ 2^-bits."""
    tail = sum(
        comb(marked, x) * comb(n - 1 - marked, k - x) for x in range(least, min(marked, k) + 1)
    )
    return n * tail << bits <= comb(n - 1, k)


@functools.cache
def is_connected(n: int, t: int, c: int, k: int) -> bool:
    """2. of SPEC 4.9(b), as one comparison of integers for each h.

    In fixed point with 2n + 200 bits after the point, rounded up. What is rounded are powers of q
    below 1; their errors are multiplied by less than 3^n, so the sum is off by less than 2^-150.
    """
    d, total, bits = n - t, comb(n - 1, k), 2 * n + 200
    powers = []
    for x in range(n):
        avoid, row = -(-(comb(n - 1 - x, k) << bits) // total), [1 << bits]
        for _ in range(n):
            row.append((row[-1] * avoid >> bits) + (avoid > 0))
        powers.append(row)
    cut = {
        s: sum(
            (comb(s, a) * powers[s - a][a] * powers[a][s - a] >> bits) + 1
            for a in range(1, s // 2 + 1)
        )
        for s in range(n - c - d, n + 1)
    }
    return all(
        sum(comb(h, b) * cut[h - b] for b in range(d + 1)) << 41 <= 1 << bits
        for h in range(n - c, n + 1)
    )


def verify_graph(given: Json) -> list[str]:
    lines = [] if given["cases"] else ["no case"]
    for i, case in enumerate(given["cases"]):
        n, t, c = case["roster"], case["threshold"], case["corruptions"]
        found = degree_and_threshold(n, t, c)
        if found != (case["degree"], case["share_threshold"]):
            lines.append(f"cases[{i}]: {n}, {t}, {c} gives {found}")
    return lines
