"""The alternatives that the demo compares: every party alone, three ways to average, one trustee.

The centralised reference is the plain editor in one process that holds all edits: its closed form,
dense in float64, no sketch, no key map, no secure sum. It uses the very targets that the parties
computed, and reads keys and residuals party by party, since float32 forward passes of other batches
differ by about 1e-7 and would hide what is measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from collabedit.party.editing.apply import applied, apply_update
from collabedit.party.editing.baselines import (
    PastKeys,
    centralised,
    simple_average,
    task_arithmetic,
    ties_merge,
)
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.targets import Targets
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix

Updates = dict[int, Matrix]
"""Dense ΔW [d_out, d_in] by layer."""


@dataclass(frozen=True, slots=True)
class Share:
    """One party's edits with their targets, and its past edits."""

    edits: Sequence[Edit]
    targets: Targets
    past: Sequence[Edit] = ()


def edit_alone(
    plan: Plan, model: EditableModel, covariance: Covariance | None, shares: Sequence[Share]
) -> Updates:
    """Run the plan's editor in one place over the edits of `shares`; the model stays as it is."""
    editing = plan.editing
    layers = [layer.index for layer in editing.layers]
    updates: Updates = {}
    with ExitStack() as stack:
        for layer in layers:
            keys, wanted = [], []
            for share in shares:
                keys.append(
                    compute_keys(model, share.edits, layer, editing.context_templates).numpy()
                )
                wanted.append(
                    residuals(
                        model,
                        share.edits,
                        share.targets,
                        layer,
                        layers=layers,
                        schedule=editing.schedule,
                    ).numpy()
                )
            updates[layer] = centralised(
                editing,
                layer,
                np.concatenate(keys, axis=1),
                np.concatenate(wanted, axis=1),
                None if covariance is None else covariance.matrices[layer],
                past=_past_keys(plan, model, layer, shares),
            )
            if editing.schedule == "sequential":
                stack.callback(apply_update(model, layer, _factors(updates[layer])).restore)
    return updates


def _past_keys(
    plan: Plan, model: EditableModel, layer: int, shares: Sequence[Share]
) -> PastKeys | None:
    if plan.memory is None:
        return None
    templates = plan.editing.context_templates
    keys = [compute_keys(model, share.past, layer, templates).numpy() for share in shares]
    return PastKeys(np.concatenate(keys, axis=1), plan.memory.weight)


def _factors(update: Matrix) -> LowRankUpdate:
    """Present a dense update as ΔW = I · ΔW."""
    return LowRankUpdate(np.eye(len(update)), update)


@contextmanager
def edited(model: EditableModel, updates: Mapping[int, Matrix]) -> Iterator[None]:
    """Edit the model inside this context only."""
    with applied(model, {layer: _factors(update) for layer, update in updates.items()}):
        yield


def merge_layers(alone: Sequence[Updates], method: str) -> Updates:
    """Merge the parties' own updates by `simple_average`, `task_arithmetic` or `ties`."""
    merge = {
        "simple_average": simple_average,
        "task_arithmetic": task_arithmetic,
        "ties": ties_merge,
    }[method]
    return {layer: merge([updates[layer] for updates in alone]) for layer in alone[0]}


def relative_errors(got: Mapping[int, Matrix], want: Mapping[int, Matrix]) -> dict[int, float]:
    """Return ‖got - want‖_F / ‖want‖_F by layer."""
    return {
        layer: float(np.linalg.norm(got[layer] - want[layer]) / np.linalg.norm(want[layer]))
        for layer in want
    }
