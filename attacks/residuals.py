"""Residual lengths: what T gives away where keys were given one length.

With `key_length` the eigenvalues of S say nothing of a key by its own length, but each residual was
scaled with its key: ‖r'‖ = c‖r‖/‖k̃‖. Lengths of residuals before that differ little, since the
target search stops at about the same distance for every fact, so ‖r'‖² is a reading of 1/‖k̃‖². The
aggregator has the ‖r'‖² up to their angles: T S⁺ Tᵀ = R'R'ᵀ if keys are independent
(docs/closed-sums.md, proposition 5), in whatever basis. The attack is the project's own; it is what
decoy outputs are there for.

Without `key_length` residuals tell little by their lengths, and the scores are near chance.
"""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.opened import Opened, Source, decompose, opened_vectors, turned_cross
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import AggregatorView, first_layer
from collabedit.ids import LayerIndex
from collabedit.plan import Plan
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

SPREAD = 0.4
"""Standard deviation of log ‖r‖², and of eigenvalues about squared lengths, together. On the demo's
model the two are 0.20 and 0.19 to 0.34 for 60 edits of CounterFact."""

_NOISE = 1e-8
"""Of the largest: eigenvalues below are rounding."""


@dataclass(frozen=True, slots=True)
class ResidualLengths:
    """Membership in the opened sum, or in each upload, from the eigenvalues of T S⁺ Tᵀ.

    Attributes:
        layer: None is the first edited layer.
        source: what is attacked.
        spread: of log ‖r‖² about the mean.
    """

    layer: LayerIndex | None = None
    source: Source = "sum"
    spread: float = SPREAD
    name: str = "residuals"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score the candidates: a row for each vector that is attacked."""
        layer = first_layer(view.plan) if self.layer is None else self.layer
        candidates = prior.mapped_keys[layer]
        lengths = np.log(np.einsum("dc,dc->c", candidates, candidates))
        vectors = opened_vectors(view, layer, self.source)
        rows = []
        for each in vectors:
            readings = -np.log(residual_energies(view.plan, layer, each))
            # How long residuals are nobody tells; edits are about as long as candidates.
            readings += lengths.mean() - readings.mean()
            logs = -0.5 * ((lengths[:, None] - readings) / self.spread) ** 2
            rows.append(np.logaddexp.reduce(logs - np.logaddexp.reduce(logs, axis=0), axis=1))
        return Finding(self.name, tuple(each.about for each in vectors), np.stack(rows))


def residual_energies(plan: Plan, layer: LayerIndex, opened: Opened) -> Matrix:
    """Return the eigenvalues of T S⁺ Tᵀ above rounding, descending."""
    found = decompose(plan, layer, opened)
    turned = turned_cross(plan, layer, opened, found)
    scaled = turned / np.sqrt(found.values)
    values = np.linalg.eigvalsh(scaled.T @ scaled)[::-1]
    kept: Matrix = values[values > _NOISE * values[0]]
    return kept


ENTRY = Entry(
    name="residuals",
    asks="Which candidates are as long as the residuals in the opened sum say?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=ResidualLengths,
    source="this project",
    departs="made against keys of one length",
    headline="auc",
)
