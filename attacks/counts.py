"""How many edits there are, by the rank of what an aggregator sees.

S = K̃K̃ᵀ has rank n, and so has its sketch. An upload in clear tells its party's number of edits, the
opened sum that of all survivors, closed or not, since a secret basis changes no rank. Cover edits
are columns, too: what is counted is edits, past edits and covers together. A masked upload is
uniform over the ring and has the rank of its sketch, whatever is in it.
"""

from dataclasses import dataclass
from typing import Literal

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import Estimates
from collabedit.attacks.network import edits_of
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import gram_sketch, range_basis
from collabedit.attacks.views import AggregatorView, first_layer, layer_of
from collabedit.crypto.ring import RingArray
from collabedit.ids import LayerIndex
from collabedit.plan import Plan
from collabedit.threat_model import Adversary

EDITS_IN_ALL = "edits in all"
"""The quantity that the opened sum tells."""


@dataclass(frozen=True, slots=True)
class CountsByRank:
    """Numbers of edits: of each party from its upload, or of all from the opened sum.

    Attributes:
        layer: None is the first edited layer.
        source: what is looked at.
    """

    layer: LayerIndex | None = None
    source: Literal["uploads", "sum"] = "uploads"
    name: str = "counts-by-rank"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def __post_init__(self) -> None:
        if self.source not in {"uploads", "sum"}:
            raise ValueError(f"source {self.source!r}: must be uploads or sum")

    def run(self, view: AggregatorView, prior: Prior) -> Estimates:
        """Estimate the numbers of edits."""
        del prior
        plan = view.plan
        layer = first_layer(plan) if self.layer is None else self.layer
        task, _, _ = layer_of(plan, layer)
        if self.source == "sum":
            survivors = view.survivors[task]
            covers = plan.cover_edits * len(survivors)
            found = _rank(plan, layer, view.sums[task], parties=len(survivors)) - covers
            most = plan.max_edits(survivors)
            return Estimates(self.name, {EDITS_IN_ALL: _clip(found, most)}, choices=most)
        values, choices = {}, 1
        for party, upload in view.uploads[task].items():
            most = plan.max_edits([party])
            found = _rank(plan, layer, upload, parties=1) - plan.cover_edits
            values[edits_of(plan, party)] = _clip(found, most)
            choices = max(choices, most)
        return Estimates(self.name, values, choices=choices)


def _rank(plan: Plan, layer: LayerIndex, vector: RingArray, *, parties: int) -> int:
    found = gram_sketch(plan, layer, vector, parties=parties)
    return int(range_basis(found.gram, noise=found.noise).shape[1])


def _clip(found: int, most: int) -> float:
    return float(min(max(found, 1), most))


ENTRY = Entry(
    name="counts-by-rank",
    asks="How many edits are there, by the rank of uploads or of the sum?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=CountsByRank,
    source="Halko, Martinsson, Tropp 2011, section 4.4: the rank of a sketch is that of the matrix",
    departs="a count is all that is read",
    headline="exact",
    needs=(),
)
