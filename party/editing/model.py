"""A language model that can be edited: weights, fast tokenizer, and where the editor works.

`load_model` is the only way to one. The model is in evaluation mode with gradients off, read from a
local directory, without code from that directory being run. Batches are padded on the right: under
causal attention padding then changes nothing at a real token, whatever mask is passed.
"""

import hashlib
import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from collabedit.durable import whole_directory
from collabedit.errors import ModelError
from collabedit.party.editing.architectures import Architecture, Orientation, architecture_for
from collabedit.party.editing.locating import model_directory
from collabedit.party.editing.reading import (
    context_length,
    first_line,
    load_configuration,
    load_tokenizer,
    prefix_ids,
    tokenizer_digest,
)

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_SPREAD = re.compile(r"spread(:[1-9][0-9]*(KB|MB|GB|KiB|MiB|GiB))?")


@dataclass(frozen=True, slots=True)
class EditableModel:
    """A causal language model and its tokenizer.

    Attributes:
        hf: the transformers model.
        tokenizer: fast, right-padding, with a pad token.
        architecture: where its modules are.
        device: where its embeddings are, and so its input; of a model that is spread over several
            devices, blocks and output may be on others.
        dtype: of its weights.
        prefix_ids: special tokens that the tokenizer puts before a text (BOS), possibly none.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    architecture: Architecture
    device: torch.device
    dtype: torch.dtype
    prefix_ids: tuple[int, ...]

    def __repr__(self) -> str:
        return f"EditableModel({self.architecture.model_type}, {self.dtype}, {self.device})"

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return int(self._text_config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._text_config.hidden_size)

    @property
    def context_length(self) -> int:
        """Tokens that one sequence may have, at most 4096."""
        return context_length(self._text_config)

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the output embedding."""
        return self._module(self.architecture.final_norm)

    def block(self, layer: int) -> nn.Module:
        """Return a transformer block.

        Raises:
            ModelError: the model has no such layer.
        """
        return self._layer_module(self.architecture.block, layer)

    def projection(self, layer: int) -> nn.Module:
        """Return the edited projection of a layer.

        Raises:
            ModelError: the model has no such layer.
        """
        return self._layer_module(self.architecture.projection, layer)

    def weight(self, layer: int) -> nn.Parameter:
        """Return the edited weight in the model's own orientation."""
        weight = self.projection(layer).weight
        if not isinstance(weight, nn.Parameter):
            raise ModelError(f"the projection of layer {layer} has no plain weight (quantised?)")
        return weight

    def d_in(self, layer: int) -> int:
        """Length of a key of that layer."""
        rows, columns = self.weight(layer).shape
        return int(rows if self.architecture.orientation is Orientation.IN_OUT else columns)

    def d_out(self, layer: int) -> int:
        """Length of a residual of that layer."""
        rows, columns = self.weight(layer).shape
        return int(columns if self.architecture.orientation is Orientation.IN_OUT else rows)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Run the model up to its final norm: [rows, T] token ids -> [rows, T, d_model].

        Padding needs no mask here (module docstring); a mask of ones keeps the fast attention path.
        """
        ids = input_ids.to(self.device)
        output: Tensor = self.hf.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
        ).last_hidden_state
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Map final hidden states [..., d_model] to logits [..., vocabulary], at least float32."""
        values: Tensor = self._module(self.architecture.lm_head)(hidden)
        if values.dtype in (torch.bfloat16, torch.float16):
            values = values.float()
        attribute = self.architecture.logit_softcap
        cap = getattr(self._text_config, attribute) if attribute else None
        return values if cap is None else torch.tanh(values / cap) * cap

    def weights_digest(self) -> str:
        """Digest all weights as they are in memory, as hex SHA-256.

        Over names in order, dtypes, shapes and raw little-endian bytes; tied weights count once. So
        it does not depend on how files are sharded, but it does on the dtype the model was loaded
        in, which a plan states too.
        """
        digest = hashlib.sha256(b"collabedit/v1/weights")
        tensors = dict(self.hf.named_parameters()) | _persistent_buffers(self.hf)
        for name in sorted(tensors):
            tensor = tensors[name].detach()
            shape = "x".join(map(str, tensor.shape))
            digest.update(f"\n{name} {tensor.dtype} {shape}\n".encode())
            flat = tensor.contiguous().reshape(-1).view(torch.uint8).cpu()
            digest.update(memoryview(flat.numpy()))
        return digest.hexdigest()

    def tokenizer_digest(self) -> str:
        """Digest everything that decides how text becomes tokens (`reading.tokenizer_digest`)."""
        return tokenizer_digest(self)

    @property
    def _text_config(self) -> PretrainedConfig:
        # A model that also sees pictures keeps the language model's settings in a part of its own.
        # Architectures name them differently; transformers maps these names on all of them.
        return self.hf.config.get_text_config()

    def _module(self, path: str) -> nn.Module:
        module: nn.Module = self.hf.get_submodule(path)
        return module

    def _layer_module(self, template: str, layer: int) -> nn.Module:
        if not 0 <= layer < self.n_layers:
            raise ModelError(f"layer {layer} is not among the model's 0 to {self.n_layers - 1}")
        return self._module(template.format(layer))


