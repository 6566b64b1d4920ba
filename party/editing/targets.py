"""Target outputs z* of edits: what a layer should put out at the subject for the model to say so.

As MEMIT's `compute_z` (kmeng01/memit, `memit/compute_z.py`), per edit: a vector δ is added to the
output of the last edited block at the subject's last token and optimised by Adam on

    mean over templates of the mean NLL per target token
    + kl_weight · KL(p₀ ‖ p_δ) at the subject of "{} is a"
    + weight_decay · ‖δ‖ / ‖z₀‖²

(δ's norm unsquared, z₀'s squared, as there), stopped below `stop_loss`, projected back to
‖δ‖ ≤ clamp_factor·‖z₀‖ after each step; z* = z₀ + δ with z₀ the output under the first template.
`steps` counts loss evaluations as there, so there is one update fewer.

Edits are searched in batches, with the result of one edit at a time (`target_search`).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from collabedit.errors import InputError, ModelError
from collabedit.party.editing.artefacts import load_tensors, save_tensors
from collabedit.party.editing.means import OWN_MEANS, Means
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks
from collabedit.party.editing.target_search import check_autocast, fitting_batch, pose, search
from collabedit.party.editing.tokens import batches_by_length, check_templates
from collabedit.party.edits import Edit, edits_digest

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """How targets are searched; part of the plan.

    Attributes:
        learning_rate: of Adam.
        steps: loss evaluations, at least 1.
        clamp_factor: largest ‖δ‖ in units of ‖z₀‖.
        weight_decay: weight of ‖δ‖/‖z₀‖².
        kl_weight: weight of the KL term; 0 leaves it out.
        stop_loss: an edit is done once its loss is below.
        kl_prompt: template of the KL term.
    """

    learning_rate: float
    steps: int
    clamp_factor: float
    weight_decay: float
    kl_weight: float = 0.0625
    stop_loss: float = 0.05
    kl_prompt: str = "{} is a"


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of a party's edits. They encode the edits: keep them as private.

    Attributes:
        values: z*, [d_model, n], float64 for a float64 model, else float32; on the CPU.
        edits_digest: of the edits, in order.
        settings_digest: of model, layer, templates and settings.
        distances: how far the model is from each, [n] float64 (`selection`); None if nobody asked.
        autocast: with which they were searched. No part of `settings_digest`: it is the party's.
    """

    values: Tensor = field(repr=False)
    edits_digest: str
    settings_digest: str
    distances: Tensor | None = field(default=None, repr=False)
    autocast: str = "off"

    def save(self, path: Path) -> None:
        """Write a safetensors file that only its owner can read (mode 0600), atomically."""
        digests = {
            "edits": self.edits_digest,
            "settings": self.settings_digest,
            "autocast": self.autocast,
        }
        tensors = {"targets": self.values}
        if self.distances is not None:
            tensors["distances"] = self.distances
        save_tensors(path, tensors, digests, kind="targets", private=True)


def load_targets(
    path: Path, *, edits_digest: str, settings_digest: str, ranks: Ranks = ALONE
) -> Targets:
    """Read what `Targets.save` wrote; of several ranks the first reads it, and tells the others.

    Raises:
        InputError: no such file, malformed, or made from other edits or under other settings.
    """
    if not ranks.is_first:
        values = ranks.broadcast(None)
        distances = ranks.broadcast(None) if ranks.decide(answer=False) else None
        return Targets(values, edits_digest, settings_digest, distances)
    tensors, digests = load_tensors(path, kind="targets")
    if digests.get("edits") != edits_digest:
        raise InputError(f"{path}: targets were prepared from other edits; prepare them again")
    if digests.get("settings") != settings_digest:
        raise InputError(
            f"{path}: targets were prepared under another model, layer, templates or settings; "
            "prepare them again"
        )
    values, distances = ranks.broadcast(tensors["targets"]), tensors.get("distances")
    if ranks.decide(distances is not None):
        distances = ranks.broadcast(distances)
    # A file without a word of it was written before there was a choice.
    autocast = digests.get("autocast", "off")
    return Targets(values, edits_digest, settings_digest, distances, autocast)


