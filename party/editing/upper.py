"""The blocks above one layer, run on their own from that layer's output.

A search for targets changes the output of one block and nothing below, so what lies below is run
once. Instead of rebuilding a forward pass per architecture (position ids, rotary embeddings, masks
by layer type, ...), one ordinary pass over one row is recorded: the arguments that each upper block
received besides the hidden states. Without a padding mask these depend on the width only and have
batch size 1, so they broadcast over any number of rows. The recorded row is then replayed and
compared: an architecture that hands anything else from block to block is told apart at once.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from collabedit.party.editing.hooks import capturing_output, hidden_of, recording_calls
from collabedit.party.editing.model import EditableModel

_REPLAY_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Relative. Norms compute in float32 even in a float64 model; half precision gets 2e-2."""


@dataclass(frozen=True, slots=True)
class UpperBlocks:
    """Blocks above a layer and the final norm, for one width of rows.

    Attributes:
        is_faithful: replaying the recorded row gave what the ordinary pass gave.
    """

    is_faithful: bool
    _blocks: tuple[Callable[[Tensor], Tensor], ...] = field(repr=False)
    _final_norm: nn.Module = field(repr=False)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map the layer's output [rows, T, d_model] to final hidden states of the same shape."""
        for block in self._blocks:
            hidden = block(hidden)
        final: Tensor = self._final_norm(hidden)
        return final


def record_upper_blocks(model: EditableModel, layer: int, input_ids: Tensor) -> UpperBlocks:
    """Record the blocks above `layer` on the first row of `input_ids` [rows, T], for width T."""
    modules = [model.block(index) for index in range(layer + 1, model.n_layers)]
    with torch.no_grad(), ExitStack() as stack:
        edited = stack.enter_context(capturing_output(model.block(layer)))
        calls = stack.enter_context(recording_calls(modules))
        expected = model.forward(input_ids[:1])
    blocks = tuple(
        _bind(module, args, kwargs) for module, (args, kwargs) in zip(modules, calls, strict=True)
    )
    with torch.no_grad():
        upper = UpperBlocks(is_faithful=True, _blocks=blocks, _final_norm=model.final_norm)
        error = (upper(edited.values) - expected).norm() / expected.norm()
    tolerance = _REPLAY_TOLERANCE.get(model.dtype, 2e-2)
    return UpperBlocks(
        is_faithful=bool(error <= tolerance), _blocks=blocks, _final_norm=model.final_norm
    )


def _bind(
    module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        return hidden_of(module(hidden, *args, **kwargs))

    return run
