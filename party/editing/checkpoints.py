"""Edited checkpoints in the files of the checkpoint that they were made from.

A checkpoint is copied file by file, and the bytes of the edited weights are written over in the
copy. So shards, index, order of tensors, dtypes and every tensor that was not edited stay as they
were, whichever of them transformers would have left out or laid out otherwise. Formats beside
safetensors, which would still hold the weights of before, are left out.

The place of a weight in the files is found by its name and then by its value: files name modules
otherwise than the model in memory does (GPT-2's lack `transformer.`, Gemma 3's have another
order), and transformers translates while it loads.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from collabedit.durable import whole_directory
from collabedit.errors import InputError, ModelError, NumericError
from collabedit.ids import LayerIndex
from collabedit.party.editing.architectures import Architecture
from collabedit.party.editing.model import EditableModel

RECORD: Final = "collabedit.json"
"""What was edited, for `party undo`."""
FORMAT: Final = "collabedit/v1/edited-checkpoint"
ORIGINALS: Final = "undo/originals.safetensors"
"""In a folder of its own: some programs load every safetensors file of a checkpoint's folder."""
CARD: Final = "README.md"
BASE_CARD: Final = "BASE_README.md"
"""The card of the checkpoint that was edited: what it says is not of this model."""

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".ot"}
)
_MAXIMUM_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """Where the files keep the edited weight of a layer.

    Attributes:
        layer: which.
        name: of the tensor in its file.
        file: name of the file.
        dtype: as it is stored.
        shape: as it is stored, which is as the model in memory has it.
        start: of its first byte in the file.
    """

    layer: LayerIndex
    name: str
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A checkpoint's files.

    Attributes:
        source: its directory.
        files: of its weights.
        weights: the edited ones.
    """

    source: Path
    files: tuple[str, ...]
    weights: tuple[StoredWeight, ...] = field(repr=False)

    def read(self, weight: StoredWeight) -> Tensor:
        """Read an edited weight as it is stored."""
        with safe_open(self.source / weight.file, framework="pt") as stream:
            tensor: Tensor = stream.get_tensor(weight.name)
        return tensor


def find_layout(model: EditableModel, source: Path, layers: Sequence[LayerIndex]) -> Layout | None:
    """Find the edited weights in a checkpoint's files.

    Args:
        model: what `load_model` made of `source`, not edited yet: values are compared.
        source: the checkpoint's directory.
        layers: which.

    Returns:
        None if the weights are in no safetensors files.

    Raises:
        ModelError: a weight is in none of the files as it is in memory.
    """
    files = _weight_files(source)
    if not files:
        return None
    entries = {file: _header(source / file) for file in files}
    layout = Layout(source, files, ())
    weights = []
    for layer in layers:
        original = model.weight(layer).detach().cpu()
        for stored in _candidates(model.architecture, entries, layer, tuple(original.shape)):
            if torch.equal(layout.read(stored).to(original.dtype), original):
                weights.append(stored)
                break
        else:
            raise ModelError(
                f"{source}: no file holds the weight of layer {layer} as the model has it in "
                "memory (fused or quantised?): the edited checkpoint cannot be laid out like this "
                "one"
            )
    return Layout(source, files, tuple(weights))


def named_layout(source: Path, named: Sequence[tuple[LayerIndex, str, str]]) -> Layout:
    """Return the layout of a checkpoint whose edited tensors are known.

    Args:
        source: its directory.
        named: layer, file and name of each.

    Raises:
        InputError: a file or a tensor is not there.
    """
    files = _weight_files(source)
    entries = {file: _header(source / file) for file in files}
    weights = []
    for layer, file, name in named:
        stored = _stored(layer, file, name, entries.get(file, {}).get(name))
        if stored is None:
            raise InputError(f"{source}: has no tensor {name} in {file}")
        weights.append(stored)
    return Layout(source, files, tuple(weights))


def write_checkpoint(
    layout: Layout,
    tensors: Mapping[LayerIndex, Tensor],
    output: Path,
    *,
    texts: Mapping[str, str],
    keep_originals: bool,
    record: Mapping[str, Any],
) -> dict[LayerIndex, float]:
    """Write an edited checkpoint in the files of the one it was made from; all of it, or nothing.

    Args:
        layout: of that one.
        tensors: the edited weights; rounded to the dtype in which files hold them.
        output: directory to write; must not exist.
        texts: files to put beside, by name.
        keep_originals: keep the weights of before in `ORIGINALS`.
        record: goes into `RECORD`, with the tensors.

    Returns:
        By layer, what rounding to the files' dtype loses, as a share of the change: Frobenius norms
        of (stored - edited) and of (edited - original); 0 where both dtypes are the same.

    Raises:
        ModelError: `output` exists.
        NumericError: an edited weight overflows in the files' dtype.
        StorageError: the disk refuses.
    """
    if output.exists():
        raise ModelError(f"{output}: exists already")
    rounded = {each.layer: _rounded(each, tensors[each.layer]) for each in layout.weights}
    originals = {each.name: layout.read(each) for each in layout.weights}
    lost = {
        each.layer: _lost(
            tensors[each.layer].detach().cpu(), rounded[each.layer], originals[each.name]
        )
        for each in layout.weights
    }
    kept = save(originals, metadata={"format": "pt"}) if keep_originals else None
    with whole_directory(output) as partial:
        copy_companions(layout, partial)
        patch_weights(layout, rounded, partial)
        if (partial / CARD).exists():
            (partial / CARD).rename(partial / BASE_CARD)
        if kept is not None:
            (partial / ORIGINALS).parent.mkdir()
            (partial / ORIGINALS).write_bytes(kept)
        described = {
            "format": FORMAT,
            **record,
            "tensors": [
                {"layer": each.layer, "file": each.file, "name": each.name}
                for each in layout.weights
            ],
            "originals": None if kept is None else hashlib.sha256(kept).hexdigest(),
        }
        for name, text in {**texts, RECORD: f"{json.dumps(described, indent=1)}\n"}.items():
            (partial / name).write_text(text, encoding="utf-8")
    return lost


def patch_weights(layout: Layout, tensors: Mapping[LayerIndex, Tensor], target: Path) -> None:
    """Copy the files of the weights and write the edited ones, in their dtypes, over the copies."""
    for file in layout.files:
        shutil.copyfile(layout.source / file, target / file)
    for weight in layout.weights:
        flat = tensors[weight.layer].contiguous().reshape(-1).view(torch.uint8)
        with (target / weight.file).open("r+b") as stream:
            stream.seek(weight.start)
            stream.write(flat.numpy().data)


def copy_companions(layout: Layout, target: Path, *, without: Sequence[str] = ()) -> None:
    """Copy everything of a checkpoint but weights: configurations, tokenizer, licence, code.

    Hidden files and folders (a repository's own) stay behind, and so do weights in other formats.
    """
    for path in _companions(layout.source):
        name = path.relative_to(layout.source)
        if name.as_posix() not in without:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    # The index says which file holds which tensor; that has not changed.
    if (layout.source / _INDEX).is_file() and layout.files != (_SINGLE,):
        shutil.copyfile(layout.source / _INDEX, target / _INDEX)


def _companions(source: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            suffixes = Path(name).suffixes
            is_index = suffixes[-2:] == [".index", ".json"]
            if name.startswith(".") or is_index or _WEIGHT_SUFFIXES & set(suffixes[-1:]):
                continue
            yield Path(folder, name)


def _weight_files(source: Path) -> tuple[str, ...]:
    """Names of the files that transformers reads weights from; it looks for a single one first."""
    if (source / _SINGLE).is_file():
        return (_SINGLE,)
    try:
        index = json.loads((source / _INDEX).read_text(encoding="utf-8"))
        files = tuple(sorted(set(index["weight_map"].values())))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{source / _INDEX}: cannot be read: {error}") from error
    for file in files:
        # Names of files, not paths: nothing may be written outside the output.
        if not isinstance(file, str) or Path(file).name != file or file in {"", ".", ".."}:
            raise ModelError(f"{source / _INDEX}: names a file that is not beside it")
    return files


_Entry = dict[str, Any]


def _header(path: Path) -> dict[str, _Entry]:
    """Tensors of a safetensors file: dtype, shape, and where their bytes start in the file.

    The library reads tensors, but does not say where they are.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _MAXIMUM_HEADER:
                raise ModelError(f"{path}: is no safetensors file")
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        for entry in entries.values():
            entry["start"] = 8 + length + int(entry["data_offsets"][0])
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: is no safetensors file") from error
    found: dict[str, _Entry] = entries
    return found


def _candidates(
    architecture: Architecture,
    entries: Mapping[str, Mapping[str, _Entry]],
    layer: LayerIndex,
    shape: tuple[int, ...],
) -> Iterator[StoredWeight]:
    before, after = architecture.projection.split("{}")
    blocks = before.rstrip(".").rpartition(".")[2]
    tail = f"{blocks}.{layer}{after}.weight"
    for file, tensors in entries.items():
        for name, entry in tensors.items():
            if name == tail or name.endswith(f".{tail}"):
                stored = _stored(layer, file, name, entry)
                if stored is not None and stored.shape == shape:
                    yield stored


def _stored(layer: LayerIndex, file: str, name: str, entry: _Entry | None) -> StoredWeight | None:
    if entry is None or entry["dtype"] not in _DTYPES:
        return None
    return StoredWeight(
        layer, name, file, _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["start"]
    )


def _rounded(weight: StoredWeight, tensor: Tensor) -> Tensor:
    rounded = tensor.detach().cpu().to(weight.dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise NumericError(
            f"the edited weight of layer {weight.layer} overflows in {weight.dtype}, in which the "
            "checkpoint holds it"
        )
    return rounded


def _lost(edited: Tensor, stored: Tensor, original: Tensor) -> float:
    if edited.dtype == stored.dtype:
        return 0.0
    change = float(torch.linalg.norm(edited.double() - original.double()))
    return float(torch.linalg.norm(stored.double() - edited.double())) / change if change else 0.0
