"""Tensor files of this package: safetensors with a kind and string metadata, written atomically."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from collabedit.durable import replace_file
from collabedit.errors import InputError

_FORMAT = "collabedit/v1/"


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    kind: str,
    private: bool,
) -> None:
    """Write a safetensors file; it appears complete or not at all.

    Args:
        path: replaced if it exists.
        tensors: by name.
        metadata: kept in the file's header.
        kind: what the file is; `load_tensors` insists on it.
        private: readable by the owner only (mode 0600).

    Raises:
        StorageError: the disk refuses.
    """
    header = {**metadata, "kind": _FORMAT + kind}
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header)
    replace_file(path, data, private=private)


def load_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata.

    Raises:
        InputError: no such file, not safetensors, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = dict(stream.metadata() or {})
            found = metadata.pop("kind", "")
            if found != _FORMAT + kind:
                raise InputError(f"{path}: is no {kind} file ({found or 'of no known kind'})")
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    return tensors, metadata
