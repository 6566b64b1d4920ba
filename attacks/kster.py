"""KSTER by the aggregator: the span test on the update that it merges itself.

KSTER (arXiv 2602.10134, stage I) takes the row space of a released update for the span of the
edited keys. The aggregator has the update before anybody releases it, since the merge is its work,
and may merge single uploads as well if it can read them. Departs from the paper as `span` does:
mapped keys, and the rank is read from the spectrum. The update, and so its row space, is in the
coordinates of the sums: in closed sums not the model's.
"""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.opened import Source, opened_vectors
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import range_basis, rounding, span_scores
from collabedit.attacks.views import AggregatorView, first_layer, layer_of
from collabedit.exchange import merge_vector, plan_encoding
from collabedit.ids import LayerIndex
from collabedit.threat_model import Adversary


@dataclass(frozen=True, slots=True)
class MergedSpan:
    """Membership in the update of the opened sum, or of each upload.

    Attributes:
        layer: None is the first edited layer.
        source: what is attacked.
    """

    layer: LayerIndex | None = None
    source: Source = "sum"
    name: str = "kster"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score the candidates: a row for each vector that is merged.

        Raises:
            NumericError: a vector is no sum of statistics, as a masked upload is not.
            BoundsError: it exceeds the plan's bounds.
        """
        plan = view.plan
        layer = first_layer(plan) if self.layer is None else self.layer
        task, _, _ = layer_of(plan, layer)
        vectors = opened_vectors(view, layer, self.source)
        rows = []
        for each in vectors:
            total = plan_encoding(plan).decode(each.vector)
            noise = rounding(plan, len(each.parties))
            merged = merge_vector(plan, task, total, survivors=each.parties, noise=noise)
            basis = range_basis(merged[layer].right.T, noise=0.0)
            rows.append(span_scores(basis, prior.mapped_keys[layer]))
        return Finding(self.name, tuple(each.about for each in vectors), np.stack(rows))


ENTRY = Entry(
    name="kster",
    asks="Which candidates were edited, by the update that the aggregator merges?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=MergedSpan,
    source="KSTER, arXiv 2602.10134, stage I",
    departs="on the update that the aggregator makes itself, before anybody releases it",
    headline="auc",
)
