"""Caps on what edits may weigh, and how opened sums are held against them. float64, numpy only.

A plan caps the squared norm of every mapped key k̃ and of every residual r. A sum shows no single
column, but it cannot exceed what columns under the caps allow. With n the number of edits that the
survivors may bring together, P = K̃ᵀΩ and any A with A ⪰ ΩᵀSΩ = W = PᵀP that is positive definite,

    tr(Y A⁻¹ Yᵀ) ≤ tr(Y W⁺ Yᵀ) ≤ tr(S)   = Σ‖k̃‖² ≤ n · key_energy
    tr(Z A⁻¹ Zᵀ) ≤ tr(Z W⁺ Zᵀ) = ‖RΠ‖_F² ≤ Σ‖r‖² ≤ n · residual_energy

where Π projects on range(P): Y W⁺ Yᵀ is the Nyström form of S, which never exceeds S (Gittens and
Mahoney 2016, JMLR 17(117)) and equals it if rank(S) ≤ m. A past edit (`memory`) has no residual and
counts in the first line alone, as w edits, w being its weight. Honest sums therefore pass, whatever
their rank. The other way round, sums that pass are those of some statistics whose largest
eigenvalue is at most n·key_energy and with ‖T‖_F² ≤ n·residual_energy · λ_max(S): all that the
merge can see of them. Proofs: docs/mathematics.md, section 8.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from collabedit.errors import BoundsError

Matrix: TypeAlias = NDArray[np.float64]

KEY_FACTOR = 100.0
"""Cap of ‖k̃‖² in units of its mean over general text, d'/λ for MEMIT. Subjects' last tokens are
rarer than text: the demo's 60 facts have up to 10.6 of these units, 3 in the mean."""

SLACK = 1e-6
"""Relative allowance of every cap for float64 rounding of both ends."""

NOISE_FACTOR = 8.0
"""Standard deviations of summed fixed-point rounding that a norm may be off by."""


@dataclass(frozen=True, slots=True)
class EnergyLimits:
    """What the edits of a set of parties may weigh together.

    Attributes:
        keys: largest Σ‖k̃‖², and so largest trace and eigenvalue of S.
        residuals: largest Σ‖r‖².
    """

    keys: float
    residuals: float


def check_columns(
    mapped_keys: Matrix, residuals: Matrix, *, key_energy: float, residual_energy: float
) -> None:
    """Hold every column of one party against the plan's caps, before anything of it is sent.

    Args:
        mapped_keys: K̃, [d', n].
        residuals: R, [d_out, n].
        key_energy: largest ‖k̃‖².
        residual_energy: largest ‖r‖².

    Raises:
        BoundsError: names the first edit beyond a cap, counted from 1, and no number of it.
    """
    for what, columns, cap in (
        ("key", mapped_keys, key_energy),
        ("residual", residuals, residual_energy),
    ):
        # Negated, so that a column that is not finite fails, too.
        beyond = np.flatnonzero(~(np.einsum("dn,dn->n", columns, columns) <= cap))
        if beyond.size:
            raise BoundsError(
                f"the {what} of edit {beyond[0] + 1} of {columns.shape[1]} exceeds the plan's "
                f"bounds.{what}_energy {cap:g}: leave the edit out, or agree on a plan with a "
                "larger cap"
            )


def check_past(mapped_keys: Matrix, *, weight: float, key_energy: float) -> None:
    """Hold the columns of one party's past edits against the plan's cap.

    Args:
        mapped_keys: √w·K̃, [d', n].
        weight: w.
        key_energy: largest ‖k̃‖².

    Raises:
        BoundsError: names the first past edit beyond it, counted from 1, and no number of it.
    """
    energies = np.einsum("dn,dn->n", mapped_keys, mapped_keys)
    # The factor √w was rounded.
    beyond = np.flatnonzero(~(energies <= weight * key_energy * (1 + SLACK)))
    if beyond.size:
        raise BoundsError(
            f"the key of past edit {beyond[0] + 1} of {len(energies)}, on the weights of today, "
            f"exceeds the plan's bounds.key_energy {key_energy:g}: forget its session, or agree on "
            "a plan with a larger cap"
        )


