"""What a merge is compared with: the exact centralised updates, and merges that destroy edits.

The centralised updates are each editor's own closed form as its paper or code writes it, solved
densely in float64. They are the reference that the sketch, the key maps and the secure sum are all
measured against, and share no code with these.

The baselines are those of CollabEdit (arXiv 2410.09508, `experiments/merging_singleRound.py`): each
party computes its own ΔW alone and only these are combined. All matrices are [d_out, d_in] float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from peft.utils.merge_utils import ties

from collabedit.editing import Editing, Layer
from collabedit.errors import NumericError

Matrix: TypeAlias = NDArray[np.float64]

TIES_DENSITY = 0.2
"""Share of entries kept per party, by magnitude (CollabEdit, `experiments/util_TIES.py`)."""

TIES_SCALE = 0.4
"""Factor on the merged update (same source)."""


@dataclass(frozen=True, slots=True)
class PastKeys:
    """Keys K_p of past edits, [d_in, p], on today's weights, and their weight w."""

    keys: Matrix
    weight: float

    @property
    def gram(self) -> Matrix:
        """w·K_pK_pᵀ, [d_in, d_in]."""
        product: Matrix = self.weight * self.keys @ self.keys.T
        return product


def centralised_update(keys: Matrix, residuals: Matrix, covariance: Matrix) -> Matrix:
    """Solve MEMIT's closed form: ΔW = RKᵀ(C + KKᵀ)⁻¹ (arXiv 2210.07229, eq. 14).

    Args:
        keys: K, [d_in, n].
        residuals: R, [d_out, n].
        covariance: C = λE[kkᵀ], [d_in, d_in]; with a memory C + w·K_pK_pᵀ (CollabEdit,
            arXiv 2410.09508, "dynamic covariance").

    Raises:
        NumericError: C + KKᵀ is not positive definite.
    """
    K, R = torch.from_numpy(keys), torch.from_numpy(residuals)
    lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance) + K @ K.T)
    if int(failed):
        raise NumericError("C + KKᵀ is not positive definite")
    update: Matrix = torch.cholesky_solve(K @ R.T, lower).T.contiguous().numpy()
    return update


def centralised_ridge(
    keys: Matrix, residuals: Matrix, shift: float, past: PastKeys | None = None
) -> Matrix:
    """Solve MALMEN's closed form: ΔW = RKᵀ(KKᵀ + e^λ I)⁻¹.

    arXiv 2311.04661; zjunlp/EasyEdit, `easyeditor/trainer/algs/MALMEN.py`, `predict_param_shifts`,
    with λ = `shift` and R in place of what its network predicts. It has no memory of its own; with
    one the past edits are rows of the same least squares problem.
    """
    ridge = np.exp(shift) * np.eye(len(keys))
    if past is not None:
        ridge += past.gram
    update: Matrix = np.linalg.solve(keys @ keys.T + ridge, keys @ residuals.T).T
    return update


def centralised_alphaedit(
    keys: Matrix,
    residuals: Matrix,
    second_moment: Matrix,
    *,
    threshold: float,
    l2: float,
    past: PastKeys | None = None,
) -> Matrix:
    """Solve AlphaEdit's closed form: ΔWᵀ = (P(KKᵀ + w·K_pK_pᵀ) + L₂ I)⁻¹ P K Rᵀ.

    arXiv 2410.02355, which writes RKᵀP(K_pK_pᵀP + KKᵀP + I)⁻¹; L₂, the projector P = UUᵀ from a
    singular value decomposition of E[kkᵀ], and K_pK_pᵀ (`cache_c`, w = 1) as in
    jianghoucheng/AlphaEdit, `AlphaEdit_main.py` and `experiments/evaluate.py`.

    Args:
        keys: K, [d_in, n].
        residuals: R, [d_out, n].
        second_moment: E[kkᵀ], [d_in, d_in].
        threshold: singular values below it span the null space.
        l2: L₂.
        past: of earlier batches; None for a first one.
    """
    left, values, _ = np.linalg.svd(second_moment)
    small = left[:, values < threshold]
    projector = small @ small.T
    gram = keys @ keys.T
    if past is not None:
        gram += past.gram
    matrix = projector @ gram + l2 * np.eye(len(keys))
    update: Matrix = np.linalg.solve(matrix, projector @ keys @ residuals.T).T
    return update


