"""Several devices on a machine that has none: names on tensors that all lie in main memory.

Inside `pretended_devices` a tensor is on the device that it was made on, moved to or computed from,
as a name only, and a call on tensors of different devices raises as torch does for GPUs. The names
are `cpu:0`, `cpu:1` and so on; `cpu` is main memory itself. Numbers are those of the CPU. Calls
that C++ makes, gradients among them, are not looked at.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

HOST = torch.device("cpu")

_MOVES = (Tensor.to, Tensor.cpu)
_INDEXING = (Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put)


class _Names(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names = WeakTensorKeyDictionary()

    def name_of(self, tensor: Tensor) -> torch.device:
        name: torch.device = self.names.get(tensor, HOST)  # type: ignore[no-untyped-call]
        return name

    def put(self, value: object, device: torch.device) -> None:
        for tensor in _tensors([value]):
            self.names[tensor] = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever torch returns
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # a new object each time
            return self.name_of(args[0])
        if func in _MOVES:
            wanted = _wanted(func, args[1:], kwargs) or self.name_of(args[0])
            # A copy, as between devices: the same tensor cannot have two names.
            same = wanted == self.name_of(args[0])
            result = func(*args, **kwargs)
            result = result.clone() if result is args[0] and not same else result
            self.put(result, wanted)
            return result
        device = kwargs.get("device")
        inputs = list(_tensors([args, kwargs]))
        if func in _INDEXING:
            inputs = [tensor for tensor in inputs if not _is_host_index(self, tensor, args[0])]
        places = {self.name_of(tensor) for tensor in inputs if tensor.dim()}
        if len(places) > 1:
            name = getattr(func, "__name__", str(func))
            raise RuntimeError(f"{name}: tensors on {sorted(map(str, places))}")
        result = func(*args, **kwargs)
        if device is not None:
            self.put(result, torch.device(device))
        elif places:
            self.put(result, places.pop())
        elif inputs:
            self.put(result, self.name_of(inputs[0]))
        return result


def _is_host_index(names: _Names, tensor: Tensor, indexed: object) -> bool:
    # An index in main memory is allowed: torch moves it.
    return (
        tensor is not indexed and not tensor.is_floating_point() and names.name_of(tensor) == HOST
    )


def _wanted(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> torch.device | None:
    if func is Tensor.cpu:
        return HOST
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.device | str):
            return torch.device(value)
    return None


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


@contextmanager
def pretended_devices(model: nn.Module, places: dict[str, str]) -> Iterator[None]:
    """Put the modules of `places` on devices by name, as accelerate does, inside this context."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules

    class Moving(AlignDevicesHook):  # type: ignore[misc]  # accelerate has no types
        def init_hook(self, module: nn.Module) -> nn.Module:
            return module  # nothing to move: names are given below

    names = _Names()
    for path, place in places.items():
        hook = Moving(execution_device=torch.device(place))
        module = add_hook_to_module(model.get_submodule(path), hook)
        for tensor in (*module.parameters(), *module.buffers()):
            names.put(tensor, torch.device(place))
    missing = [
        name
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if names.name_of(tensor) == HOST
    ]
    assert not missing, missing
    try:
        with names:
            yield
    finally:
        remove_hook_from_submodules(model)
