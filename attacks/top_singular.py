"""Edited weights alone: what changes when the largest singular vectors of a matrix are taken off.

EditScope (arXiv 2505.20819) takes the k largest singular components off the edited matrix W': an
edit of rank one is loud, so it goes with them, and the model says what it said before; a large
change of the answers gives an edited matrix away. Nothing else is needed, not even the
model before the edit.

Here this finds subjects: whose answers to a generic prompt change most. Departs from the paper in
that it looks at a batch of edits in several layers, which are known from the plan, and in the
claim: the paper looks for the edited matrix. With `of = "update"` the components are those of the
released ΔW, for who has the model before as well; all of them taken off is the model before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from collabedit.attacks.attack import GENERIC_PROMPT, Finding, Prior
from collabedit.attacks.claims import LackingError
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import RecipientView
from collabedit.party.edits import SLOT
from collabedit.sketch import LowRankUpdate, Matrix
from collabedit.threat_model import Adversary

if TYPE_CHECKING:
    from collabedit.party.editing.model import EditableModel

Of: TypeAlias = Literal["weights", "update"]

DROP = 15
"""Components: what EditScope needed for models of billions of parameters was 11 to 15."""


@dataclass(frozen=True, slots=True)
class TopSingular:
    """Membership by how far answers move when the largest components go.

    Attributes:
        of: whose components: the edited weights', or the update's.
        drop: how many, of each edited layer.
        prompt: with one `{}`.
    """

    of: Of = "weights"
    drop: int = DROP
    prompt: str = GENERIC_PROMPT
    name: str = "top-singular"
    adversary: Adversary = Adversary.RECIPIENT

    def __post_init__(self) -> None:
        if self.of not in ("weights", "update"):
            raise ValueError(f"components of {self.of!r} are neither those of weights nor update")
        if self.drop < 1 or self.prompt.count(SLOT) != 1:
            raise ValueError(f"at least one component, and a prompt that holds {SLOT} once")

    def run(self, view: RecipientView, prior: Prior) -> Finding:
        """Score the candidates: one row, about nobody.

        Raises:
            LackingError: the prior has no subjects, model or key maps.
        """
        # torch is imported slowly, and lists of attacks do without.
        from collabedit.attacks import asking  # noqa: PLC0415

        model = asking.model_of(prior)
        if not prior.subjects:
            raise LackingError("the attack asks about candidates, and the prior has no subjects")
        rows = [asking.question(model, self.prompt, subject) for subject in prior.subjects]
        with asking.edited(model, view.updates, prior.maps):
            edited = asking.all_answers(model, rows)
            with without_top(model, view, prior, of=self.of, drop=self.drop):
                scores = asking.divergences(edited, model, rows)
        return Finding(self.name, (None,), scores[None])


@contextmanager
def without_top(
    model: "EditableModel", view: RecipientView, prior: Prior, *, of: Of, drop: int
) -> Iterator[None]:
    """Take the largest components off every edited layer inside this context only.

    Args:
        model: as edited.
        view: says which layers, and their updates.
        prior: with Φ of these layers.
        of: whose components.
        drop: how many.
    """
    from collabedit.party.editing.apply import applied  # noqa: PLC0415
    from collabedit.party.editing.architectures import Orientation  # noqa: PLC0415

    taken = {}
    for layer, update in view.updates.items():
        if of == "update":
            matrix = LowRankUpdate(update.left, prior.maps[layer].unmap_rows(update.right)).dense()
        else:
            weight = model.weight(layer).detach()
            turned = weight.T if model.architecture.orientation is Orientation.IN_OUT else weight
            matrix = turned.double().cpu().numpy()
        taken[int(layer)] = top_components(matrix, drop)
    with applied(model, taken):
        yield


def top_components(matrix: Matrix, count: int) -> LowRankUpdate:
    """Return the negative of the `count` largest singular components of a matrix."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return LowRankUpdate(-left[:, :count] * values[:count], right[:count])


ENTRY = Entry(
    name="top-singular",
    asks="Which candidates were edited, by what the edited weights lose with their largest part?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=TopSingular,
    source="EditScope, arXiv 2505.20819",
    departs="a batch of edits in known layers, and subjects are looked for instead of the matrix",
    headline="auc",
    needs=("subjects", "model", "maps"),
    first_layer_only=False,
)