def centralised_emmet(
    keys: Matrix, residuals: Matrix, second_moment: Matrix, past: PastKeys | None = None
) -> Matrix:
    """Solve EMMET's closed form: ΔW = R(KᵀC₀⁻¹K)⁻¹KᵀC₀⁻¹ (arXiv 2403.14236).

    The update of least tr(ΔW C₀ ΔWᵀ) with ΔW K = R, and with a memory ΔW K_p = 0 as further
    constraints. As in its code, the pseudo-inverse stands in where keys depend on each other; only
    there does the weight of the past ones decide anything. C₀ may be E[kkᵀ] times any factor.
    """
    if past is not None:
        kept = np.sqrt(past.weight) * past.keys
        keys = np.concatenate([keys, kept], axis=1)
        zeros = np.zeros((len(residuals), kept.shape[1]))
        residuals = np.concatenate([residuals, zeros], axis=1)
    white = np.linalg.solve(second_moment, keys)
    update: Matrix = residuals @ np.linalg.pinv(keys.T @ white, hermitian=True) @ white.T
    return update


def centralised(
    editing: Editing,
    layer: int,
    keys: Matrix,
    residuals: Matrix,
    second_moment: Matrix | None,
    *,
    past: PastKeys | None = None,
) -> Matrix:
    """Solve the closed form of the plan's editor for one layer: ΔW, [d_out, d_in].

    Args:
        editing: of the plan.
        layer: index of the layer.
        keys: K, [d_in, n], of all edits.
        residuals: R, [d_out, n].
        second_moment: E[kkᵀ] of the layer; None for an editor without.
        past: keys of past edits; None without a memory.

    With `editing.key_length` every key, past ones too, is of that length, as its row of the least
    squares problem weighs so much.

    Raises:
        NumericError: MEMIT's matrix is not positive definite.
        ValueError: no such layer, or not the editor's parameters.
    """
    (entry,) = (entry for entry in editing.layers if entry.index == layer)
    scales = _equally_long(editing, entry, keys, second_moment)
    keys, residuals = keys * scales, residuals * scales
    if past is not None:
        remembered = past.keys * _equally_long(editing, entry, past.keys, second_moment)
        past = PastKeys(remembered, past.weight)
    weight, threshold, l2 = editing.covariance_weight, editing.nullspace_threshold, editing.l2
    if editing.editor == "ridge" and entry.shift is not None:
        return centralised_ridge(keys, residuals, entry.shift, past)
    if second_moment is not None:
        if editing.editor == "memit" and weight is not None:
            gram = 0.0 if past is None else past.gram
            return centralised_update(keys, residuals, weight * second_moment + gram)
        if editing.editor == "emmet":
            return centralised_emmet(keys, residuals, second_moment, past)
        if editing.editor == "alphaedit" and threshold is not None and l2 is not None:
            return centralised_alphaedit(
                keys, residuals, second_moment, threshold=threshold, l2=l2, past=past
            )
    raise ValueError(f"the parameters of editor {editing.editor} are not complete")


def _equally_long(
    editing: Editing, entry: Layer, keys: Matrix, second_moment: Matrix | None
) -> Matrix:
    """Return the factor of each key's weighted least squares row, [n]; ones without `key_length`.

    c/‖Φk‖ by what each ‖Φk‖² is in the model's coordinates: kᵀ(λE[kkᵀ])⁻¹k, e^(-λ)‖k‖², ‖Pk‖²/L₂.
    """
    if editing.key_length is None:
        return np.ones(keys.shape[1])
    if entry.shift is not None:
        energies = np.exp(-entry.shift) * np.square(keys).sum(axis=0)
    elif editing.nullspace_threshold is not None and editing.l2 is not None:
        assert second_moment is not None  # noqa: S101  the editor's parameters are complete
        left, values, _ = np.linalg.svd(second_moment)
        small = left[:, values < editing.nullspace_threshold]
        energies = np.square(small.T @ keys).sum(axis=0) / editing.l2
    else:
        assert second_moment is not None  # noqa: S101
        assert editing.covariance_weight is not None  # noqa: S101
        weighted = editing.covariance_weight * second_moment
        energies = (keys * np.linalg.solve(weighted, keys)).sum(axis=0)
    scales: Matrix = editing.key_length / np.sqrt(energies)
    return scales


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
