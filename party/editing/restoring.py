"""Undo an edited checkpoint: the weights of before, and whether they are exactly these.

Subtracting an update does not give the bits of before back: a weight was rounded when the update
was added, and is rounded again (ADR 0025). So a checkpoint keeps its originals unless asked not to,
and whichever way is taken, the result is held against the digest of the plan.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from collabedit.durable import whole_directory
from collabedit.errors import AcceptanceError, InputError, ModelError
from collabedit.ids import LayerIndex
from collabedit.party.editing.architectures import Orientation, architecture_for
from collabedit.party.editing.checkpoints import (
    BASE_CARD,
    CARD,
    FORMAT,
    ORIGINALS,
    RECORD,
    Layout,
    copy_companions,
    named_layout,
    patch_weights,
)
from collabedit.party.editing.model import load_model
from collabedit.party.editing.updates import SavedUpdate, load_chain
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate

_ROW_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Restored:
    """What an undo reached.

    Attributes:
        exact: the weights have the digest that the plan states.
        by_originals: they were kept; else the updates were subtracted.
        within: the most by which a restored weight can differ from that of before, if what was
            subtracted is what was added; 0 where nothing was rounded.
    """

    exact: bool
    by_originals: bool
    within: float


def restore(
    plan: Plan,
    edited: Path,
    output: Path,
    *,
    updates: Sequence[Path] = (),
    accept_rounding: bool = False,
) -> Restored:
    """Write the checkpoint of before an edit; all of it, or nothing.

    Args:
        plan: of the session, or of any that begins on the same checkpoint.
        edited: a checkpoint that `write_checkpoint` wrote.
        output: directory to write; must not exist.
        updates: all that were applied, oldest first; subtracted if the originals were not kept.
        accept_rounding: write also what is not exactly the plan's model.

    Raises:
        InputError: `edited` is no such checkpoint, is damaged or was made from another model;
            updates are needed, or are not those that were applied.
        ModelError: `output` exists.
        AcceptanceError: the weights are not those that the plan names; nothing is written.
        StorageError: the disk refuses.
    """
    if output.exists():
        raise ModelError(f"{output}: exists already")
    record = _record(edited)
    if record["weights"] != plan.model.weights:
        raise InputError(
            f"{edited}: was made from weights {record['weights']}, the plan states "
            f"{plan.model.weights}"
        )
    layout = named_layout(
        edited,
        [(LayerIndex(each["layer"]), each["file"], each["name"]) for each in record["tensors"]],
    )
    by_originals = (edited / ORIGINALS).is_file() and not updates
    if by_originals:
        tensors, within = _originals(layout, record), 0.0
    else:
        chain = _applied(plan, edited, record, updates)
        tensors, within = _subtracted(plan, layout, chain)
    with whole_directory(output) as partial:
        copy_companions(layout, partial, without=(RECORD, CARD))
        if (partial / BASE_CARD).exists():
            (partial / BASE_CARD).rename(partial / CARD)
        patch_weights(layout, tensors, partial)
        digest = (
            f"sha256:{load_model(partial, dtype=plan.model.dtype, device='cpu').weights_digest()}"
        )
        exact = digest == plan.model.weights
        if not exact and not accept_rounding:
            raise AcceptanceError(_missed(edited, plan, digest, by_originals=by_originals))
    return Restored(exact, by_originals, within)


def _missed(edited: Path, plan: Plan, digest: str, *, by_originals: bool) -> str:
    why = (
        f"tensors of {edited} that were not edited have changed since"
        if by_originals
        else "subtracting rounds the last bits"
    )
    return (
        f"the restored weights have digest {digest}, the plan states {plan.model.weights}: {why}. "
        "Nothing is written; --accept-rounding writes it as it is"
    )


def _record(edited: Path) -> dict[str, Any]:
    path = edited / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise InputError(f"{path}: is of another version: {record['format']}")
        _check_record(record)
    except FileNotFoundError as error:
        raise InputError(
            f"{edited}: has no {RECORD}: it was not written by this program"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no complete record") from error
    found: dict[str, Any] = record
    return found


def _check_record(record: Mapping[str, Any]) -> None:
    texts = [record["weights"], *record["sessions"]]
    for each in record["tensors"]:
        texts += [each["file"], each["name"]]
        if type(each["layer"]) is not int:
            raise TypeError("layer")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("text")


def _originals(layout: Layout, record: Mapping[str, Any]) -> dict[LayerIndex, Tensor]:
    path = layout.source / ORIGINALS
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != record["originals"]:
        raise InputError(
            f"{path}: is damaged, or of another checkpoint: name the stored updates with --update "
            "to subtract them instead"
        )
    try:
        found = load(data)
        kept = {weight.layer: found[weight.name] for weight in layout.weights}
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path}: does not hold the weights that were edited") from error
    for weight in layout.weights:
        tensor = kept[weight.layer]
        if tensor.dtype != weight.dtype or tuple(tensor.shape) != weight.shape:
            raise InputError(f"{path}: {weight.name} has another shape or dtype than it had")
    return kept


def _applied(
    plan: Plan, edited: Path, record: Mapping[str, Any], updates: Sequence[Path]
) -> tuple[SavedUpdate, ...]:
    if not updates:
        raise InputError(
            f"{edited}: has not kept its originals ({ORIGINALS}): name the stored updates that "
            "were applied with --previous and --update"
        )
    chain = load_chain(updates, weights=plan.model.weights)
    if [saved.session for saved in chain] != record["sessions"]:
        raise InputError(
            f"{updates[-1]}: {edited} was made by {len(record['sessions'])} sessions, and not by "
            f"just the {len(chain)} that are given: name theirs, oldest first"
        )
    return chain


def _subtracted(
    plan: Plan, layout: Layout, chain: Sequence[SavedUpdate]
) -> tuple[dict[LayerIndex, Tensor], float]:
    transposed = architecture_for(plan.model.architecture).orientation is Orientation.IN_OUT
    restored: dict[LayerIndex, Tensor] = {}
    within = 0.0
    for weight in layout.weights:
        edited = layout.read(weight)
        before = edited.double()
        for saved in reversed(chain):
            if weight.layer in saved.updates:
                _subtract(before.T if transposed else before, saved.updates[weight.layer])
        rounded = before.to(weight.dtype)
        # Each rounding moves a weight by half a unit in its last place at most.
        unit = torch.finfo(weight.dtype).eps / 2
        bound = unit * (edited.double().abs() + rounded.double().abs())
        within = max(within, float(bound.max()))
        restored[weight.layer] = rounded
    return restored, within


def _subtract(outputs_first: Tensor, update: LowRankUpdate) -> None:
    left, right = torch.from_numpy(update.left), torch.from_numpy(update.right)
    if outputs_first.shape != (len(left), right.shape[1]):
        raise InputError("an update has another shape than the weight that it was added to")
    for start in range(0, len(left), _ROW_BLOCK):
        outputs_first[start : start + _ROW_BLOCK] -= left[start : start + _ROW_BLOCK] @ right
