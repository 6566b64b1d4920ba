"""What an aggregator can compute with, out of one opened vector: the eigenvectors of S, exactly.

S has rank n, the number of edits, far below d'. With Q an orthonormal basis of range(Y) = range(S),
Y = SΩ gives QᵀY = (QᵀSQ)(QᵀΩ), and QᵀΩ [n, m] has full row rank for generic Ω, so QᵀSQ follows by
least squares (Halko, Martinsson, Tropp 2011, section 5.5; there an approximation, exact here since
rank(S) ≤ m). This is the Nyström form Y W⁺ Yᵀ without its squared condition number.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from collabedit.attacks.span import gram_sketch, range_basis
from collabedit.attacks.views import AggregatorView, layer_of, statistics_of
from collabedit.crypto.ring import RingArray
from collabedit.exchange import plan_test_matrix
from collabedit.ids import LayerIndex, PartyId
from collabedit.plan import Plan
from collabedit.sketch import Matrix

Source: TypeAlias = Literal["sum", "uploads"]
"""The opened sum of a task, or every party's upload by itself."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A vector that the aggregator reads as statistics.

    Attributes:
        about: whose it is; None for a sum.
        parties: whose contributions were rounded and added.
        vector: [elements] of the task.
    """

    about: PartyId | None
    parties: frozenset[PartyId]
    vector: RingArray = field(repr=False)


@dataclass(frozen=True, slots=True)
class Decomposition:
    """S = V Λ Vᵀ.

    Attributes:
        vectors: V, [d', rank], orthonormal.
        values: the diagonal of Λ, [rank], descending and positive.
    """

    vectors: Matrix = field(repr=False)
    values: Matrix = field(repr=False)


def opened_vectors(view: AggregatorView, layer: LayerIndex, source: Source) -> tuple[Opened, ...]:
    """Return what there is of a layer's task: one sum, or an upload of each party, ascending."""
    task, _, _ = layer_of(view.plan, layer)
    if source == "sum":
        return (Opened(None, view.survivors[task], view.sums[task]),)
    return tuple(
        Opened(party, frozenset({party}), vector)
        for party, vector in sorted(view.uploads[task].items())
    )


def decompose(plan: Plan, layer: LayerIndex, opened: Opened) -> Decomposition:
    """Decompose one layer's S, sketched or dense."""
    found = gram_sketch(plan, layer, opened.vector, parties=len(opened.parties))
    basis = range_basis(found.gram, noise=found.noise)
    seen, kept = basis.T @ found.omega, basis.T @ found.gram
    core = np.linalg.lstsq(seen.T, kept.T, rcond=None)[0].T
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    positive = values > 0
    return Decomposition((basis @ vectors[:, positive])[:, ::-1], values[positive][::-1])


def turned_cross(plan: Plan, layer: LayerIndex, opened: Opened, found: Decomposition) -> Matrix:
    """Return T V, [d_out, rank]: what T says along the eigenvectors of S.

    Rows of T lie in the range of S, so T = (T V)Vᵀ, and Z = TΩ = (T V)(VᵀΩ) gives it. With rows of
    decoys, if the plan has any.

    Args:
        plan: public.
        layer: which one.
        opened: what was decomposed.
        found: its S.
    """
    _, cross = statistics_of(plan, layer, opened.vector)
    if plan.aggregation.statistics == "dense":
        turned: Matrix = cross @ found.vectors
        return turned
    _, entry, _ = layer_of(plan, layer)
    seen = found.vectors.T @ plan_test_matrix(plan, entry)
    return (cross @ np.linalg.pinv(seen)).astype(np.float64)
