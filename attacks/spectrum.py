"""Spectrum matching: what a secret basis leaves to an aggregator that has candidates.

Sums of QK̃ and UR with secret Haar Q and U show the Gram matrix K̃ᵀK̃ up to rotations of the edits,
so the eigenvalues of S and no direction. Candidates have a Gram matrix, too: a subset of them whose
eigenvalues are the opened ones is a guess at everything that was edited. The attack is the
project's own; what it searches with is older (`subsets`).

Whitened keys are nearly orthogonal, so eigenvalues are nearly the squared lengths of the keys. That
alone hands each candidate a share of every eigenvalue (`shares`), and it is all that is done about
more than `LARGEST` edits. For fewer, `subsets` searches: single candidates, all pairs, a meeting in
the middle up to `MEETING` edits without cover edits, annealing otherwise.
"""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.opened import Source, decompose, opened_vectors
from collabedit.attacks.registry import Entry
from collabedit.attacks.subsets import (
    SMALLEST,
    Problem,
    anneal,
    best_pairs,
    meet_in_the_middle,
    spectral_distances,
)
from collabedit.attacks.views import AggregatorView, first_layer
from collabedit.ids import LayerIndex
from collabedit.party.editing.key_map import key_scales
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

LARGEST = 24
"""Edits up to which subsets are searched: beyond, a chain of swaps gets nowhere near in minutes."""

MEETING = 10
"""Edits up to which halves are met. Beyond, 2^20 combinations are few of those that fit."""

EXACT = 1e-5
"""Distance below which a subset is the one. Machines compute keys that differ by 1e-7; what
matches the trace by chance is off by 1e-3."""

_DRAWS = 40
"""Random subsets that tell how far eigenvalues are from squared lengths."""

_LEAST_SPREAD = 1e-4
"""Of log eigenvalues about log squared lengths: a few draws that agree prove no certainty."""

_PRIOR_WEIGHT = 1e-3
"""Of `shares` beside what a search found: they order the candidates that it never met."""


@dataclass(frozen=True, slots=True)
class SpectrumMatch:
    """Membership in the opened sum, or in each upload, from the eigenvalues of S alone.

    Attributes:
        layer: None is the first edited layer.
        source: what is attacked.
        covers: how many columns of a vector are random keys of nobody's; plans tell.
        seed: of all that is drawn.
        chains: of the annealing.
        steps: of each chain.
    """

    layer: LayerIndex | None = None
    source: Source = "sum"
    covers: int = 0
    seed: int = 0
    chains: int = 64
    steps: int = 1500
    name: str = "spectrum"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score the candidates: a row for each vector that is attacked."""
        layer = first_layer(view.plan) if self.layer is None else self.layer
        candidates = prior.mapped_keys[layer]
        # Plans are public: whoever reads in one that keys get one length gives it to candidates.
        candidates = candidates * key_scales(view.plan.editing, candidates)
        vectors = opened_vectors(view, layer, self.source)
        rows = []
        for each in vectors:
            values = decompose(view.plan, layer, each).values
            problem = Problem(values, candidates, min(self.covers, len(values)))
            rows.append(self.scores(problem))
        return Finding(self.name, tuple(each.about for each in vectors), np.stack(rows))

    def scores(self, problem: Problem) -> Matrix:
        """Score candidates, [candidates]: minus a distance, or a logarithm of a share."""
        rng = np.random.default_rng(self.seed)
        if problem.size == 1:
            return -spectral_distances(problem.energies[:, None], problem.values)
        if problem.size == 2:
            return -best_pairs(problem)
        logs = shares(problem, rng=rng)
        expected: Matrix = np.logaddexp.reduce(logs, axis=1)
        if problem.size > LARGEST:
            return expected
        found = self._search(problem, logs, rng)
        with np.errstate(divide="ignore"):
            scores: Matrix = np.logaddexp(expected + np.log(_PRIOR_WEIGHT), np.log(found))
        return scores

    def _search(self, problem: Problem, logs: Matrix, rng: np.random.Generator) -> Matrix:
        if problem.size <= MEETING and not problem.covers:
            subsets, distances = meet_in_the_middle(problem, logs)
            if distances.size and distances.min() < EXACT:
                found = np.zeros(len(problem.energies))
                found[subsets[distances.argmin()]] = 1.0
                return found
        return anneal(problem, np.exp(logs), rng=rng, chains=self.chains, steps=self.steps)


def shares(problem: Problem, *, rng: np.random.Generator) -> Matrix:
    """Hand every eigenvalue to the candidates of about that squared length.

    Random subsets of the candidates, with as many random columns as there are covers, tell by how
    much the j-th eigenvalue is off the j-th squared length. Each column is then a normal likelihood
    over the candidates, as a distribution.

    Returns:
        Logarithms, [candidates, n + c]; the exponentials of a column add up to 1.
    """
    energies, size = problem.energies, min(problem.size, len(problem.energies))
    moves = []
    for _ in range(_DRAWS):
        chosen = rng.choice(len(energies), size, replace=False)
        covers = rng.normal(size=(len(problem.candidates), len(problem.values) - size))
        covers *= np.sqrt(rng.choice(energies, covers.shape[1])) / np.linalg.norm(covers, axis=0)
        columns = np.concatenate([problem.candidates[:, chosen], covers], axis=1)
        lengths = np.sort(np.einsum("dn,dn->n", columns, columns))
        values = np.linalg.eigvalsh(columns.T @ columns)
        moves.append(np.log(np.maximum(values, SMALLEST) / lengths)[::-1])
    spread = np.maximum(np.std(moves, axis=0), _LEAST_SPREAD)
    gaps = np.log(energies)[:, None] - (np.log(problem.values) - np.mean(moves, axis=0))
    logs = -0.5 * (gaps / spread) ** 2
    normalised: Matrix = logs - np.logaddexp.reduce(logs, axis=0)
    return normalised


ENTRY = Entry(
    name="spectrum",
    asks="Which candidates have a Gram matrix with the eigenvalues of the opened sum?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=SpectrumMatch,
    source="this project; searches after Horowitz and Sahni 1974 and Kirkpatrick et al. 1983",
    departs="made against the secret basis",
    headline="auc",
)
