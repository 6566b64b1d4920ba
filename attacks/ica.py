"""Demixing: single keys out of the opened S, without a list of candidates.

S = K̃K̃ᵀ fixes the keys up to a rotation of the edits: with S = VΛVᵀ is K̃ = VΛ^½O for some orthogonal
O [n, n]. Each of the d' coordinates is then a sample of n mixed sources, and sources that are not
Gaussian can be told apart: independent component analysis finds O up to order and signs. The
Cocktail Party Attack (arXiv 2209.05578) does so to gradients of a linear layer, which mix its
inputs; here the mixture is the Gram matrix. Departs from it in the algorithm, FastICA with tanh and
symmetric orthogonalisation (Hyvärinen 1999, IEEE Trans. Neural Networks 10(3)), with no prior about
the sources, and in that whitening is exact and free of scale: it is the eigen-decomposition.

A secret basis mixes the samples: every coordinate becomes a sum over all others, so sources become
Gaussian, and what is still found is a rotated key.

Needs scikit-learn (`pip install collabedit[attacks]`).
"""

import warnings
from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.claims import Recovery
from collabedit.attacks.opened import Decomposition, Source, decompose, opened_vectors
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import AggregatorView, first_layer
from collabedit.ids import LayerIndex
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

_ITERATIONS = 200
"""FastICA converges cubically; what has not by then demixes no better later."""


@dataclass(frozen=True, slots=True)
class Demixing:
    """Membership in the opened sum, or in each upload, by what was demixed from it.

    Attributes:
        layer: None is the first edited layer.
        source: what is attacked.
        seed: of FastICA's first guess.
    """

    layer: LayerIndex | None = None
    source: Source = "sum"
    seed: int = 0
    name: str = "ica"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score each candidate by its best |cos| with a demixed key, in 0..1."""
        layer = first_layer(view.plan) if self.layer is None else self.layer
        vectors = opened_vectors(view, layer, self.source)
        rows = [
            cosines(
                demix(decompose(view.plan, layer, each), seed=self.seed), prior.mapped_keys[layer]
            ).max(axis=0)
            for each in vectors
        ]
        return Finding(self.name, tuple(each.about for each in vectors), np.stack(rows))


@dataclass(frozen=True, slots=True)
class DemixedKeys:
    """The keys themselves, out of the opened sum or of each upload: no candidate is needed.

    Attributes:
        layer: None is the first edited layer.
        source: what is attacked.
        seed: of FastICA's first guess.
    """

    layer: LayerIndex | None = None
    source: Source = "sum"
    seed: int = 0
    name: str = "ica-keys"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Recovery:
        """Demix every vector, and put what was found side by side."""
        del prior
        layer = first_layer(view.plan) if self.layer is None else self.layer
        vectors = opened_vectors(view, layer, self.source)
        found = [demix(decompose(view.plan, layer, each), seed=self.seed) for each in vectors]
        return Recovery(self.name, "keys", np.concatenate(found, axis=1))


def demix(found: Decomposition, *, seed: int) -> Matrix:
    """Return keys up to sign, order and length: [d', rank], columns of length 1."""
    # Optional, and imported slowly: nothing else needs it.
    from sklearn.decomposition import FastICA  # noqa: PLC0415
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

    mixed = found.vectors * np.sqrt(found.values)
    analysis = FastICA(
        algorithm="parallel",
        fun="logcosh",
        whiten="unit-variance",
        max_iter=_ITERATIONS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Sources that became Gaussian have no fixed point to converge to.
        warnings.simplefilter("ignore", ConvergenceWarning)
        analysis.fit(mixed)
    # `transform` would take off the mean over coordinates, which is a part of the key.
    keys = mixed @ analysis.components_.T
    demixed: Matrix = keys / np.linalg.norm(keys, axis=0)
    return demixed


def cosines(demixed: Matrix, candidates: Matrix) -> Matrix:
    """Return |cos| of every demixed key with every candidate, [rank, candidates].

    Args:
        demixed: [d', rank], columns of length 1.
        candidates: [d', candidates]; a zero column has cosine 0.
    """
    lengths = np.linalg.norm(candidates, axis=0)
    inner = np.abs(demixed.T @ candidates)
    found: Matrix = np.divide(inner, lengths, out=np.zeros_like(inner), where=lengths > 0)
    return found


ENTRY = Entry(
    name="ica",
    asks="What are the keys in the opened sum, without a list of candidates?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=Demixing,
    source="Cocktail Party Attack, arXiv 2209.05578; FastICA, Hyvärinen 1999",
    departs="on a Gram matrix, with exact whitening; candidates only name what was found",
    headline="auc",
)


KEYS = Entry(
    name="ica-keys",
    asks="How close do keys demixed from the opened sum come to the real ones?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=DemixedKeys,
    source="Cocktail Party Attack, arXiv 2209.05578; FastICA, Hyvärinen 1999",
    departs="on a Gram matrix, with exact whitening; what is scored are the vectors themselves",
    headline="cosine",
    needs=(),
)
