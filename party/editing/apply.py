"""Writing a merged update into the weights, and taking it back to the exact bits.

ΔW = left · right [d_out, d_in] is multiplied out and added in float64 and cast to the weight's
dtype once, so a half-precision weight gets its rounded sum (torch casts by way of float32, which
can move a tie): adding a half-precision ΔW instead would round most of it away. The orientation is
the architecture's declared one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from collabedit.errors import InputError, NumericError
from collabedit.party.editing.architectures import Orientation
from collabedit.party.editing.model import EditableModel
from collabedit.sketch import LowRankUpdate

_ROW_BLOCK = 1024
"""Rows of ΔW formed at a time: bounds the float64 copy of a large weight."""


@dataclass(slots=True)
class Undo:
    """Restores one weight to the bits it had before an update.

    Updates of one layer are undone in reverse order, latest first.
    """

    _weight: nn.Parameter = field(repr=False)
    _original: Tensor | None = field(repr=False)

    def restore(self) -> None:
        """Put the original weight back. The second call does nothing."""
        if self._original is not None:
            with torch.no_grad():
                self._weight.copy_(self._original)
            self._original = None


def apply_update(model: EditableModel, layer: int, update: LowRankUpdate) -> Undo:
    """Add an update to the edited projection of a layer.

    Args:
        model: changed in place.
        layer: which layer.
        update: left [d_out, r], right [r, d_in], in the model's own coordinates.

    Returns:
        What takes it back. It holds a copy of the weight.

    Raises:
        InputError: the update has another shape than the weight.
        NumericError: the new weight would not be finite; the weight is unchanged.
    """
    weight = model.weight(layer)
    shape = (len(update.left), update.right.shape[1])
    if shape != (model.d_out(layer), model.d_in(layer)):
        raise InputError(
            f"update of layer {layer} has shape {list(shape)}, the weight "
            f"[{model.d_out(layer)}, {model.d_in(layer)}]"
        )
    left = torch.from_numpy(update.left).to(weight.device)
    right = torch.from_numpy(update.right).to(weight.device)
    original = weight.detach().clone()
    undo = Undo(weight, original)
    transposed = model.architecture.orientation is Orientation.IN_OUT
    outputs_first = weight.T if transposed else weight
    with torch.no_grad():
        for start in range(0, shape[0], _ROW_BLOCK):
            rows = outputs_first[start : start + _ROW_BLOCK]
            rows.copy_(rows.double() + left[start : start + _ROW_BLOCK] @ right)
    if not bool(torch.isfinite(weight).all()):
        undo.restore()
        raise NumericError(f"the update of layer {layer} makes a weight that is not finite")
    return undo


@contextmanager
def applied(model: EditableModel, updates: Mapping[int, LowRankUpdate]) -> Iterator[None]:
    """Edit the model inside this context only; afterwards it has its exact original bits."""
    undos: list[Undo] = []
    try:
        for layer, update in updates.items():
            undos.append(apply_update(model, layer, update))
        yield
    finally:
        for undo in reversed(undos):
            undo.restore()
