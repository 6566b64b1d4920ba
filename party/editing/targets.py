"""Target outputs z* of edits: what a layer should put out at the subject for the model to say so.

As MEMIT's `compute_z` (kmeng01/memit, `memit/compute_z.py`), per edit: a vector δ is added to the
output of the last edited block at the subject's last token and optimised by Adam on

    mean over templates of the mean NLL per target token
    + kl_weight · KL(p₀ ‖ p_δ) at the subject of "{} is a"
    + weight_decay · ‖δ‖ / ‖z₀‖²

(δ's norm unsquared, z₀'s squared, as there), stopped below `stop_loss`, projected back to
‖δ‖ ≤ clamp_factor·‖z₀‖ after each step; z* = z₀ + δ with z₀ the output under the first template.
`steps` counts loss evaluations as there, so there is one update fewer.

Edits are searched in batches. Every edit has its own Adam state and its own loss, no term couples
two, and an edit whose loss is low enough leaves the batch: the result is that of one edit at a
time. Blocks up to the edited one run once; logits are taken only where a loss needs them.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from collabedit.errors import InputError, ModelError, NumericError
from collabedit.party.editing.artefacts import load_tensors, save_tensors
from collabedit.party.editing.hooks import (
    add_at,
    adding_to_output,
    at_positions,
    capturing_output,
    stopping_after,
)
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks
from collabedit.party.editing.tokens import (
    batches_by_length,
    check_templates,
    pad_rows,
    place_subject,
    subject_row,
    target_ids,
)
from collabedit.party.editing.upper import UpperBlocks, record_upper_blocks
from collabedit.party.edits import SLOT, Edit, edits_digest

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
    """

    values: Tensor = field(repr=False)
    edits_digest: str
    settings_digest: str
    distances: Tensor | None = field(default=None, repr=False)

    def save(self, path: Path) -> None:
        """Write a safetensors file that only its owner can read (mode 0600), atomically."""
        digests = {"edits": self.edits_digest, "settings": self.settings_digest}
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
    return Targets(values, edits_digest, settings_digest, distances)


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
    batch_size: int = 8,
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
        batch_size: edits searched at the same time; changes memory and time; results
            only by rounding, which float32 and Adam can amplify to 1e-4 of the change.
        least_updates: of δ, before a low loss ends a search; `settings.steps` ends it anyhow.
        weights: as `settings_digest` has it.
        progress: called with the number of finished edits and n, at several ranks of this one's.
        ranks: that share the edits; each has all of them, and gets all targets.

    Raises:
        ModelError: no block above `layer`, or templates that hold no prompt.
        NumericError: a loss or a target is not finite.
        RankError: a rank is gone, or has other edits or another model.
    """
    check_templates(templates)
    check_templates([settings.kl_prompt])
    if not 0 <= layer < model.n_layers - 1:
        raise ModelError(f"layer {layer} has no block above it, among {model.n_layers} blocks")
    own_edits = edits_digest(edits)
    own_settings = settings_digest(
        model, layer=layer, templates=templates, settings=settings, weights=weights
    )
    ranks.agree("set of edits", own_edits)
    ranks.agree("model or plan", own_settings)
    problems = [_problem(model, edit, templates, settings) for edit in edits]
    precision = torch.float64 if model.dtype == torch.float64 else torch.float32
    values = torch.zeros(model.d_model, len(edits), dtype=precision)
    widths = [max(map(len, problem.rows)) for problem in problems]
    # With few edits smaller batches, so that no rank is idle.
    batch_size = min(batch_size, -(-len(edits) // ranks.size)) or 1
    parts = ranks.split(list(batches_by_length(widths, batch_size)))
    done, total = 0, sum(map(len, parts[ranks.rank]))
    for batch in parts[ranks.rank]:
        searched = _search(
            model, layer, [problems[i] for i in batch], settings, least_updates=least_updates
        )
        for index, target in searched:
            values[:, batch[index]] = target.to("cpu", precision)
            done += 1
            if progress:
                progress(done, total)
    ranks.fill_rows(values.T, parts)
    return Targets(values, own_edits, own_settings)


@dataclass(frozen=True, slots=True)
class _Problem:
    """One edit in tokens. Rows: one per template with the target behind it, then the KL prompt."""

    rows: tuple[tuple[int, ...], ...] = field(repr=False)
    subject_last: tuple[int, ...]
    target: tuple[int, ...] = field(repr=False)
    case_id: str


def _problem(
    model: EditableModel, edit: Edit, templates: Sequence[str], settings: TargetSettings
) -> _Problem:
    target = target_ids(model, edit.target_new)
    prompts = [subject_row(model, edit, template=template) for template in templates]
    # The last target token is only predicted, so it needs no place in the row.
    rows = [(*prompt.ids, *target[:-1]) for prompt in prompts]
    if max(map(len, rows)) > model.context_length:
        raise ModelError(f"edit {edit.case_id}: prompt and target exceed the model's context")
    before, after = settings.kl_prompt.split(SLOT)
    essence = place_subject(model, before, edit.subject, after, case_id=edit.case_id)
    return _Problem(
        rows=(*rows, essence.up_to_subject),
        subject_last=(*(prompt.subject_last for prompt in prompts), essence.subject_last),
        target=target,
        case_id=edit.case_id,
    )


class _Batch:
    """Edits searched together, and the activations that stay the same over all steps."""

    def __init__(self, model: EditableModel, layer: int, problems: Sequence[_Problem]) -> None:
        self.model = model
        self.layer = layer
        self.problems = problems
        self.rows_each = len(problems[0].rows)
        self.input_ids = pad_rows(model, [row for problem in problems for row in problem.rows])
        block = model.block(layer)
        with torch.no_grad():
            with capturing_output(block) as captured, stopping_after(block):
                model.forward(self.input_ids)
            self.hidden = captured.values
        # Blocks may be on several devices: what is kept here is on that of the edited one.
        self.device = self.hidden.device
        self.positions = torch.tensor(
            [position for problem in problems for position in problem.subject_last],
            device=self.device,
        )
        upper = record_upper_blocks(model, layer, self.input_ids)
        self.upper: UpperBlocks | None = upper if upper.is_faithful else None
        first = torch.arange(len(problems), device=self.device) * self.rows_each
        precision = torch.promote_types(model.dtype, torch.float32)
        self.start = self.hidden[first, self.positions[first]].to(precision)

    def final_hidden(self, active: Sequence[int], deltas: Tensor) -> Tensor:
        """Final hidden states of the active edits' rows, [rows, T, d_model], with δ added.

        Args:
            active: which edits.
            deltas: their δ, [active, d_model].
        """
        rows = self.row_indices(active)
        vectors = deltas.repeat_interleave(self.rows_each, dim=0).to(self.hidden.dtype)
        positions = self.positions[rows]
        if self.upper is not None:
            return self.upper(add_at(self.hidden[rows], positions, vectors))
        with adding_to_output(self.model.block(self.layer), positions, vectors):
            return self.model.forward(self.input_ids[rows.to(self.input_ids.device)])

    def row_indices(self, active: Sequence[int]) -> Tensor:
        """Rows of the active edits, in order."""
        each = torch.arange(self.rows_each, device=self.device)
        start = torch.tensor(active, device=self.device) * self.rows_each
        return (start[:, None] + each).reshape(-1)

    def losses(
        self, active: Sequence[int], final: Tensor, essence_start: Tensor | None, kl_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Return NLL + KL per active edit, [active], and log p at the KL prompts, [active, V].

        Args:
            active: which edits.
            final: final hidden states of their rows, [rows, T, d_model].
            essence_start: log p₀ at their KL prompts, [active, V]; None before the first step.
            kl_weight: weight of the KL term.
        """
        row_of: list[int] = []
        place_of: list[int] = []
        token_of: list[int] = []
        weight_of: list[float] = []
        edit_of: list[int] = []
        for slot, index in enumerate(active):
            problem = self.problems[index]
            count = len(problem.target)
            share = 1.0 / (count * (self.rows_each - 1))
            for row, ids in enumerate(problem.rows[:-1]):
                row_of += [slot * self.rows_each + row] * count
                place_of += range(len(ids) - count, len(ids))
                token_of += problem.target
                weight_of += [share] * count
                edit_of += [slot] * count
        place = final.device
        picked = final[torch.tensor(row_of, device=place), torch.tensor(place_of, device=place)]
        logits = self.model.logits(picked)
        device = logits.device
        tokens = torch.tensor(token_of, device=device)
        nll = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
        weights = torch.tensor(weight_of, device=device, dtype=nll.dtype)
        loss = torch.zeros(len(active), device=device, dtype=nll.dtype).index_add(
            0, torch.tensor(edit_of, device=device), nll * weights
        )
        essence_rows = self.row_indices(active)[self.rows_each - 1 :: self.rows_each]
        of_active = torch.arange(len(active), device=place) * self.rows_each + self.rows_each - 1
        essence_hidden = at_positions(final[of_active], self.positions[essence_rows])
        essence = self.model.logits(essence_hidden).log_softmax(dim=-1)
        reference = essence.detach() if essence_start is None else essence_start
        divergence = (reference.exp() * (reference - essence)).sum(dim=-1)
        return (loss + kl_weight * divergence).to(self.device), essence


