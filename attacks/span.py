"""Subject membership: which candidates' mapped keys lie in the range of an opened statistic.

KSTER (arXiv 2602.10134, stage I; its code reanatom/EditingAttack, `experiments/attack_kr_opt.py`)
scores a candidate key k by ρ = ‖Qᵀk‖/‖k‖, Q an orthonormal basis of the update's row space. DAGER
(arXiv 2405.15586, section 4) uses the same test on gradients: a low-rank matrix gives away which of
finitely many vectors it was made of. Here Q comes from

* Y = SΩ: range(Y) = range(S) = span of all mapped keys, almost surely for m ≥ rank(S); no SVD of
  an update and no covariance is needed, `SumSpan`, `UploadSpan`;
* the update ΔW = T(ρI + S)⁺Φ: its rows lie in range(S), `UpdateSpan`.

Departs from KSTER in two points: keys are compared in the mapped space, where Φ has whitened them,
and the rank is read from the spectrum instead of being given. The test is exact while the number of
edits is below d' for the sums, and below d_out for the update.
"""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import (
    AggregatorView,
    RecipientView,
    first_layer,
    layer_of,
    statistics_of,
)
from collabedit.crypto.ring import RingArray
from collabedit.exchange import plan_encoding, plan_test_matrix
from collabedit.ids import LayerIndex, PartyId
from collabedit.plan import Plan
from collabedit.sketch import OVERSAMPLING, Matrix, expand_test_matrix
from collabedit.threat_model import Adversary

_NOISE_MARGIN = 4.0
"""In units of the expected spectral norm of the rounding; its fluctuation is far smaller."""


def range_basis(matrix: Matrix, *, noise: float) -> Matrix:
    """Return an orthonormal basis of the numerical range: [rows, rank].

    Singular values above 4σ(√rows + √columns) + max(rows, columns)·ε·s₁ count. The first term is
    beyond the spectral norm of independent errors of deviation σ (Vershynin 2010, arXiv 1011.3027,
    corollary 5.35), the second is numpy's rule for float64.

    Args:
        matrix: [rows, columns].
        noise: σ, standard deviation of an entry's rounding error.
    """
    rows, columns = matrix.shape
    left, values = _decomposed(matrix)
    spread = _NOISE_MARGIN * noise * (np.sqrt(rows) + np.sqrt(columns))
    rounding = max(rows, columns) * np.finfo(np.float64).eps * float(values.max(initial=0.0))
    return left[:, values > spread + rounding]


