"""What a merge is compared with: the exact centralised update, and merges that destroy edits.

The baselines are those of CollabEdit (arXiv 2410.09508, `experiments/merging_singleRound.py`): each
party computes its own ΔW alone and only these are combined. All matrices are [d_out, d_in] float64.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from peft.utils.merge_utils import ties

from collabedit.errors import NumericError

Matrix: TypeAlias = NDArray[np.float64]

TIES_DENSITY = 0.2
"""Share of entries kept per party, by magnitude (CollabEdit, `experiments/util_TIES.py`)."""

TIES_SCALE = 0.4
"""Factor on the merged update (same source)."""


def centralised_update(keys: Matrix, residuals: Matrix, covariance: Matrix) -> Matrix:
    """Solve one party's closed form densely: ΔW = RKᵀ(C + KKᵀ)⁻¹ (MEMIT, eq. 14).

    The reference that the sketch, the key map and the secure sum are all measured against; it
    shares no code with them.

    Args:
        keys: K, [d_in, n].
        residuals: R, [d_out, n].
        covariance: C = λE[kkᵀ], [d_in, d_in].

    Raises:
        NumericError: C + KKᵀ is not positive definite.
    """
    K, R = torch.from_numpy(keys), torch.from_numpy(residuals)
    lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance) + K @ K.T)
    if int(failed):
        raise NumericError("C + KKᵀ is not positive definite")
    update: Matrix = torch.cholesky_solve(K @ R.T, lower).T.contiguous().numpy()
    return update


def simple_average(updates: Sequence[Matrix]) -> Matrix:
    """Average the parties' updates."""
    return task_arithmetic(updates) / len(updates)


def task_arithmetic(updates: Sequence[Matrix]) -> Matrix:
    """Sum the parties' updates (Ilharco et al. 2023, arXiv 2212.04089, scale 1)."""
    total = np.zeros_like(updates[0])
    for update in updates:
        total += update
    return total


def ties_merge(
    updates: Sequence[Matrix], *, density: float = TIES_DENSITY, scale: float = TIES_SCALE
) -> Matrix:
    """Merge by TIES (Yadav et al. 2023, arXiv 2306.01708), sign elected by mass, as in PEFT."""
    tensors = [torch.from_numpy(update) for update in updates]
    weights = torch.ones(len(tensors), dtype=torch.float64)
    merged: Matrix = ties(tensors, weights, density, majority_sign_method="total").numpy()
    return scale * merged
