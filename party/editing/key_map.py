"""Φ: the public linear map that makes one merge formula serve every editor.

ΔW = T(ρI + S)⁺Φ with S, T of mapped keys K̃ = ΦK. The numpy side of the engine: what maps keys to
statistics, and the merged rows back.

| editor | Φ [d', d_in] | ρ |
|---|---|---|
| MEMIT | L⁻¹ with λE[kkᵀ] = LLᵀ; then T(I + S)⁻¹Φ = RKᵀ(λE[kkᵀ] + KKᵀ)⁻¹ | 1 |
| MALMEN's solve, plain ridge | e^(-λ/2) I | 1 |
| AlphaEdit | P/√L₂, P the orthogonal projector on the near-null space of E[kkᵀ] | 1 |
| EMMET | L⁻¹ as MEMIT | 0 |

Every party computes Φ on its own machine, and a sum of statistics under two different Φ means
nothing. So Φ must not depend on what a linear algebra library may choose: P instead of a basis of
its range (ADR 0011), and L with a positive diagonal.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from collabedit.editing import Editing
from collabedit.errors import NumericError, PlanError

Matrix: TypeAlias = NDArray[np.float64]

NULL_SPACE_ACCURACY = 1e-6
"""Largest difference between two machines' projectors P that is accepted, by estimate."""

_RIDGES = (0.0, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6)
"""Tried in order, in units of the mean diagonal. Beyond 1e-6 the second moment is not one."""


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A linear map Φ on keys: L⁻¹ if `_lower` is set, else a multiple of I or of a projector.

    Attributes:
        d_in: length of a key.
        mapped: d', length of a mapped key.
        ridge: what had to be added to the diagonal of E[kkᵀ] to factor it, 0 normally. Parties with
            the same covariance find the same one.
    """

    d_in: int
    mapped: int
    ridge: float = 0.0
    _lower: Matrix | None = field(default=None, repr=False)
    _scale: float | None = field(default=None, repr=False)
    _basis: Matrix | None = field(default=None, repr=False)

    @classmethod
    def from_covariance(cls, second_moment: Matrix, weight: float) -> "KeyMap":
        """MEMIT and EMMET: Φ = L⁻¹ with weight · E[kkᵀ] = LLᵀ.

        A factor whose smallest squared pivot is below d_in·ε times the largest diagonal entry
        counts as singular, because solving with it would amplify rounding. Then the smallest ridge
        of 1e-12, 1e-11, ..., 1e-6 times the mean diagonal that helps is added.

        Args:
            second_moment: E[kkᵀ], [d_in, d_in], symmetric.
            weight: λ > 0.

        Raises:
            NumericError: not finite, or no ridge makes it positive definite.
        """
        size = len(second_moment)
        if not (np.isfinite(second_moment).all() and weight > 0):
            raise NumericError(
                "the second moment of keys is not finite, or its weight not positive"
            )
        diagonal = np.diagonal(second_moment)
        floor = size * float(np.finfo(np.float64).eps) * float(diagonal.max(initial=0.0))
        for factor in _RIDGES:
            ridge = factor * float(diagonal.mean())
            try:
                lower = np.linalg.cholesky(second_moment + ridge * np.eye(size))
            except np.linalg.LinAlgError:
                continue
            if float(np.diagonal(lower).min()) ** 2 > floor:
                return cls(d_in=size, mapped=size, ridge=ridge, _lower=np.sqrt(weight) * lower)
        raise NumericError(
            "the second moment of keys is not positive definite; gather it over more text"
        )

    @classmethod
    def scaled(cls, d_in: int, log_ridge: float) -> "KeyMap":
        """Ridge: Φ = e^(-log_ridge/2) I, so that ΔW = RKᵀ(e^log_ridge I + KKᵀ)⁻¹."""
        return cls(d_in=d_in, mapped=d_in, _scale=float(np.exp(-log_ridge / 2)))

    @classmethod
    def from_null_space(
        cls, second_moment: Matrix, *, kept: int, threshold: float, l2: float
    ) -> "KeyMap":
        """AlphaEdit: Φ = P/√l2, P the projector on the near-null space of E[kkᵀ].

        P = VVᵀ is kept as V, [d_in, kept]; what it maps does not depend on the choice of V.

        Args:
            second_moment: E[kkᵀ], [d_in, d_in], symmetric.
            kept: how many eigenvalues are below `threshold`, as the plan says (`null_space_size`).
            threshold: as published, on eigenvalues of E[kkᵀ] itself, without λ.
            l2: L₂ > 0.

        Raises:
            NumericError: not finite, or the eigenvalues at the cut are no further apart than
                rounding: two machines might cut differently.
            PlanError: `kept` is not the number of eigenvalues below `threshold`.
        """
        values, vectors = _decompose(second_moment)
        _check_cut(values, kept=kept, threshold=threshold)
        basis = np.ascontiguousarray(vectors[:, :kept])
        size = len(second_moment)
        return cls(d_in=size, mapped=size, _scale=float(1 / np.sqrt(l2)), _basis=basis)

    def map_keys(self, keys: Matrix) -> Matrix:
        """Map K [d_in, n] to K̃ = ΦK [d', n]."""
        if self._lower is not None:
            return _solve(self._lower, keys, upper=False)
        if self._basis is not None:
            return self._factor * (self._basis @ (self._basis.T @ keys))
        return self._factor * keys

    def unmap_rows(self, rows: Matrix) -> Matrix:
        """Map rows B [r, d'] of a merged update to the model's coordinates: BΦ [r, d_in]."""
        if self._lower is not None:
            # (BL⁻¹)ᵀ = L⁻ᵀBᵀ
            return np.ascontiguousarray(_solve(self._lower.T, rows.T, upper=True).T)
        if self._basis is not None:
            return self._factor * ((rows @ self._basis) @ self._basis.T)
        return self._factor * rows

    def remap_rows(self, rows: Matrix) -> Matrix:
        """Undo `unmap_rows`: BΦ [r, d_in] to B [r, d'].

        Rows of AlphaEdit's updates come back in the null space, where merged ones lie.
        """
        if self._lower is not None:
            return rows @ self._lower
        # On its range P is the identity.
        return rows / self._factor

    @property
    def _factor(self) -> float:
        if self._scale is None:
            raise ValueError("a key map needs one representation")
        return self._scale


def key_scales(editing: Editing, mapped_keys: Matrix) -> Matrix:
    """Return the factors that give mapped keys the plan's `key_length`, [n]; ones without it.

    Args:
        editing: of the plan.
        mapped_keys: K̃, [d', n].

    Raises:
        NumericError: a mapped key is zero or not finite; names the column, counted from 1.
    """
    if editing.key_length is None:
        return np.ones(mapped_keys.shape[1])
    lengths = np.linalg.norm(mapped_keys, axis=0)
    flawed = np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))
    if flawed.size:
        raise NumericError(
            f"the mapped key of edit {flawed[0] + 1} of {lengths.size} is zero or not finite, so "
            "it cannot be given the plan's editing.key_length"
        )
    scales: Matrix = editing.key_length / lengths
    return scales