def check_projections(
    mapped_keys: Matrix, omega: Matrix, *, reach: float, key_energy: float
) -> None:
    """Hold every column's projection against what the noise of a plan with privacy counts on.

    Args:
        mapped_keys: K̃ as it is sketched, [d', n].
        omega: Ω, [d', m].
        reach: largest ‖Ωᵀk̃‖/√κ, `privacy.projection_bound`.
        key_energy: κ.

    Raises:
        BoundsError: names the first column beyond it, counted from 1, and no number of it.
    """
    projected = omega.T @ mapped_keys
    energies = np.einsum("mn,mn->n", projected, projected)
    beyond = np.flatnonzero(~(energies <= key_energy * reach**2))
    if beyond.size:
        raise BoundsError(
            f"the key of edit {beyond[0] + 1} of {len(energies)} projects further on the plan's "
            "test matrix than its noise is made for: leave the edit out, or agree on a plan with "
            "another test_matrix_seed"
        )


def check_sketch(
    gram: Matrix,
    cross: Matrix,
    *,
    square: Matrix,
    values: Matrix,
    vectors: Matrix,
    tolerance: float,
    noise: float,
    cross_noise: float,
    limits: EnergyLimits,
) -> None:
    """Hold summed sketches against the caps.

    A = W + 2τI with τ the tolerance of W: the opened W differs from the true one by at most τ, so A
    exceeds the true one, and A ⪰ τI since W was accepted with eigenvalues from -τ on. Rounding of
    Y in front of A^-½ adds σ√(d' tr A⁻¹) in the mean square, of which `NOISE_FACTOR` are allowed.

    ‖YA^-½‖_F² = tr(A⁻¹YᵀY) needs no pass over Y, but A⁻¹ lifts the rounding of YᵀY, which is
    relative to ‖Y‖². It decides where it passes with a bound of that rounding added (Higham 2002,
    section 3.5: entries are off by d'·ε·|Y|ᵀ|Y| at most); elsewhere Y itself does.

    Args:
        gram: Y, [d', m].
        cross: Z, [d_out, m].
        square: YᵀY, [m, m].
        values: eigenvalues of W, [m], none below -τ.
        vectors: its eigenvectors, [m, m].
        tolerance: τ, as `merge_sketch` has it.
        noise: σ, standard deviation of an entry of Y.
        cross_noise: likewise of Z.
        limits: of the survivors.

    Raises:
        BoundsError: says which cap. Nobody can tell from a sum whose contribution exceeds it.
    """
    lifted = values + 2 * tolerance
    if not lifted.min() > 0:
        raise BoundsError("opened sums exceed every bound: W is zero where Y is not")
    basis = vectors / np.sqrt(lifted)
    root = float(np.sqrt((1 / lifted).sum()))

    def allowed(limit: float, deviation: float, rows: int) -> float:
        return float(np.sqrt(limit) + NOISE_FACTOR * deviation * root * np.sqrt(rows))

    keys = allowed(limits.keys, noise, len(gram))
    rounding = (len(gram) + 2 * len(square)) * np.finfo(np.float64).eps * np.trace(square) * root**2
    if not float(np.vdot(basis, square @ basis) + rounding) <= keys**2:
        _check("key", float(np.linalg.norm(gram @ basis)), keys)
    residuals = allowed(limits.residuals, cross_noise, len(cross))
    _check("residual", float(np.linalg.norm(cross @ basis)), residuals)