def _decomposed(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return left singular vectors and values.

    LAPACK's divide and conquer gives up on a few finite matrices that it solves transposed: seen
    with OpenBLAS on the difference of two closed sums.
    """
    try:
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        _, values, right = np.linalg.svd(np.ascontiguousarray(matrix.T), full_matrices=False)
        left = right.T
    return left, values


def span_scores(basis: Matrix, candidates: Matrix) -> Matrix:
    """Score each candidate by the share of its length in the span: ρ = ‖Qᵀk‖/‖k‖, in 0..1.

    Args:
        basis: Q, [d', rank], orthonormal columns.
        candidates: [d', candidates].
    """
    lengths = np.linalg.norm(candidates, axis=0)
    inside = np.linalg.norm(basis.T @ candidates, axis=0)
    scores: Matrix = np.divide(inside, lengths, out=np.zeros_like(inside), where=lengths > 0)
    return scores


@dataclass(frozen=True, slots=True)
class Sketched:
    """Y = SΩ of one layer, as opened.

    Attributes:
        gram: Y, [d', m].
        omega: Ω, [d', m].
        noise: σ, standard deviation of an entry of Y.
    """

    gram: Matrix
    omega: Matrix
    noise: float


def rounding(plan: Plan, parties: int) -> float:
    """Return σ of an entry of a sum of `parties` contributions.

    One rounding is uniform over a step: variance step²/12.
    """
    return plan_encoding(plan).step * float(np.sqrt(parties / 12))


def gram_sketch(plan: Plan, layer: LayerIndex, vector: RingArray, *, parties: int) -> Sketched:
    """Read Y of one layer of a ring vector.

    A dense S is sketched here if it has room for its rank: decomposing it at size d' takes minutes.

    Args:
        plan: public.
        layer: which one.
        vector: a sum over `parties` parties, or one upload (1), [elements] of the task.
        parties: how many contributions were rounded and added.
    """
    _, entry, _ = layer_of(plan, layer)
    gram, _ = statistics_of(plan, layer, vector)
    noise = rounding(plan, parties)
    if plan.aggregation.statistics == "sketch":
        return Sketched(gram, plan_test_matrix(plan, entry), noise)
    members = plan.party_ids
    rank = plan.max_edits(members) + len(members) * plan.max_past_edits
    if rank + OVERSAMPLING >= entry.mapped:
        return Sketched(gram, np.eye(entry.mapped), noise)
    omega = expand_test_matrix(
        bytes.fromhex(plan.aggregation.test_matrix_seed),
        layer=layer,
        rows=entry.mapped,
        columns=rank + OVERSAMPLING,
    )
    # An entry is now a sum of d' independent errors times standard normals.
    return Sketched(gram @ omega, omega, noise * float(np.sqrt(entry.mapped)))


def vector_scores(
    plan: Plan, layer: LayerIndex, vector: RingArray, candidates: Matrix, *, parties: int
) -> Matrix:
    """Score candidates against one layer of a ring vector.

    Args:
        plan: public.
        layer: which one.
        vector: a sum over `parties` parties, or one upload (1), [elements] of the task.
        candidates: [d', candidates].
        parties: how many contributions were rounded and added.
    """
    found = gram_sketch(plan, layer, vector, parties=parties)
    return span_scores(range_basis(found.gram, noise=found.noise), candidates)


@dataclass(frozen=True, slots=True)
class SumSpan:
    """Membership in the opened sum: what was edited, by whomever.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "sum-span"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score the candidates against the opened sum: one row, about nobody in particular."""
        layer = first_layer(view.plan) if self.layer is None else self.layer
        task, _, _ = layer_of(view.plan, layer)
        scores = vector_scores(
            view.plan,
            layer,
            view.sums[task],
            prior.mapped_keys[layer],
            parties=len(view.survivors[task]),
        )
        return Finding(self.name, (None,), scores[None])


@dataclass(frozen=True, slots=True)
class UploadSpan:
    """Membership in each single upload: who edited what. Chance under masks.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "upload-span"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        """Score the candidates against each complete upload: one row for each party."""
        layer = first_layer(view.plan) if self.layer is None else self.layer
        task, _, _ = layer_of(view.plan, layer)
        uploads = view.uploads[task]
        about: tuple[PartyId, ...] = tuple(sorted(uploads))
        candidates = prior.mapped_keys[layer]
        rows = [
            vector_scores(view.plan, layer, uploads[party], candidates, parties=1)
            for party in about
        ]
        return Finding(self.name, about, np.stack(rows))


@dataclass(frozen=True, slots=True)
class UpdateSpan:
    """Membership in the released update: KSTER's own setting.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "update-span"
    adversary: Adversary = Adversary.RECIPIENT

    def run(self, view: RecipientView, prior: Prior) -> Finding:
        """Score the candidates against the update's row space: one row, about nobody."""
        layer = first_layer(view.plan) if self.layer is None else self.layer
        update = view.updates[layer].canonical()
        basis = range_basis(update.right.T, noise=0.0)
        return Finding(self.name, (None,), span_scores(basis, prior.mapped_keys[layer])[None])


SUM_SPAN = Entry(
    name="sum-span",
    asks="Which candidates were edited, by the range of the opened sum?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=SumSpan,
    source="KSTER, arXiv 2602.10134, stage I; DAGER, arXiv 2405.15586, for the test of a span",
    departs="on S itself, so no covariance and no decomposition of an update is needed",
    headline="auc",
)


UPLOAD_SPAN = Entry(
    name="upload-span",
    asks="Which candidates did each party edit, by the range of its upload?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=UploadSpan,
    source="KSTER, arXiv 2602.10134, stage I",
    departs="on each upload by itself",
    headline="auc",
)


UPDATE_SPAN = Entry(
    name="update-span",
    asks="Which candidates were edited, by the row space of the released update?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=UpdateSpan,
    source="KSTER, arXiv 2602.10134, stage I",
    departs="in mapped coordinates, for all editors, with the rank read from the spectrum",
    headline="auc",
)