def settings_digest(
    model: EditableModel,
    *,
    layer: int,
    templates: Sequence[str],
    settings: TargetSettings,
    weights: str | None = None,
) -> str:
    """Digest everything but the edits that determines targets, as hex SHA-256.

    Args:
        model: on which they are searched.
        layer: the last edited layer.
        templates: of the plan.
        settings: of the search.
        weights: names the model's weights where their own digest would depend on rounding
            (`start_weights`); None takes that digest.
    """
    canonical = json.dumps(
        {
            "weights": model.weights_digest() if weights is None else weights,
            "tokenizer": model.tokenizer_digest(),
            "layer": layer,
            "templates": list(templates),
            "settings": asdict(settings),
        },
        sort_keys=True,
    )
    return hashlib.sha256(b"collabedit/v1/targets\n" + canonical.encode()).hexdigest()


def compute_targets(
    model: EditableModel,
    edits: Sequence[Edit],
    *,
    layer: int,
    templates: Sequence[str],
    settings: TargetSettings,
    means: Means = OWN_MEANS,
    least_updates: int = 0,
    weights: str | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Targets:
    """Search the targets of `edits` on the model as it is at the session's start.

    Args:
        model: the model, without any update of this session.
        edits: n edits.
        layer: the last edited layer; there must be a block above it.
        templates: the plan's context templates; z₀ is taken under the first.
        settings: of the search.
        means: how many edits at the same time, within which memory, in which precision.
        least_updates: of δ, before a low loss ends a search; `settings.steps` ends it anyhow.
        weights: as `settings_digest` has it.
        progress: called with the number of finished edits and n, at several ranks of this one's.
        ranks: that share the edits; each has all of them, and gets all targets.

    Raises:
        ModelError: no block above `layer`, templates that hold no prompt, or autocast on a model
            that is not in float32.
        InputError: the bound of memory is too low for one edit.
        NumericError: a loss or a target is not finite.
        RankError: a rank is gone, or has other edits or another model.
    """
    check_templates(templates)
    check_templates([settings.kl_prompt])
    if not 0 <= layer < model.n_layers - 1:
        raise ModelError(f"layer {layer} has no block above it, among {model.n_layers} blocks")
    check_autocast(model, means.autocast)
    own_edits = edits_digest(edits)
    own_settings = settings_digest(
        model, layer=layer, templates=templates, settings=settings, weights=weights
    )
    ranks.agree("set of edits", own_edits)
    ranks.agree("model or plan", own_settings)
    problems = [pose(model, edit, templates, settings) for edit in edits]
    precision = torch.float64 if model.dtype == torch.float64 else torch.float32
    values = torch.zeros(model.d_model, len(edits), dtype=precision)
    # With few edits smaller batches, so that no rank is idle.
    batch_size = min(means.batch_size, -(-len(edits) // ranks.size)) or 1
    if means.memory is not None and problems:
        fitting = fitting_batch(
            model, layer, problems, settings, memory=means.memory, autocast=means.autocast
        )
        batch_size = min(batch_size, int(ranks.broadcast_text(str(fitting))))
    sizes = [problem.own_tokens for problem in problems]
    parts = ranks.split(list(batches_by_length(sizes, batch_size)))
    done, total = 0, sum(map(len, parts[ranks.rank]))
    for batch in parts[ranks.rank]:
        searched = search(
            model,
            layer,
            [problems[i] for i in batch],
            settings,
            least_updates=least_updates,
            autocast=means.autocast,
        )
        for index, target in searched:
            values[:, batch[index]] = target.to("cpu", precision)
            done += 1
            if progress:
                progress(done, total)
    ranks.fill_rows(values.T, parts)
    return Targets(values, own_edits, own_settings, autocast=means.autocast)
