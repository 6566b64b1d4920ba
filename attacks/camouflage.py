"""Attacks of a recipient that knows of subspace camouflage (`party.editing.camouflage`).

The row space Q of a camouflaged update holds, for each direction, a combination of keys of edits
and of decoys, where KSTER (arXiv 2602.10134) looks for keys alone. Both attacks here first find
edits and decoys together, which needs the decoys among the candidates.

* `PairCollinearity`, for the published form, k + αd in Q for each edit: the residuals a_s =
  (I - QQᵀ)k_s of an edit and its decoy are antiparallel. With the basis drawn at random, as here,
  residuals of edits are combinations of those of all decoys; what is left of the pairs fades as the
  number of directions and of decoys grows.
* `DictionaryRegression`, for any mixing: every vector of Q is a combination of the candidates that
  were mixed, and of no others, so it is regressed on all of them (ridge; joint support of several
  measurements as in Cotter et al. 2005, IEEE Trans. Signal Process. 53(7)). With fewer candidates
  than d' and exact keys the answer is unique, however many decoys there are.

Then they tell one from the other. The update's rank r says how many are edits. Of the r(1 + q) best
candidates the edits are those r that have less of their length in Q if α > 1, and more if α < 1; at
α = 1 there is nothing to go by but the attack's own order. q and α are given: a defence that is
public is attacked with its parameters known.
"""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import range_basis, span_scores
from collabedit.attacks.views import RecipientView, first_layer
from collabedit.ids import LayerIndex
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

_RIDGE = 1e-3
"""Beside the mean eigenvalue 1/d' of the candidates' second moment: exact keys need none."""


@dataclass(frozen=True, slots=True)
class PairCollinearity:
    """Look for candidates whose residuals outside the row space are antiparallel.

    Attributes:
        decoys: q, for each direction.
        strength: α.
        layer: None is the first edited layer.
    """

    decoys: int = 1
    strength: float = 1.0
    layer: LayerIndex | None = None
    name: str = "pair-collinearity"
    adversary: Adversary = Adversary.RECIPIENT

    def run(self, view: RecipientView, prior: Prior) -> Finding:
        """Score by the best partner: one row, about nobody."""
        basis, unit = _given(view, prior, self.layer)
        residuals = unit - basis @ (basis.T @ unit)
        lengths = np.linalg.norm(residuals, axis=0)
        # What lies in the row space has no direction outside; it needs no partner, either.
        inside = lengths < np.sqrt(np.finfo(np.float64).eps)
        residuals = np.divide(residuals, lengths, out=np.zeros_like(residuals), where=~inside)
        scores = np.where(inside, 1.0, -(residuals.T @ residuals).min(axis=1, initial=0.0))
        parted = edits_first(
            scores,
            span_scores(basis, unit),
            rank=basis.shape[1],
            decoys=self.decoys,
            strength=self.strength,
        )
        return Finding(self.name, (None,), parted[None])


@dataclass(frozen=True, slots=True)
class DictionaryRegression:
    """Explain the row space by the candidates: who has a part in it was mixed.

    Attributes:
        decoys: q, for each direction.
        strength: α.
        ridge: in units of the mean eigenvalue; a large one makes this the span test.
        layer: None is the first edited layer.
    """

    decoys: int = 1
    strength: float = 1.0
    ridge: float = _RIDGE
    layer: LayerIndex | None = None
    name: str = "dictionary-regression"
    adversary: Adversary = Adversary.RECIPIENT

    def run(self, view: RecipientView, prior: Prior) -> Finding:
        """Score by the length of a candidate's coefficients, in deviations: one row."""
        basis, unit = _given(view, prior, self.layer)
        size, count = unit.shape
        moment = unit @ unit.T / count + self.ridge / size * np.eye(size)
        solved = np.linalg.solve(moment, np.concatenate([basis, unit], axis=1))
        coefficients = unit.T @ solved[:, : basis.shape[1]]
        # kᵀ(moment)⁻¹k: the variance of a coefficient if Q were noise.
        variances = np.einsum("ij,ij->j", unit, solved[:, basis.shape[1] :])
        scores = np.divide(
            np.linalg.norm(coefficients, axis=1),
            np.sqrt(np.maximum(variances, 0.0)),
            out=np.zeros(count),
            where=variances > 0,
        )
        parted = edits_first(
            scores,
            span_scores(basis, unit),
            rank=basis.shape[1],
            decoys=self.decoys,
            strength=self.strength,
        )
        return Finding(self.name, (None,), parted[None])


def edits_first(
    scores: Matrix, shares: Matrix, *, rank: int, decoys: int, strength: float
) -> Matrix:
    """Return scores by which those that seem edits come before those that seem decoys.

    Args:
        scores: belief that a candidate was mixed in, [candidates].
        shares: ρ of `span_scores`, [candidates].
        rank: r, dimension of the row space.
        decoys: q.
        strength: α.

    Returns:
        Up to 1 for those that were not mixed in, up to 2 for decoys, up to 3 for edits; the order
        of `scores` within each. With strength 1 nobody is called an edit.
    """
    order = np.argsort(-scores, kind="stable")
    parted = np.empty_like(scores)
    parted[order] = np.linspace(1.0, 0.0, len(order), endpoint=False)
    mixed = order[: rank * (1 + decoys)]
    parted[mixed] += 1
    if strength != 1.0:
        by_share = shares[mixed] if strength > 1 else -shares[mixed]
        parted[mixed[np.argsort(by_share, kind="stable")[:rank]]] += 1
    return parted


def _given(view: RecipientView, prior: Prior, layer: LayerIndex | None) -> tuple[Matrix, Matrix]:
    """Return Q of the first layer or another one, and the candidates' keys at length 1."""
    place = first_layer(view.plan) if layer is None else layer
    keys = prior.mapped_keys[place]
    lengths = np.linalg.norm(keys, axis=0)
    unit = np.divide(keys, lengths, out=np.zeros_like(keys), where=lengths > 0)
    basis = range_basis(view.updates[place].canonical().right.T, noise=0.0)
    return basis, unit


PAIRS = Entry(
    name="pair-collinearity",
    asks="Which candidates were edited, under camouflage with one decoy each?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=PairCollinearity,
    source="this project, against the camouflage of arXiv 2602.10134, section 5",
    departs="residuals of an edit and its decoy are antiparallel",
    headline="auc",
)


REGRESSION = Entry(
    name="dictionary-regression",
    asks="Which candidates were edited, under any camouflage?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=DictionaryRegression,
    source="this project, against the camouflage of arXiv 2602.10134, section 5",
    departs="every direction is regressed on all candidates together",
    headline="auc",
)
