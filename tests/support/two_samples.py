"""Can two samples be told apart? Classifiers with a held-out half, and permutation tests.

A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv 1610.06545) trains on one half and
counts on the other: if the samples have one law, the count is binomial with 1/2, whatever the
classifier. MMD (Gretton et al. 2012, JMLR 13) and energy distance (Székely and Rizzo 2013) are held
against relabelled samples.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

from collabedit.sketch import Matrix

Learn = Callable[[Matrix, Matrix], Callable[[Matrix], Matrix]]
"""Of training rows and labels ±1, the scores of other rows."""

CONFIDENCE = 0.999


def accuracy_on_others(first: Matrix, second: Matrix, learn: Learn) -> tuple[int, int]:
    """Train on the first half of each sample: how many of the others are right, of how many.

    Rows are views, [views, features]; the halves are standardised by the training half.
    """
    half = min(len(first), len(second)) // 2
    rows = np.concatenate([first[:half], second[:half]])
    labels = np.repeat([1.0, -1.0], half)
    centre, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0] = 1.0
    score = learn((rows - centre) / scale, labels)
    right = 0
    for sample, label in ((first[half:], 1.0), (second[half:], -1.0)):
        scores = score((sample - centre) / scale) * label
        right += int((scores > 0).sum())
    return right, len(first) + len(second) - 2 * half


def is_chance(right: int, count: int) -> bool:
    """Whether `right` lies within the central 99.9 % of a fair coin."""
    low, high = stats.binom.interval(CONFIDENCE, count, 0.5)
    return bool(low <= right <= high)


def linear(rows: Matrix, labels: Matrix) -> Callable[[Matrix], Matrix]:
    """Ridge regression on the labels, with a ridge for standardised features."""
    gram = rows.T @ rows + 0.01 * len(rows) * np.eye(rows.shape[1])
    weights = np.linalg.solve(gram, rows.T @ labels)
    offset = float((labels - rows @ weights).mean())
    return lambda others: others @ weights + offset


def quadratic(rows: Matrix, labels: Matrix) -> Callable[[Matrix], Matrix]:
    """`linear` on features and their squares."""
    score = linear(np.concatenate([rows, rows**2], axis=1), labels)
    return lambda others: score(np.concatenate([others, others**2], axis=1))


def nearest(rows: Matrix, labels: Matrix) -> Callable[[Matrix], Matrix]:
    """Vote of the 15 nearest neighbours."""

    def score(others: Matrix) -> Matrix:
        distances = (rows**2).sum(axis=1) - 2 * others @ rows.T
        closest = np.argpartition(distances, 15, axis=1)[:, :15]
        votes: Matrix = labels[closest].sum(axis=1)
        return votes

    return score


def _relabelled(statistic: Matrix, sizes: tuple[int, int], seed: int, rounds: int) -> float:
    """Return the p-value of within minus between sums of a kernel matrix, by permutations."""
    signs = np.concatenate([np.full(sizes[0], 1 / sizes[0]), np.full(sizes[1], -1 / sizes[1])])
    found = float(signs @ statistic @ signs)
    rng = np.random.default_rng(seed)
    shuffled = np.stack([rng.permutation(signs) for _ in range(rounds)])
    values = np.einsum("pi,ij,pj->p", shuffled, statistic, shuffled, optimize=True)
    return (1 + int((values >= found).sum())) / (1 + rounds)


def _distances(first: Matrix, second: Matrix) -> Matrix:
    rows = np.concatenate([first, second])
    squares = (rows**2).sum(axis=1)
    distances: Matrix = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0)
    return distances


def mmd_p_value(first: Matrix, second: Matrix, *, seed: int, rounds: int = 499) -> float:
    """Maximum mean discrepancy, Gaussian kernel, median distance as its width."""
    distances = _distances(first, second)
    width = float(np.median(distances[distances > 0]))
    return _relabelled(np.exp(-distances / width), (len(first), len(second)), seed, rounds)


def energy_p_value(first: Matrix, second: Matrix, *, seed: int, rounds: int = 499) -> float:
    """Energy distance."""
    distances = -np.sqrt(_distances(first, second))
    return _relabelled(distances, (len(first), len(second)), seed, rounds)
