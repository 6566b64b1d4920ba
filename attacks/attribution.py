"""Attribution: which party made an edit that is known to be among the edits of the session.

The membership test of `span` on every party's own upload; the guess is the party whose upload the
key fits best. Without masks that party's range contains the key exactly, so the guess is right. A
masked upload is uniform over the ring and independent of the edits (Bonawitz et al. 2017, CCS,
lemma 6.1), so every party is equally likely to come out best: accuracy 1/P.
"""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import UploadSpan
from collabedit.attacks.views import AggregatorView
from collabedit.ids import LayerIndex, PartyId
from collabedit.threat_model import Adversary


@dataclass(frozen=True, slots=True)
class Attribution:
    """Scores [parties, known edits]; the prior's candidates are the known edits.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "attribution"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score every known edit against every party's upload."""
        finding = UploadSpan(self.layer).run(view, prior)
        return Finding(self.name, finding.about, finding.scores)


def best_parties(finding: Finding) -> tuple[PartyId | None, ...]:
    """Name the party with the highest score for each candidate."""
    return tuple(finding.about[row] for row in np.argmax(finding.scores, axis=0))


ENTRY = Entry(
    name="attribution",
    asks="Which party made an edit that is known to be in the session?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=Attribution,
    source="Bonawitz et al. 2017 (CCS), lemma 6.1, is what it is held against",
    departs="the span test on every upload; the best party is the guess",
    headline="attribution",
)
