"""Keys of edits, and what a layer now puts out for them.

The key of an edit at a layer is the input of the edited projection at the subject's last token. It
is averaged over context templates as in MEMIT (kmeng01/memit, `memit/compute_ks.py`): the bare
template is one group, all others are the other, each group is averaged, then both. Departures: the
templates are the plan's fixed strings and never sampled, and prompts are cut behind the subject,
which under causal attention changes nothing.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from collabedit.party.editing.hooks import capturing_input, capturing_output, stopping_after
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks
from collabedit.party.editing.tokens import (
    batches_by_length,
    check_templates,
    pad_rows,
    subject_row,
)
from collabedit.party.edits import SLOT, Edit


def template_weights(templates: Sequence[str]) -> Tensor:
    """Weight each context template; the weights sum to 1. [templates], float64.

    A bare "{}" has weight 1/2 if there are others, which share the rest; without a bare one, or
    with nothing else, all weigh the same.
    """
    check_templates(templates)
    bare = torch.tensor([template == SLOT for template in templates])
    count, others = int(bare.sum()), int((~bare).sum())
    weights = torch.full((len(templates),), 1.0 / len(templates), dtype=torch.float64)
    if count and others:
        weights[bare] = 0.5 / count
        weights[~bare] = 0.5 / others
    return weights


def compute_keys(
    model: EditableModel,
    edits: Sequence[Edit],
    layer: int,
    templates: Sequence[str],
    *,
    batch_size: int = 32,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Compute the keys K of one layer on the model as it is now: [d_in, n], float64, on the CPU.

    Args:
        model: the model.
        edits: n edits; column j belongs to edit j.
        layer: whose projection is edited.
        templates: the plan's context templates.
        batch_size: prompts per forward pass.
        ranks: that share the prompts; each has all edits, and gets all keys.
    """
    return compute_layer_keys(
        model, edits, (layer,), templates, batch_size=batch_size, ranks=ranks
    )[layer]


def compute_layer_keys(
    model: EditableModel,
    edits: Sequence[Edit],
    layers: Sequence[int],
    templates: Sequence[str],
    *,
    batch_size: int = 32,
    ranks: Ranks = ALONE,
) -> dict[int, Tensor]:
    """Compute the keys of several layers of the same model in one pass: layer -> [d_in, n]."""
    weights = template_weights(templates)
    rows = [
        subject_row(model, edit, template=template).up_to_subject
        for edit in edits
        for template in templates
    ]
    per_row = {
        layer: torch.zeros(len(rows), model.d_in(layer), dtype=torch.float64) for layer in layers
    }
    last_layer = max(layers)
    parts = ranks.split(list(batches_by_length([len(row) for row in rows], batch_size)))
    with torch.inference_mode():
        for batch in parts[ranks.rank]:
            input_ids = pad_rows(model, [rows[index] for index in batch])
            positions = torch.tensor([len(rows[index]) - 1 for index in batch])
            with ExitStack() as stack:
                captures = {
                    layer: stack.enter_context(capturing_input(model.projection(layer), positions))
                    for layer in layers
                }
                stack.enter_context(stopping_after(model.projection(last_layer)))
                model.forward(input_ids)
            for layer, captured in captures.items():
                per_row[layer][batch] = captured.values.to("cpu", torch.float64)
    for values in per_row.values():
        ranks.fill_rows(values, parts)
    return {
        layer: torch.einsum(
            "ntd,t->dn", values.view(len(edits), len(templates), values.shape[1]), weights
        )
        for layer, values in per_row.items()
    }


def current_outputs(
    model: EditableModel,
    edits: Sequence[Edit],
    layer: int,
    *,
    batch_size: int = 32,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Read a block's output at the subject's last token of the bare prompt.

    As in MEMIT (`memit/memit_main.py`), the bare prompt only: [d_model, n], float64, on the CPU.
    """
    rows = [subject_row(model, edit).up_to_subject for edit in edits]
    outputs = torch.zeros(len(rows), model.d_model, dtype=torch.float64)
    block = model.block(layer)
    parts = ranks.split(list(batches_by_length([len(row) for row in rows], batch_size)))
    with torch.inference_mode():
        for batch in parts[ranks.rank]:
            input_ids = pad_rows(model, [rows[index] for index in batch])
            positions = torch.tensor([len(rows[index]) - 1 for index in batch])
            with capturing_output(block, positions) as captured, stopping_after(block):
                model.forward(input_ids)
            outputs[batch] = captured.values.to("cpu", torch.float64)
    ranks.fill_rows(outputs, parts)
    return outputs.T.contiguous()
