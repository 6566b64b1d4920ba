"""How far an honest merge may miss its equation: Δ(ρI + S) = T in finite precision.

A party holds Δ against Sv and Tv for a secret Gaussian v. What an honest aggregator returns solves
the equation for opened sums, of which every entry is off by the rounding of s contributions,
deviation σ = step·√(s/12). What follows from that, for K̃ with n columns (docs/closed-sums.md,
"Tolerance"):

1. The sketch of a direction of S with eigenvalue μ has energy μ(ρ + μ)·χ²_{m-n+1} in ρW + YᵀY, by
   which `merge_sketch` decides: 1/[(GGᵀ)⁻¹]ᵢᵢ of a Gaussian G [n, m] is χ² with m - n + 1 degrees
   of freedom (Muirhead 1982, theorem 3.2.12). Below twice its cut-off c it may be dropped or is as
   large as its error, so that Δ lacks T's part of it, at most ‖R‖₂√μ, for all μ(ρ + μ) ≤ 4c/x
   with x the χ² quantile. For the dense form c bounds μ itself, and without a ridge μ²x ≤ (2c)².
2. All other directions carry the rounding of Y and Z, amplified by at most √(n/x).
3. Sv and Tv are rounded, too, and all of it is computed in float64.

x is the Chernoff bound k/e·p^(2/k) of the p-quantile of χ²_k. A matrix F that v does not depend on
has ‖Fv‖ ≤ ‖F‖_F + t‖F‖₂ but with probability e^(-t²/2) (Boucheron, Lugosi and Massart 2013,
theorem 5.6). Both fail with probability `FAILURE`; Ω is fixed before any key, so x holds for keys
that are not chosen against it.

What item 1 allows is far more than merges miss by, unless two keys are as good as equal, and it
would let through a lie of that size. So a plan caps it by a share of ‖R‖₂‖S‖₂^½ ≥ ‖T‖₂,
`check_tolerance`: honest sums beyond that cap are refused with the lies.
"""

import math
from dataclasses import dataclass
from typing import Final

from collabedit.editing import Layer
from collabedit.plan import Plan

FAILURE: Final = 1e-9
"""Probability of each of the two events of a layer in which an honest merge may be refused."""

_TAIL: Final = math.sqrt(-2 * math.log(FAILURE))
_EPSILON: Final = 2.0**-52


@dataclass(frozen=True, slots=True)
class LayerSums:
    """What parties know of the sums of a layer, authenticated (SPEC 6.9).

    Attributes:
        columns: n, of K̃, of all survivors together.
        edits: columns of R.
        keys: at least ‖S‖₂.
        residuals: at least ‖R‖₂².
    """

    columns: int
    edits: int
    keys: float
    residuals: float


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What ‖Δ(ρv + Sv) - Tv‖ of an honest merge is at most the sum of.

    Attributes:
        rounding: items 2 and 3.
        lost: item 1.
    """

    rounding: float
    lost: float


@dataclass(frozen=True, slots=True)
class Magnitude:
    """What float64 computes with: decoys included, whose rounding U spreads over all outputs.

    Attributes:
        size: ‖Δ‖_F as released.
        residuals: at least ‖R⁺‖₂².
    """

    size: float
    residuals: float


def tolerance(
    plan: Plan,
    layer: Layer,
    sums: LayerSums,
    *,
    survivors: int,
    rank: int,
    size: float,
    inexact: Magnitude,
) -> Tolerance:
    """Bound what an honest merge misses by.

    Args:
        plan: ring, statistics, ridge.
        layer: its sizes.
        sums: of the layer.
        survivors: s.
        rank: of Δ, as released.
        size: ‖Δ‖_F, without decoys.
        inexact: with them.
    """
    step = 2.0**-plan.aggregation.fractional_bits
    sigma = step * math.sqrt(survivors / 12)
    ridge, columns = plan.editing.ridge, max(sums.columns, 1)
    outputs = math.sqrt(layer.outputs)
    if plan.aggregation.statistics == "dense":
        lost = 8 * _dense_cutoff(layer, sums, sigma)
        spread = 2 * size * 2 * sigma * math.sqrt(layer.mapped) + sigma * outputs
        amplified = spread * (math.sqrt(columns) + _TAIL)
    else:
        capacity = plan.aggregation.capacity
        freedom = max(capacity - columns, 0) + 1
        least = freedom / math.e * FAILURE ** (2 / freedom)
        root = math.sqrt(capacity)
        wobble = sigma * (math.sqrt(layer.mapped) + root)
        lost = _lost(layer, sums, ridge=ridge, root=root, wobble=wobble, least=least)
        spread = 2 * size * wobble + sigma * (outputs + root)
        amplified = spread * math.sqrt(columns / least) * (1 + _TAIL)
    affected = max(columns - rank, 0) + 1
    missing = math.sqrt(sums.residuals * lost) * (math.sqrt(affected) + _TAIL)
    scale = inexact.size * (ridge + sums.keys) + math.sqrt(inexact.residuals * sums.keys)
    rounded = sigma * (outputs + _TAIL) + size * sigma * (math.sqrt(layer.mapped) + _TAIL)
    mapped = math.sqrt(layer.mapped)
    computed = 64 * _EPSILON * mapped * scale * (mapped + _TAIL)
    return Tolerance(amplified + rounded + computed, missing)


def _lost(
    layer: Layer, sums: LayerSums, *, ridge: float, root: float, wobble: float, least: float
) -> float:
    """Largest eigenvalue of S whose direction the sketched merge may lack."""
    # ‖GΩ‖ of the range of S alone.
    reach = root + math.sqrt(max(sums.columns, 1)) + _TAIL
    if not ridge:
        cutoff = 2 * wobble + layer.mapped * _EPSILON * sums.keys * reach
        return 2 * cutoff / math.sqrt(least)
    omega = math.sqrt(layer.mapped) + root
    largest = (ridge + sums.keys) * sums.keys * reach**2
    cutoff = (ridge * omega + 2 * sums.keys * reach) * wobble + root**2 * _EPSILON * largest
    energy = 4 * cutoff / least
    # μ(ρ + μ) = energy, without cancellation.
    return 2 * energy / (ridge + math.sqrt(ridge**2 + 4 * energy))


def _dense_cutoff(layer: Layer, sums: LayerSums, sigma: float) -> float:
    return 4 * sigma * math.sqrt(layer.mapped) + layer.mapped * _EPSILON * sums.keys
