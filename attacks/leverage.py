"""Leverage: how much of a candidate the opened S holds, weighed by how strongly it holds it.

The ridge leverage of a key is k̃ᵀ(S + γI)⁻¹k̃ (Alaoui and Mahoney 2015, NeurIPS, "Fast randomized
kernel ridge regression with statistical guarantees"). The span test asks whether a key lies in
range(S), and says nothing once edits fill the space; leverage asks how well those directions are
covered, and degrades step by step. Departs from the paper in what is done with it: there rows of a
known matrix are sampled by it, here columns of an unknown one are recognised. The score is

    k̃ᵀS(S + γI)⁻¹k̃/‖k̃‖² = 1 - γ·leverage/‖k̃‖²,

in 0..1 for every length of key; γ → 0 makes it the square of the span score.
"""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.opened import Decomposition, Source, decompose, opened_vectors
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import AggregatorView, first_layer
from collabedit.ids import LayerIndex
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary


@dataclass(frozen=True, slots=True)
class Leverage:
    """Membership in the opened sum, or in each upload.

    Attributes:
        layer: None is the first edited layer.
        source: what is attacked.
        ridge: γ; None takes the plan's own ridge ρ, at which the merge damps directions.
    """

    layer: LayerIndex | None = None
    source: Source = "sum"
    ridge: float | None = None
    name: str = "leverage"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score the candidates: a row for each vector that is attacked."""
        layer = first_layer(view.plan) if self.layer is None else self.layer
        ridge = view.plan.editing.ridge if self.ridge is None else self.ridge
        vectors = opened_vectors(view, layer, self.source)
        rows = [
            leverage_scores(decompose(view.plan, layer, each), prior.mapped_keys[layer], ridge)
            for each in vectors
        ]
        return Finding(self.name, tuple(each.about for each in vectors), np.stack(rows))


def leverage_scores(found: Decomposition, candidates: Matrix, ridge: float) -> Matrix:
    """Score candidates by k̃ᵀS(S + γI)⁻¹k̃/‖k̃‖², [candidates], in 0..1.

    Args:
        found: S.
        candidates: [d', candidates]; a zero column scores 0.
        ridge: γ >= 0.
    """
    weights = found.values / (found.values + ridge)
    held = weights @ (found.vectors.T @ candidates) ** 2
    lengths = np.einsum("dc,dc->c", candidates, candidates)
    scores: Matrix = np.divide(held, lengths, out=np.zeros_like(held), where=lengths > 0)
    return scores


ENTRY = Entry(
    name="leverage",
    asks="Which candidates does the opened sum hold, and how strongly?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=Leverage,
    source="Alaoui and Mahoney 2015 (NeurIPS), ridge leverage scores",
    departs="columns of an unknown matrix are recognised, where rows of a known one were sampled",
    headline="auc",
)
