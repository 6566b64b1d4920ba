"""Membership by loudness: an edited key is moved further by the update than others are."""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import RecipientView, first_layer
from collabedit.threat_model import Adversary


@dataclass(frozen=True)
class Loudness:
    """Scores ‖ΔW k̃‖/‖k̃‖ of each candidate."""

    name: str = "loudness"
    adversary: Adversary = Adversary.RECIPIENT

    def run(self, view: RecipientView, prior: Prior) -> Finding:
        """Score the candidates: one row, about nobody in particular."""
        layer = first_layer(view.plan)
        keys, update = prior.mapped_keys[layer], view.updates[layer]
        moved = np.linalg.norm(update.left @ (update.right @ keys), axis=0)
        return Finding(self.name, (None,), (moved / np.linalg.norm(keys, axis=0))[None])


ENTRY = Entry(
    name="loudness",
    asks="Which candidates does the released update move most?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=Loudness,
    source="an example",
    departs="in nothing",
    headline="auc",
)
