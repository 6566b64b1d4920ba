"""Subsets of candidates whose Gram matrix has a given spectrum: what `spectrum` searches with.

Finding columns by the invariants of their Gram matrix holds a subset sum as its first equation,
tr(S) = Σ‖k̃‖². Three searches, by size:

* all pairs: exact;
* meet in the middle on the trace (Horowitz and Sahni 1974, JACM 21(2)), each half limited to
  candidates whose squared length is near its eigenvalues; what matches is held against tr(S²), then
  against the spectrum. It needs the candidates' exact keys, and no columns but theirs;
* simulated annealing by swaps (Kirkpatrick et al. 1983, Science 220), many chains at once; bounded
  work, no promise. It tolerates columns that are no candidate's.
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from collabedit.sketch import Matrix

Subsets = NDArray[np.int64]
"""Candidates' numbers, [subsets, n]."""

SMALLEST = 1e-12
"""Stands for the logarithm of an eigenvalue that rounding left at or below zero."""

_HALF = 1 << 20
"""Most combinations that a half of the meeting may have."""

_NEIGHBOURS = 4
"""Matches of the trace that are looked at for each combination of the first half."""

_KEPT = 512
"""Subsets that pass from tr(S²) to the spectrum, of each block of `_BLOCK` combinations."""

_BLOCK = 1 << 16

_HOT, _COLD = 0.03, 1e-3
"""Temperatures of the annealing, in units of log eigenvalues: what the length of a random key is
off by, and what a wrong neighbour moves the others by."""

_STAY = 0.85
"""Share of swaps that look for a key of about the length of the one that leaves."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is searched for.

    Attributes:
        values: eigenvalues of S, [n + c], descending and positive.
        candidates: [d', candidates].
        covers: c, how many of the columns of S are no candidate's.
        gram: of the candidates, [candidates, candidates].
        energies: their squared lengths, [candidates].
    """

    values: Matrix = field(repr=False)
    candidates: Matrix = field(repr=False)
    covers: int = 0
    gram: Matrix = field(init=False, repr=False)
    energies: Matrix = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gram", self.candidates.T @ self.candidates)
        object.__setattr__(self, "energies", np.diagonal(self.gram))

    @property
    def size(self) -> int:
        """n, how many candidates are searched for."""
        return max(len(self.values) - self.covers, 1)

    def distances(self, subsets: Subsets) -> Matrix:
        """Return how far each subset's spectrum is from S's, [subsets]."""
        grams = self.gram[subsets[:, :, None], subsets[:, None, :]]
        found = np.asarray(np.linalg.eigvalsh(grams), dtype=np.float64)
        return spectral_distances(found[:, ::-1], self.values)


def spectral_distances(found: Matrix, values: Matrix) -> Matrix:
    """Return the root mean square difference of log eigenvalues, [subsets].

    Where `values` are more, each found one is matched with another of them, at the least cost. The
    best matching of sorted numbers keeps their order, so a table of [n, c + 1] costs gives it.

    Args:
        found: [subsets, n], descending.
        values: [n + c], descending.
    """
    logs, wanted = np.log(np.maximum(found, SMALLEST)), np.log(np.maximum(values, SMALLEST))
    size = found.shape[1]
    skips = len(values) - size + 1
    costs = np.zeros((len(found), skips))
    for place in range(size):
        here = (logs[:, place, None] - wanted[place : place + skips]) ** 2
        costs = np.minimum.accumulate(costs, axis=1) + here
    distances: Matrix = np.sqrt(costs.min(axis=1) / size)
    return distances


def best_pairs(problem: Problem) -> Matrix:
    """Return of each candidate the distance of the best pair that holds it, [candidates]."""
    energies = problem.energies
    best = np.full(len(energies), np.inf)
    # Row by row: a thousand rows of a thousand pairs stay in the processor's cache.
    for first in range(len(energies) - 1):
        others = np.arange(first + 1, len(energies))
        middle = (energies[first] + energies[others]) / 2
        half = (energies[first] - energies[others]) / 2
        reach = np.hypot(half, problem.gram[first, others])
        found = np.stack([middle + reach, middle - reach], axis=1)
        distances = spectral_distances(found, problem.values)
        best[first] = min(best[first], distances.min())
        best[others] = np.minimum(best[others], distances)
    return best


