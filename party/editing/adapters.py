"""An update as a LoRA adapter in PEFT's files.

LoRA adds (alpha / r) B A x to a module's output, with A [r, d_in] and B [d_out, r], whichever way
the module stores its weight (Hu et al. 2021, arXiv 2106.09685, section 4.1). An update is such a
product already, so nothing is approximated: alpha = r, and layers differ in r by `rank_pattern` and
`alpha_pattern`. Factors are balanced by a singular value decomposition, since a product of a long
factor and a short one would lose digits in float32.

The two files are written without PEFT: its own writer adds every setting that the installed release
knows, and earlier releases refuse settings that they do not know.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file

from collabedit.durable import whole_directory
from collabedit.errors import InputError, ModelError, NumericError
from collabedit.ids import LayerIndex
from collabedit.party.editing.architectures import Architecture, Orientation
from collabedit.party.editing.checkpoints import CARD
from collabedit.party.editing.updates import SavedUpdate
from collabedit.sketch import LowRankUpdate, Matrix

CONFIGURATION: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


def combine(chain: Sequence[SavedUpdate]) -> dict[LayerIndex, LowRankUpdate]:
    """Add the updates of a chain: by layer, the factors of their sum, balanced.

    Directions below the precision of float64 are dropped; a layer without any is left out.

    Raises:
        InputError: two updates of a layer have different shapes, or all are zero.
    """
    combined: dict[LayerIndex, LowRankUpdate] = {}
    for layer in sorted({layer for saved in chain for layer in saved.updates}):
        updates = [saved.updates[layer] for saved in chain if layer in saved.updates]
        shapes = {(len(update.left), update.right.shape[1]) for update in updates}
        if len(shapes) > 1:
            raise InputError(f"updates of layer {layer} have different shapes: {sorted(shapes)}")
        left = np.concatenate([update.left for update in updates], axis=1)
        right = np.concatenate([update.right for update in updates], axis=0)
        balanced = _balanced(left, right)
        if balanced.rank:
            combined[layer] = balanced
    if not combined:
        raise InputError("the update is zero: there is nothing to export")
    return combined


def _balanced(left: Matrix, right: Matrix) -> LowRankUpdate:
    # The singular values of left right are those of the small product of the triangular factors.
    left_basis, left_small = np.linalg.qr(left)
    right_basis, right_small = np.linalg.qr(right.T)
    rows, values, columns = np.linalg.svd(left_small @ right_small.T)
    precision = np.finfo(np.float64).eps * max(len(left), right.shape[1])
    kept = int(np.sum(values > precision * values[0])) if len(values) else 0
    roots = np.sqrt(values[:kept])
    return LowRankUpdate(
        left_basis @ rows[:, :kept] * roots, (columns[:kept] * roots[:, None]) @ right_basis.T
    )


def write_adapter(
    updates: Mapping[LayerIndex, LowRankUpdate],
    architecture: Architecture,
    output: Path,
    *,
    base_model: str,
    card: str,
) -> None:
    """Write an adapter's directory; all of it, or nothing.

    Args:
        updates: by layer, of rank 1 or more.
        architecture: of the model.
        output: must not exist.
        base_model: name or directory by which PEFT finds the model, if it is not given one.
        card: text of `README.md`.

    Raises:
        ModelError: `output` exists.
        NumericError: a factor overflows in float32.
        StorageError: the disk refuses.
    """
    if output.exists():
        raise ModelError(f"{output}: exists already")
    tensors = {}
    ranks = {}
    for layer, update in sorted(updates.items()):
        module = architecture.projection.format(layer)
        ranks[module] = update.rank
        for name, factor in (("A", update.right), ("B", update.left)):
            tensor = torch.from_numpy(factor).to(torch.float32).contiguous()
            if not bool(torch.isfinite(tensor).all()):
                raise NumericError(f"the update of layer {layer} overflows in float32")
            tensors[f"base_model.model.{module}.lora_{name}.weight"] = tensor
    configuration = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "target_modules": list(ranks),
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": architecture.orientation is Orientation.IN_OUT,
    }
    with whole_directory(output) as partial:
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        text = f"{json.dumps(configuration, indent=2)}\n"
        (partial / CONFIGURATION).write_text(text, encoding="utf-8")
        (partial / CARD).write_text(card, encoding="utf-8")