def _search(
    model: EditableModel,
    layer: int,
    problems: Sequence[_Problem],
    settings: TargetSettings,
    *,
    least_updates: int,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index in the batch, z* [d_model]) as edits finish."""
    batch = _Batch(model, layer, problems)
    start_norm = batch.start.norm(dim=1)
    # One leaf per edit: Adam skips those without a gradient, so a finished edit neither moves nor
    # ages, and torch's own optimiser serves.
    deltas = [torch.zeros_like(row).requires_grad_() for row in batch.start]
    optimiser = torch.optim.Adam(deltas, lr=settings.learning_rate)
    active = list(range(len(problems)))
    essence_start: Tensor | None = None
    for step in range(settings.steps):
        if step == settings.steps - 1:
            break  # MEMIT evaluates the last loss but makes no step on it
        with torch.enable_grad():
            stacked = torch.stack([deltas[index] for index in active])
            final = batch.final_hidden(active, stacked)
            fitted, essence = batch.losses(active, final, essence_start, settings.kl_weight)
            # The norm's gradient at the start, δ = 0, is 0 in torch.
            size = torch.linalg.vector_norm(stacked, dim=1)
            loss = fitted + settings.weight_decay * size / start_norm[active].square()
        if essence_start is None:
            essence_start = essence.detach()
        values = loss.detach().tolist()
        for index, value in zip(active, values, strict=True):
            if value != value:  # noqa: PLR0124  # NaN is the only value unequal to itself
                raise NumericError(f"edit {problems[index].case_id}: the loss is not a number")
        optimiser.zero_grad(set_to_none=True)
        stop_loss = settings.stop_loss if step >= least_updates else -math.inf
        kept = [slot for slot, value in enumerate(values) if value >= stop_loss]
        for slot, value in enumerate(values):
            if value < stop_loss:
                index = active[slot]
                yield index, (batch.start[index] + deltas[index]).detach()
        if not kept:
            active = []
            break
        with torch.enable_grad():
            remaining = loss[kept].sum()
        remaining.backward()
        active = [active[slot] for slot in kept]
        essence_start = essence_start[kept]
        _drop_finished_gradients(deltas, active)
        optimiser.step()
        _clamp(deltas, active, settings.clamp_factor * start_norm)
    for index in active:
        yield index, (batch.start[index] + deltas[index]).detach()


def _drop_finished_gradients(deltas: Sequence[Tensor], active: Sequence[int]) -> None:
    # `stack` hands zeros to edits that the loss left out, and Adam would go on moving them.
    remaining = set(active)
    for index, delta in enumerate(deltas):
        if index not in remaining:
            delta.grad = None


def _clamp(deltas: Sequence[Tensor], active: Sequence[int], limits: Tensor) -> None:
    """Project each active δ back onto its ball."""
    with torch.no_grad():
        for index in active:
            norm = deltas[index].norm()
            if norm > limits[index]:
                deltas[index].mul_(limits[index] / norm)