def meet_in_the_middle(problem: Problem, odds: Matrix) -> tuple[Subsets, Matrix]:
    """Search n >= 2 candidates of all columns of S.

    Work: two halves of at most 2^20 combinations, and 4 matches for each.

    Args:
        problem: what is searched for.
        odds: [candidates, n]: which candidates to try for each eigenvalue, the highest first.

    Returns:
        Subsets [found, n] and their distances [found].

    Raises:
        ValueError: S has columns that are no candidate's.
    """
    if problem.covers:
        raise ValueError("columns of unknown length leave no trace to meet at")
    size, energies = problem.size, problem.energies
    if len(energies) < size:
        return np.zeros((0, size), dtype=np.int64), np.zeros(0)
    low = size // 2
    width = int(_HALF ** (1 / (size - low)))
    lists = np.argsort(-odds, axis=0)[:width].T
    first, second = _products(lists[:low]), _products(lists[low:])
    sums = energies[second].sum(axis=1)
    order = np.argsort(sums)
    second, sums = second[order], sums[order]
    trace, square = problem.values.sum(), float((problem.values**2).sum())
    kept = []
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK]
        places = np.searchsorted(sums, trace - energies[block].sum(axis=1))
        for shift in range(-_NEIGHBOURS // 2, _NEIGHBOURS // 2):
            other = second[np.clip(places + shift, 0, len(second) - 1)]
            subsets = np.concatenate([block, other], axis=1)
            moments = (energies[subsets] ** 2).sum(axis=1)
            for a, b in combinations(range(size), 2):
                moments += 2 * problem.gram[subsets[:, a], subsets[:, b]] ** 2
            closest = np.argsort(np.abs(moments - square))[:_KEPT]
            kept.append(subsets[closest])
    found = np.unique(np.sort(np.concatenate(kept), axis=1), axis=0)
    found = found[(np.diff(found, axis=1) > 0).all(axis=1)]
    return found, problem.distances(found)


def _products(lists: Subsets) -> Subsets:
    """Return every choice of one of each list, [choices, lists]."""
    return np.stack([part.ravel() for part in np.meshgrid(*lists, indexing="ij")], axis=1)


def anneal(
    problem: Problem, odds: Matrix, *, rng: np.random.Generator, chains: int, steps: int
) -> Matrix:
    """Search by swaps: the shares of time that candidates are in a chain's subset, [candidates].

    Args:
        problem: what is searched for.
        odds: [candidates, n + c], each column a distribution: where an eigenvalue may come from.
            Swaps propose by it.
        rng: of the chains.
        chains: how many.
        steps: of each; a swap is tried in every one. The last third counts.
    """
    energies, size = problem.energies, problem.size
    tables = odds.cumsum(axis=0)
    nearest = np.abs(np.log(energies)[:, None] - np.log(problem.values)).argmin(axis=1)

    def draw(columns: NDArray[np.int64]) -> NDArray[np.int64]:
        below = tables[:, columns] < rng.random(len(columns))
        drawn: NDArray[np.int64] = np.minimum(below.sum(axis=0), len(energies) - 1)
        return drawn

    places = np.arange(chains)
    starts = rng.permuted(np.tile(np.arange(len(problem.values)), (chains, 1)), axis=1)[:, :size]
    state = np.stack([draw(column) for column in starts.T], axis=1)
    costs = problem.distances(state)
    counts = np.zeros(len(energies))
    for step in range(steps):
        temperature = _HOT * (_COLD / _HOT) ** (step / steps)
        slots = rng.integers(size, size=chains)
        anywhere = rng.integers(len(problem.values), size=chains)
        columns = np.where(rng.random(chains) < _STAY, nearest[state[places, slots]], anywhere)
        proposed = state.copy()
        proposed[places, slots] = entering = draw(columns)
        distances = problem.distances(proposed)
        distances[(proposed == entering[:, None]).sum(axis=1) > 1] = np.inf
        gains = size * (costs**2 - distances**2) / (2 * temperature**2)
        taken = np.log(rng.random(chains)) < gains
        state[taken], costs[taken] = proposed[taken], distances[taken]
        if step >= steps - steps // 3:
            np.add.at(counts, state.ravel(), 1)
    return counts / max(chains * (steps // 3), 1)
