"""Balanced factors of a low-rank matrix: UΣ^½ and Σ^½Vᵀ of its singular value decomposition.

They depend on the product alone, up to rounding, which is why a merge releases them
(docs/mathematics.md, section 7). With Gram matrices nearly all of the work is multiplication, and
several times faster than QR of both factors. A Gram matrix squares the condition number, so this
way is taken only where the loss of orthogonality, of the order of ε·cond², stays below
`ORTHOGONALITY`; elsewhere QR and a full decomposition do it. Either way the product of the factors
is the matrix to working accuracy: a Gram matrix costs orthogonality, not the product. Source: Golub
and Van Loan 2013, Matrix Computations, sections 5.2 and 8.6. numpy only.
"""

import contextlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]

ORTHOGONALITY = 1e-11
"""Largest cosine between two columns of U, or of V, that a Gram matrix may leave."""

_EPSILON = float(np.finfo(np.float64).eps)
_COLUMNS = 1024
"""Columns that are replaced at a time, so that no second copy of a wide factor is made."""


def balance(
    left: Matrix, right: Matrix, *, rank: int | None = None, overwrite: bool = False
) -> tuple[Matrix, Matrix]:
    """Return UΣ^½ [d_out, k] and Σ^½Vᵀ [k, d'] of left·right, by descending singular value.

    The largest entry of each column of the first is positive. k is the smallest of r, d_out, d' and
    `rank`. Costs O((d_out + d')r²).

    Args:
        left: [d_out, r].
        right: [r, d'], r ≥ 1.
        rank: keep so many of the largest singular values; None keeps all.
        overwrite: `right` is given up, and its memory may hold the result.
    """
    rows, root, inverse = _orthonormal_rows(right)
    u, values, vt = _thin_svd(left @ root)
    kept = min(len(values), len(values) if rank is None else rank)
    u, vt = u[:, :kept], vt[:kept]
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(kept)])
    scale = signs * np.sqrt(values[:kept])
    small = scale[:, None] * vt
    if inverse is not None:
        small = small @ inverse
    return u * scale, _premultiply(small, rows, overwrite=overwrite or rows is not right)


def _orthonormal_rows(right: Matrix) -> tuple[Matrix, Matrix, Matrix | None]:
    """Return B, C and D with right = C·(DB) and orthonormal rows of DB; D None stands for I."""
    gram = right @ right.T
    with contextlib.suppress(np.linalg.LinAlgError):
        root = np.asarray(np.linalg.cholesky(gram), dtype=np.float64)
        inverse = np.asarray(np.linalg.inv(root), dtype=np.float64)
        # ‖D‖_F² is the sum of the inverse eigenvalues of the Gram matrix.
        condition = float(np.vdot(inverse, inverse)) * float(gram.diagonal().max())
        if _EPSILON * condition < ORTHOGONALITY:
            return right, root, inverse
    columns, triangle = np.linalg.qr(right.T)
    lower: Matrix = triangle.T
    return columns.T, lower, None


def _thin_svd(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Return U, the singular values in descending order, and Vᵀ, as many as the shorter side."""
    tall = len(matrix) >= matrix.shape[1]
    values, vectors = np.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
    if not _EPSILON * float(values[-1]) < ORTHOGONALITY * float(values[0]):
        u, singular, vt = np.linalg.svd(matrix, full_matrices=False)
        return u, np.asarray(singular, dtype=np.float64), vt
    vectors = vectors[:, ::-1]
    singular = np.sqrt(values[::-1])
    if tall:
        return matrix @ vectors / singular, singular, vectors.T
    return vectors, singular, (vectors.T @ matrix) / singular[:, None]


def _premultiply(small: Matrix, wide: Matrix, *, overwrite: bool) -> Matrix:
    """Return small·wide, in the memory of `wide` if that may be."""
    kept = len(small)
    if not overwrite or kept > len(wide):
        return small @ wide
    for start in range(0, wide.shape[1], _COLUMNS):
        block = wide[:, start : start + _COLUMNS]
        block[:kept] = small @ block
    return wide if kept == len(wide) else wide[:kept].copy()
