"""Where the truth lies beside a measured share. Numpy only."""

import math

import numpy as np

CONFIDENCE = 0.95


def clopper_pearson(
    successes: int, trials: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the exact interval of a probability after `successes` of `trials` independent trials.

    Clopper and Pearson 1934 (Biometrika 26), by their definition: the ends are the p at which the
    binomial tail towards the observation has probability (1 - confidence)/2, found by bisection.
    Coverage is at least `confidence` for every true p.

    Raises:
        ValueError: no trial, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials")
    tail = (1 - confidence) / 2
    # P(X <= s | p) falls in p; P(X >= s | p) = 1 - P(X <= s - 1 | p) rises.
    low = 0.0 if successes == 0 else _solve(successes - 1, trials, level=1 - tail)
    high = 1.0 if successes == trials else _solve(successes, trials, level=tail)
    return low, high


def _solve(successes: int, trials: int, *, level: float) -> float:
    """Find p with P(X <= successes | p) = level by bisection to the last bit."""
    low, high = 0.0, 1.0
    counts = np.arange(successes + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    ways = logs[trials] - logs[counts] - logs[trials - counts]
    for _ in range(60):
        middle = (low + high) / 2
        terms = ways + counts * math.log(middle) + (trials - counts) * math.log1p(-middle)
        if float(np.exp(terms).sum()) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