def null_space_size(second_moment: Matrix, threshold: float) -> int:
    """Count the eigenvalues of E[kkᵀ] below `threshold`, for the plan's `kept`.

    Raises:
        NumericError: not finite, none or all are below it, or the cut is too narrow. Says where
            the eigenvalues lie.
    """
    values, _ = _decompose(second_moment)
    kept = int(np.count_nonzero(values < threshold))
    if not 0 < kept < len(values):
        raise NumericError(
            f"{'all' if kept else 'no'} eigenvalues of the keys' second moment are below the "
            f"threshold {threshold:g}: they lie from {values[0]:.2g} to {values[-1]:.2g}, a tenth "
            f"below {np.quantile(values, 0.1):.2g}, half below {np.median(values):.2g}, nine "
            f"tenths below {np.quantile(values, 0.9):.2g}"
        )
    _check_cut(values, kept=kept, threshold=threshold)
    return kept


def _decompose(second_moment: Matrix) -> tuple[Matrix, Matrix]:
    if not np.isfinite(second_moment).all():
        raise NumericError("the second moment of keys is not finite")
    values, vectors = np.linalg.eigh(second_moment)
    return values, vectors


def _check_cut(values: Matrix, *, kept: int, threshold: float) -> None:
    """Check that the eigenvalues, ascending, part into `kept` and the rest at `threshold`.

    A backward stable solver gives the exact projector of a matrix that is off by some ε·λ_max, and
    P then moves by no more than that over the gap at the cut (Davis and Kahan 1970, sin Θ).
    """
    blur = 8 * float(np.finfo(np.float64).eps) * float(abs(values).max())
    below = 0 < kept <= len(values) and values[kept - 1] < threshold + blur
    if not below or (kept < len(values) and values[kept] < threshold - blur):
        found = int(np.count_nonzero(values < threshold))
        raise PlanError(
            f"the plan keeps {kept} eigenvectors of the keys' second moment, this covariance has "
            f"{found} eigenvalues below {threshold:g}"
        )
    if kept < len(values):
        gap = float(values[kept] - values[kept - 1])
        if blur > NULL_SPACE_ACCURACY * gap:
            raise NumericError(
                f"the eigenvalues at the threshold {threshold:g} of the null space are only "
                f"{gap:.1e} apart, so machines would not agree on it: choose another threshold"
            )


def _solve(triangle: Matrix, right: Matrix, *, upper: bool) -> Matrix:
    # numpy has no triangular solve.
    solution: Matrix = torch.linalg.solve_triangular(
        torch.from_numpy(triangle),
        torch.from_numpy(np.ascontiguousarray(right)),
        upper=upper,
    ).numpy()
    return solution
