"""How much memory tensors take at the most while something runs, on any device.

Every tensor that an operation of torch makes is counted from then until it is freed, views once,
with its storage. Not seen: what an operation allocates and frees inside itself, and what an
allocator keeps for later.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Count, inside this context, bytes of tensors made inside it.

    Attributes:
        current: bytes that are alive now.
        peak: most bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self.current = 0
        self.peak = 0
        self._known: dict[int, weakref.finalize[..., torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        _types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever torch returns
        # Results that share storage with an argument are views, or the argument itself.
        given = {_key(value) for value in tree_leaves((args, kwargs)) if _counts(value)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if _counts(value) and _key(value) not in given:
                self._add(value)
        return result

    def _add(self, value: Tensor) -> None:
        storage, key = value.untyped_storage(), _key(value)
        if key in self._known:
            return
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        self._known[key] = weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.current -= size


def _counts(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _key(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)  # noqa: SLF001  # torch has no other name for it