def check_dense(
    values: Matrix,
    vectors: Matrix,
    cross: Matrix,
    *,
    tolerance: float,
    noise: float,
    cross_noise: float,
    limits: EnergyLimits,
) -> None:
    """Hold dense sums against the caps: tr(S), and tr(T (S + 2τI)⁻¹ Tᵀ).

    Args:
        values: eigenvalues of S, [d'], none below -τ.
        vectors: its eigenvectors, [d', d'].
        cross: T, [d_out, d'].
        tolerance: τ, as `merge_dense` has it.
        noise: σ, standard deviation of an entry of S.
        cross_noise: likewise of T.
        limits: of the survivors.

    Raises:
        BoundsError: says which cap.
    """
    size = len(values)
    trace = float(values.sum()) - NOISE_FACTOR * noise * float(np.sqrt(size))
    _check("key", float(np.sqrt(max(trace, 0.0))), float(np.sqrt(limits.keys)))
    lifted = values + 2 * tolerance
    if not lifted.min() > 0:
        # Exact sums (τ = 0) of no edit at all, or T where S is zero.
        if cross.any():
            raise BoundsError("opened sums exceed every bound: S is zero where T is not")
        return
    spread = cross_noise * float(np.sqrt(len(cross) * (1 / lifted).sum()))
    energy = float(np.linalg.norm(cross @ (vectors / np.sqrt(lifted))))
    _check("residual", energy, float(np.sqrt(limits.residuals)) + NOISE_FACTOR * spread)


def check_update(
    left: Matrix, right: Matrix, *, ridge: float, limits: EnergyLimits, balanced: bool = False
) -> None:
    """Hold a merged update, in mapped coordinates, against what the caps allow it to be.

    ΔW = RK̃ᵀ(ρI + K̃K̃ᵀ)⁻¹ and s/(ρ + s²) ≤ 1/(2√ρ) give ‖ΔW‖_F ≤ ‖R‖_F/(2√ρ). Without a ridge
    nothing follows for the size.

    Factors must not cancel: where large ones do, the computed size is what rounding makes of it.
    Balanced factors of a singular value decomposition (SPEC 6.5) have ‖left‖_F·‖right‖_F = Σσ ≤
    √r·‖ΔW‖_F.

    Args:
        left: [d_out, r].
        right: [r, d'].
        ridge: ρ.
        limits: of the survivors, or of all parties.
        balanced: the rows of `right` are orthogonal since the caller made them so, which gives the
            size by their lengths and those of the columns of `left`.

    Raises:
        BoundsError: the update is larger, its size is not finite, or its factors cancel.
    """
    if not right.size:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if balanced:
            lengths = np.einsum("or,or->r", left, left), np.einsum("rd,rd->r", right, right)
            size = float(np.vdot(*lengths))
        else:
            size = squared_size(left, right)
        factors = float(np.linalg.norm(left) ** 2 * np.linalg.norm(right) ** 2)
    if ridge and not 4 * ridge * size <= limits.residuals * (1 + SLACK) ** 2:
        raise BoundsError("the update is larger than edits within bounds.residual_energy can make")
    if not factors <= 4 * len(right) * size:
        raise BoundsError("the update's factors cancel: no merge is released in that form")


def squared_size(left: Matrix, right: Matrix) -> float:
    """Return ‖left·right‖_F² = ⟨leftᵀleft, right·rightᵀ⟩, without forming the product.

    Exact up to a few ε·‖left‖_F²·‖right‖_F², so of use for factors that do not cancel.
    """
    return float(np.vdot(left.T @ left, right @ right.T))


def check_magnitude(
    total: Matrix, *, parties: int, bound: float, step: float, noise: float = 0.0
) -> None:
    """Refuse a sum with an entry that `parties` values of at most `bound` cannot add up to.

    Args:
        total: decoded sum.
        parties: s, how many contributions are in it.
        bound: the plan's magnitude bound.
        step: of the fixed point; each value was rounded to a multiple of it.
        noise: what the noise of a plan with privacy may add to an entry.

    Raises:
        BoundsError: an entry is beyond.
    """
    largest = float(np.abs(total).max(initial=0.0))
    if not largest <= (parties * (bound + step) + noise) * (1 + SLACK):
        raise BoundsError("the opened sum exceeds what its parties may add up to")


def _check(what: str, found: float, allowed: float) -> None:
    if not found <= allowed * (1 + SLACK):
        raise BoundsError(
            f"opened sums exceed the plan's bounds.{what}_energy for the edits that the survivors "
            "may bring"
        )
