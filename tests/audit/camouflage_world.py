"""What `camouflage_table` publishes and attacks: real edits on the demo's model, in all layers.

The update is that of one party with all edits, which is the merged one up to rounding (`make
parity-table`): a recipient sees the sum alone, so it does not matter whose they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from collabedit.attacks.attack import Prior
from collabedit.attacks.prior import model_prior
from collabedit.experiments.cache import Cache
from collabedit.ids import LayerIndex
from collabedit.party.editing.apply import Undo, apply_update
from collabedit.party.editing.editor import edited_layers, key_maps, target_settings
from collabedit.party.editing.evaluate import Metrics, evaluate
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.likelihood import Completion, completion_nlls
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.tokens import batches_by_length, pad_rows, prompt_ids, target_ids
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix, expand_test_matrix, merge_sketch, sketch
from tests.audit.closed_world import PriorName, demo_plan, load_demo

Updates: TypeAlias = dict[LayerIndex, LowRankUpdate]

NEIGHBOURS = 2
"""Neighbourhood prompts measured of each edit; CounterFact has ten."""
PERPLEXITY_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class World:
    """Candidates with the numbers 0 to n - 1, of which the first ones have updates.

    Attributes:
        model: unedited.
        plan: of the demo, with all layers.
        maps: Φ by layer.
        edits: candidates.
        priors: their mapped keys on the first layer.
        updates: by number of edits, each by layer, in the model's coordinates.
        name: of the data, for people.
    """

    model: EditableModel = field(repr=False)
    plan: Plan = field(repr=False)
    maps: Mapping[int, KeyMap] = field(repr=False)
    edits: Sequence[Edit] = field(repr=False)
    priors: Mapping[PriorName, Prior] = field(repr=False)
    updates: Mapping[int, Updates] = field(repr=False)
    name: str

    @property
    def layer(self) -> LayerIndex:
        """The first edited layer, where keys are those of the unedited model."""
        return LayerIndex(self.plan.editing.layers[0].index)

    def mapped_update(self, edits: int) -> LowRankUpdate:
        """Return the first layer's update of the first `edits` candidates, mapped."""
        update = self.updates[edits][self.layer]
        return LowRankUpdate(update.left, self.maps[self.layer].remap_rows(update.right))


def load_world(
    edits: Sequence[Edit],
    *,
    name: str,
    cache: Path,
    counts: Sequence[int],
    report: Callable[[str], None],
) -> World:
    """Compute keys of all candidates, and updates of the first ones.

    Args:
        edits: candidates, each of another subject.
        name: of the data.
        cache: the demo's; the model is fetched into it, and targets are kept in it.
        counts: numbers of edits.
        report: told what is done next.
    """
    model, covariance, pieces = load_demo(cache, report)
    plan = demo_plan(model, covariance, max_edits=1)
    maps = key_maps(plan, covariance)
    first = plan.editing.layers[0].index
    templates = plan.editing.context_templates
    report(f"keys of {len(edits)} candidates")
    own = compute_keys(model, edits, first, templates).numpy()
    priors: dict[PriorName, Prior] = {
        "exact": Prior({LayerIndex(first): maps[first].map_keys(own)}),
        "generic": model_prior(
            model,
            [edit.subject for edit in edits],
            templates=templates,
            maps={first: maps[first]},
        ),
    }
    updates = {}
    for count in counts:
        report(f"update of {count} edits")
        updates[count] = edit_model(model, plan, maps, edits[:count], pieces)
    return World(model, plan, maps, edits, priors, updates, name)


def edit_model(
    model: EditableModel,
    plan: Plan,
    maps: Mapping[int, KeyMap],
    edits: Sequence[Edit],
    pieces: Cache,
) -> Updates:
    """Edit layer by layer, as parties do, take it back, and return the updates."""
    editing = plan.editing
    layers = edited_layers(editing)
    targets = pieces.targets(
        model,
        edits,
        layer=layers[-1],
        templates=editing.context_templates,
        settings=target_settings(editing),
    )
    updates: Updates = {}
    undos: list[Undo] = []
    try:
        for layer in layers:
            keys = compute_keys(model, edits, layer, editing.context_templates).numpy()
            wanted = residuals(
                model, edits, targets, layer, layers=layers, schedule=editing.schedule
            ).numpy()
            omega = expand_test_matrix(
                bytes(32), layer=layer, rows=maps[layer].mapped, columns=len(edits) + 8
            )
            total = sketch(maps[layer].map_keys(keys), wanted, omega)
            merged = merge_sketch(total, omega, ridge=editing.ridge, noise=0.0)
            updates[LayerIndex(layer)] = LowRankUpdate(
                merged.left, maps[layer].unmap_rows(merged.right)
            )
            undos.append(apply_update(model, layer, updates[LayerIndex(layer)]))
    finally:
        while undos:
            undos.pop().restore()
    return updates


def length(updates: Updates) -> float:
    """Return ‖ΔW‖ over all layers, Frobenius, in the model's coordinates."""
    return float(np.sqrt(sum(np.linalg.norm(update.dense()) ** 2 for update in updates.values())))


def measured(model: EditableModel, edits: Sequence[Edit], text: str) -> Metrics:
    """Measure a few prompts of each edit, and the perplexity of a text's beginning."""
    short = [
        replace(
            edit,
            paraphrase_prompts=edit.paraphrase_prompts[:1],
            neighborhood=edit.neighborhood[:NEIGHBOURS],
        )
        for edit in edits
    ]
    return evaluate(model, short, text=text, max_tokens=PERPLEXITY_TOKENS).metrics


def kept_facts(model: EditableModel, edits: Sequence[Edit]) -> float:
    """Return the share of records whose true object is likelier than their new one, in percent."""
    pairs = [edit for edit in edits if edit.target_true]
    completions = [
        Completion(prompt_ids(model, edit.question), target_ids(model, text))
        for edit in pairs
        for text in (edit.target_new, edit.target_true or "")
    ]
    nlls = completion_nlls(model, completions).numpy()
    return 100 * float(np.mean(nlls[1::2] < nlls[::2]))


def next_tokens(model: EditableModel, edits: Sequence[Edit]) -> torch.Tensor:
    """Return log-probabilities of the token behind each edit's prompt, [edits, vocabulary]."""
    rows = [prompt_ids(model, edit.question) for edit in edits]
    found = [torch.empty(0)] * len(rows)
    with torch.inference_mode():
        for batch in batches_by_length([len(row) for row in rows], 32):
            final = model.forward(pad_rows(model, [rows[index] for index in batch]))
            last = final[torch.arange(len(batch)), [len(rows[index]) - 1 for index in batch]]
            values = torch.log_softmax(model.logits(last), dim=-1)
            for index, row in zip(batch, values.double(), strict=True):
                found[index] = row
    return torch.stack(found)


def divergence(before: torch.Tensor, after: torch.Tensor) -> Matrix:
    """Return the Jensen-Shannon divergence of rows of log-probabilities, in nats, [rows].

    What a recipient without weights sees of an edit: KSTER's grey-box baseline.
    """
    middle = torch.logaddexp(before, after) - np.log(2)
    sides = [(side.exp() * (side - middle)).sum(dim=1) for side in (before, after)]
    values: Matrix = ((sides[0] + sides[1]) / 2).double().numpy()
    return values
