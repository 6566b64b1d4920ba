"""Φ: the public linear map that makes one merge formula serve every editor.

ΔW = T(ρI + S)⁺Φ with S, T of mapped keys K̃ = ΦK. The numpy side of the engine: what maps keys to
statistics, and the merged rows back.

| editor | Φ [d', d_in] |
|---|---|
| MEMIT | L⁻¹ with λE[kkᵀ] = LLᵀ; then T(I + S)⁻¹Φ = RKᵀ(λE[kkᵀ] + KKᵀ)⁻¹ |
| MALMEN, plain ridge | e^(-λ/2) I |
| AlphaEdit | Vᵀ/√L2, V an orthonormal basis of the near-null space of E[kkᵀ] |
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from collabedit.errors import NumericError

Matrix: TypeAlias = NDArray[np.float64]

_RIDGES = (0.0, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6)
"""Tried in order, in units of the mean diagonal. Beyond 1e-6 the second moment is not one."""


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A linear map Φ on keys. Exactly one of the three representations is set.

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
    _rows: Matrix | None = field(default=None, repr=False)

    @classmethod
    def from_covariance(cls, second_moment: Matrix, weight: float) -> "KeyMap":
        """MEMIT: Φ = L⁻¹ with weight · E[kkᵀ] = LLᵀ.

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
        """Plain ridge: Φ = e^(-log_ridge/2) I, so that ΔW = RKᵀ(e^log_ridge I + KKᵀ)⁻¹."""
        return cls(d_in=d_in, mapped=d_in, _scale=float(np.exp(-log_ridge / 2)))

    @classmethod
    def from_null_space(cls, second_moment: Matrix, threshold: float, l2: float) -> "KeyMap":
        """AlphaEdit: Φ = Vᵀ/√l2, V the eigenvectors of E[kkᵀ] with eigenvalue below `threshold`.

        Raises:
            NumericError: no eigenvalue is below the threshold.
        """
        values, vectors = np.linalg.eigh(second_moment)
        below = vectors[:, values < threshold]
        if not below.shape[1]:
            raise NumericError(f"no eigenvalue of the keys' second moment is below {threshold}")
        rows = np.ascontiguousarray(below.T) / np.sqrt(l2)
        return cls(d_in=len(second_moment), mapped=len(rows), _rows=rows)

    def map_keys(self, keys: Matrix) -> Matrix:
        """Map K [d_in, n] to K̃ = ΦK [d', n]."""
        if self._lower is not None:
            return _solve(self._lower, keys, upper=False)
        if self._rows is not None:
            return self._rows @ keys
        return self._factor * keys

    def unmap_rows(self, rows: Matrix) -> Matrix:
        """Map rows B [r, d'] of a merged update to the model's coordinates: BΦ [r, d_in]."""
        if self._lower is not None:
            # (BL⁻¹)ᵀ = L⁻ᵀBᵀ
            return np.ascontiguousarray(_solve(self._lower.T, rows.T, upper=True).T)
        if self._rows is not None:
            return rows @ self._rows
        return self._factor * rows

    @property
    def _factor(self) -> float:
        if self._scale is None:
            raise ValueError("a key map needs one representation")
        return self._scale


def _solve(triangle: Matrix, right: Matrix, *, upper: bool) -> Matrix:
    # numpy has no triangular solve.
    solution: Matrix = torch.linalg.solve_triangular(
        torch.from_numpy(triangle),
        torch.from_numpy(np.ascontiguousarray(right)),
        upper=upper,
    ).numpy()
    return solution
