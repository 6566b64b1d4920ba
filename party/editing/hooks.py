"""Reading and changing activations while a model runs.

Every hook lives inside a context manager that removes it on any way out, so no model is left with
one.
Blocks return a tensor in recent transformers and a tuple in older ones and in GPT-J; both are
handled. Positions are right-padded token indices, one per row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

BlockOutput: TypeAlias = Tensor | tuple[Tensor, ...]


class _StopForwardError(Exception):
    """Ends a forward pass once everything wanted has been seen. Never leaves `stopping_after`."""


@dataclass(slots=True)
class Captured:
    """What a capture saw in the latest forward pass.

    Attributes:
        values: [rows, d] at the positions asked for, or [rows, T, d] for all of them.
    """

    _values: Tensor | None = field(default=None, repr=False)

    @property
    def values(self) -> Tensor:
        """The activations; only after a forward pass."""
        if self._values is None:
            raise RuntimeError("the module has not run inside this capture")
        return self._values


def hidden_of(output: BlockOutput) -> Tensor:
    """Return the residual stream [rows, T, d_model] out of what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def at_positions(activations: Tensor, positions: Tensor) -> Tensor:
    """Pick one position per row: [rows, T, d], [rows] -> [rows, d]."""
    rows = torch.arange(len(positions), device=activations.device)
    return activations[rows, positions.to(activations.device)]


@contextmanager
def capturing_input(module: nn.Module, positions: Tensor | None = None) -> Iterator[Captured]:
    """Keep the module's input, at one position per row or (None) at all."""
    captured = Captured()

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured._values = (  # noqa: SLF001  # the capture is this function's own
            inputs[0] if positions is None else at_positions(inputs[0], positions)
        )

    handle = module.register_forward_pre_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def capturing_output(module: nn.Module, positions: Tensor | None = None) -> Iterator[Captured]:
    """Keep the module's output, at one position per row or (None) at all."""
    captured = Captured()

    def hook(_module: nn.Module, _inputs: object, output: BlockOutput) -> None:
        hidden = hidden_of(output)
        captured._values = (  # noqa: SLF001  # the capture is this function's own
            hidden if positions is None else at_positions(hidden, positions)
        )

    handle = module.register_forward_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def adding_to_output(block: nn.Module, positions: Tensor, vectors: Tensor) -> Iterator[None]:
    """Add `vectors` [rows, d_model] to the block's output at one position per row.

    Gradients flow into `vectors`.
    """

    def hook(_module: nn.Module, _inputs: object, output: BlockOutput) -> BlockOutput:
        changed = add_at(hidden_of(output), positions, vectors)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def add_at(hidden: Tensor, positions: Tensor, vectors: Tensor) -> Tensor:
    """Return `hidden` [rows, T, d] with `vectors` [rows, d] added at one position per row."""
    rows = torch.arange(len(positions), device=hidden.device)
    index = (rows, positions.to(hidden.device))
    return hidden.index_put(index, vectors.to(hidden), accumulate=True)


@contextmanager
def stopping_after(module: nn.Module) -> Iterator[None]:
    """End the forward pass inside this context once `module` has run.

    Hooks that shall see that module must be registered before. Statements behind the forward pass
    in the `with` block do not run.
    """

    def hook(_module: nn.Module, _inputs: object, _output: object) -> None:
        raise _StopForwardError

    handle = module.register_forward_hook(hook)
    try:
        yield
    except _StopForwardError:
        pass
    finally:
        handle.remove()