def load_model(
    path: Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    architecture: Architecture | None = None,
) -> EditableModel:
    """Load a checkpoint directory of transformers.

    Args:
        path: directory with configuration, weights and fast tokenizer, or a name of the hub
            (`locating.model_directory`).
        dtype: one of `DTYPES`; weights are converted to it.
        device: "auto" is the first GPU if there is one, else the CPU; "spread" puts whole blocks on
            all GPUs, "spread:20GiB" at most that of weights on each; or a torch device.
        architecture: overrides the table, for architectures it lacks.

    Raises:
        ModelError: no such directory, unknown architecture, missing weights, no fast tokenizer; a
            model that is too large to spread.
    """
    path = model_directory(path)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    place = None if _SPREAD.fullmatch(device) else _device(device)
    spread = {} if place else _spread(device)
    config = load_configuration(path)
    known = architecture or architecture_for(config.model_type)
    try:
        with without_progress_bars():
            hf, loading = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=DTYPES[dtype],
                local_files_only=True,
                output_loading_info=True,
                **spread,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: weights: {first_line(error)}") from error
    if loading["missing_keys"]:
        # transformers would go on with random numbers in their place.
        missing = sorted(loading["missing_keys"])
        raise ModelError(f"{path}: weights: {len(missing)} are missing, first {missing[0]}")
    hf.eval().requires_grad_(requires_grad=False)
    if place is None:
        _refuse_offloaded(hf, path)
        place = hf.get_input_embeddings().weight.device
    else:
        hf.to(place)
    tokenizer = load_tokenizer(path, vocabulary=hf.get_input_embeddings().num_embeddings)
    model = EditableModel(
        hf=hf,
        tokenizer=tokenizer,
        architecture=known,
        device=place,
        dtype=DTYPES[dtype],
        prefix_ids=prefix_ids(tokenizer),
    )
    try:
        model.weight(0)
        model.block(0)
        _ = model.final_norm
    except AttributeError as error:
        raise ModelError(f"{path}: architecture {known.model_type!r}: {error}") from error
    return model


def save_checkpoint(
    model: EditableModel, directory: Path, *, texts: Mapping[str, str] | None = None
) -> None:
    """Write weights, configuration and tokenizer as transformers does (safetensors).

    The directory appears complete or not at all. `checkpoints.write_edited` keeps the shards of
    the checkpoint that the model was read from.

    Args:
        model: to write.
        directory: must not exist.
        texts: files to put beside, by name.

    Raises:
        ModelError: it exists already.
        StorageError: the disk refuses.
    """
    if directory.exists():
        raise ModelError(f"{directory}: exists already")
    with whole_directory(directory) as partial:
        with without_progress_bars():
            model.hf.save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
        for name, text in (texts or {}).items():
            (partial / name).write_text(text, encoding="utf-8")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r}: {first_line(error)}") from error


def _spread(name: str) -> dict[str, object]:
    """Return arguments of transformers that put blocks on all GPUs, or, without any, on the CPU."""
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError(
            f"device {name!r}: needs the package accelerate: pip install 'collabedit[multi-gpu]'"
        )
    # It would warn of what `_refuse_offloaded` says.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    _, _, limit = name.partition(":")
    places: list[int | str] = list(range(torch.cuda.device_count())) or ["cpu"]
    return {
        "device_map": "auto",
        "max_memory": dict.fromkeys(places, limit) if limit else None,
    }


def _refuse_offloaded(hf: PreTrainedModel, path: Path) -> None:
    """Refuse a model that is partly kept elsewhere, to be fetched as it runs.

    Its weights could be edited in a copy only that the next pass throws away.
    """
    elsewhere = [name for name, weight in hf.named_parameters() if weight.is_meta]
    if elsewhere:
        raise ModelError(
            f"{path}: does not fit: {len(elsewhere)} of its weights would be left in main memory "
            f"or on the disk, first {elsewhere[0]}, where they cannot be edited: take more or "
            "larger GPUs, a shorter dtype, or --device cpu"
        )


def _persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    kept = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in kept}


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing its own bars; progress is the caller's to show."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
