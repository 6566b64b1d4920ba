"""The search for a batch of targets: problems in tokens, losses, and steps of Adam.

What is searched, and when a search ends, is in `targets`. Every edit has its own Adam state and its
own loss, no term couples two, and an edit whose search has ended leaves the batch: the result is
that of one edit at a time. Of the model only the blocks above the edited one run, on the subject's
last token and what stands behind it (`upper`); logits are taken only where a loss needs them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from collabedit.errors import InputError, ModelError, NumericError
from collabedit.party.editing.activation_memory import PeakMemory
from collabedit.party.editing.hooks import (
    adding_to_output,
    capturing_output,
    stopping_after,
)
from collabedit.party.editing.means import MIB, Autocast
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.token_tree import grow_tree
from collabedit.party.editing.tokens import pad_rows, place_subject, subject_row, target_ids
from collabedit.party.editing.upper import UpperBlocks
from collabedit.party.edits import SLOT, Edit

if TYPE_CHECKING:
    from collabedit.party.editing.targets import TargetSettings


@dataclass(frozen=True, slots=True)
class Problem:
    """One edit in tokens. Rows: one per template with the target behind it, then the KL prompt."""

    rows: tuple[tuple[int, ...], ...] = field(repr=False)
    subject_last: tuple[int, ...]
    target: tuple[int, ...] = field(repr=False)
    case_id: str

    @property
    def own_tokens(self) -> int:
        """Tokens from the subject's last one on, in all rows: what is run in every step."""
        return sum(len(row) - last for row, last in zip(self.rows, self.subject_last, strict=True))


def pose(
    model: EditableModel, edit: Edit, templates: Sequence[str], settings: "TargetSettings"
) -> Problem:
    """Tokenise an edit for the search.

    Raises:
        ModelError: prompt and target are longer than the model's context.
    """
    target = target_ids(model, edit.target_new)
    prompts = [subject_row(model, edit, template=template) for template in templates]
    # The last target token is only predicted, so it needs no place in the row.
    rows = [(*prompt.ids, *target[:-1]) for prompt in prompts]
    if max(map(len, rows)) > model.context_length:
        raise ModelError(f"edit {edit.case_id}: prompt and target exceed the model's context")
    before, after = settings.kl_prompt.split(SLOT)
    essence = place_subject(model, before, edit.subject, after, case_id=edit.case_id)
    return Problem(
        rows=(*rows, essence.up_to_subject),
        subject_last=(*(prompt.subject_last for prompt in prompts), essence.subject_last),
        target=target,
        case_id=edit.case_id,
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where losses of the active edits are read, on the device of the logits' input.

    Attributes:
        nodes: own nodes among the active edits', [places]: of targets, then of KL prompts.
        tokens: that are predicted there, [places - edits].
        edits: slot of each prediction among the active edits, [places - edits].
        weights: of each prediction in its edit's mean, [places - edits].
    """

    nodes: Tensor
    tokens: Tensor
    edits: Tensor
    weights: Tensor


class _Batch:
    """Edits searched together, and the activations that stay the same over all steps."""

    def __init__(
        self, model: EditableModel, layer: int, problems: Sequence[Problem], autocast: Autocast
    ) -> None:
        self.model = model
        self.layer = layer
        self.problems = problems
        self.autocast = autocast
        self.tree = grow_tree(
            [list(zip(problem.rows, problem.subject_last, strict=True)) for problem in problems]
        )
        self.upper: UpperBlocks | None = UpperBlocks(model, layer, self.tree)
        hidden = self.upper.start
        edit, row = max(
            ((edit, row) for edit in range(len(problems)) for row in range(len(problems[0].rows))),
            key=lambda at: len(problems[at[0]].rows[at[1]]),
        )
        nodes = self.tree.own_rows[edit][row]
        if not self.upper.is_faithful(model, problems[edit].rows[row], nodes):
            self.upper, hidden = None, self._plain_hidden()
        # Blocks may be on several devices: what is kept here is on that of the edited one.
        self.hidden = hidden
        self.device = hidden.device
        self.owners = torch.tensor(self.tree.owners)
        changed = torch.zeros(len(self.owners), dtype=torch.bool)
        changed[self.tree.changed] = True
        self.changed = changed
        precision = torch.promote_types(model.dtype, torch.float32)
        first = torch.tensor([rows[0][0] for rows in self.tree.own_rows], device=self.device)
        self.start = hidden[first].to(precision)

    def take(self, active: Sequence[int]) -> None:
        """Search only these edits, ascending, from here on."""
        self.active = active
        slots = torch.full((len(self.problems),), -1)
        slots[list(active)] = torch.arange(len(active))
        slot_of = slots[self.owners]
        nodes = (slot_of >= 0).nonzero()[:, 0]
        self._slots = slot_of[nodes].to(self.device)
        self._changed = self.changed[nodes, None].to(self.device, self.hidden.dtype)
        self._hidden = self.hidden[nodes.to(self.device)]
        self._places = self._find_places(nodes)
        if self.upper is not None:
            self.upper.take(nodes)

    def final_hidden(self, deltas: Tensor) -> Tensor:
        """Final hidden states at the active edits' own nodes, [nodes, d_model], with δ added.

        Args:
            deltas: their δ, [active, d_model].
        """
        if self.upper is None:
            return self._plain_final(deltas)
        vectors = deltas.to(self._hidden.dtype)[self._slots]
        return self.upper(self._hidden + self._changed * vectors)

    def losses(
        self, deltas: Tensor, essence_start: Tensor | None, kl_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Return NLL + KL per active edit, [active], and log p at the KL prompts, [active, V].

        Args:
            deltas: their δ, [active, d_model].
            essence_start: log p₀ at their KL prompts, [active, V]; None before the first step.
            kl_weight: weight of the KL term.
        """
        with self._casting():
            final = self.final_hidden(deltas)
            places = self._places
            logits = self.model.logits(final[places.nodes.to(final.device)])
        count = len(places.tokens)
        device = logits.device
        nll = torch.nn.functional.cross_entropy(
            logits[:count], places.tokens.to(device), reduction="none"
        )
        loss = torch.zeros(len(deltas), device=device, dtype=nll.dtype).index_add(
            0, places.edits.to(device), nll * places.weights.to(device, nll.dtype)
        )
        essence = logits[count:].log_softmax(dim=-1)
        reference = essence.detach() if essence_start is None else essence_start
        divergence = (reference.exp() * (reference - essence)).sum(dim=-1)
        return (loss + kl_weight * divergence).to(self.device), essence

    def _find_places(self, nodes: Tensor) -> _Places:
        place_of = {node: place for place, node in enumerate(nodes.tolist())}
        predicting: list[int] = []
        tokens: list[int] = []
        edits: list[int] = []
        weights: list[float] = []
        essences: list[int] = []
        for slot, index in enumerate(self.active):
            target, rows = self.problems[index].target, self.tree.own_rows[index]
            count = len(target)
            for row in rows[:-1]:
                predicting += [place_of[node] for node in row[len(row) - count :]]
                tokens += target
                edits += [slot] * count
                weights += [1.0 / (count * (len(rows) - 1))] * count
            essences.append(place_of[rows[-1][0]])
        return _Places(
            nodes=torch.tensor([*predicting, *essences], device=self.device),
            tokens=torch.tensor(tokens, device=self.device),
            edits=torch.tensor(edits, device=self.device),
            weights=torch.tensor(weights, device=self.device, dtype=torch.float64),
        )

    def _casting(self) -> AbstractContextManager[object]:
        if self.autocast == "off":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    # For an architecture whose blocks cannot be run on their own: all rows, and the whole model.

    def _own_places(self, active: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a row and a position in it of each own node of the active edits, ascending."""
        found: dict[int, tuple[int, int]] = {}
        for slot, index in enumerate(active):
            problem, rows = self.problems[index], self.tree.own_rows[index]
            for number, row in enumerate(rows):
                for offset, node in enumerate(row):
                    at = slot * len(rows) + number, problem.subject_last[number] + offset
                    found.setdefault(node, at)
        ordered = torch.tensor([found[node] for node in sorted(found)])
        return ordered[:, 0], ordered[:, 1]

    def _padded_rows(self, active: Sequence[int]) -> Tensor:
        return pad_rows(self.model, [row for i in active for row in self.problems[i].rows])

    def _plain_hidden(self) -> Tensor:
        everybody = range(len(self.problems))
        block = self.model.block(self.layer)
        with torch.no_grad(), capturing_output(block) as captured, stopping_after(block):
            self.model.forward(self._padded_rows(everybody))
        device = captured.values.device
        rows, positions = self._own_places(everybody)
        return captured.values[rows.to(device), positions.to(device)]

    def _plain_final(self, deltas: Tensor) -> Tensor:
        each = len(self.problems[0].rows)
        vectors = deltas.repeat_interleave(each, dim=0).to(self.hidden.dtype)
        changed = torch.tensor([at for i in self.active for at in self.problems[i].subject_last])
        with adding_to_output(self.model.block(self.layer), changed, vectors):
            final = self.model.forward(self._padded_rows(self.active))
        rows, positions = self._own_places(self.active)
        return final[rows.to(final.device), positions.to(final.device)]


def search(
    model: EditableModel,
    layer: int,
    problems: Sequence[Problem],
    settings: "TargetSettings",
    *,
    least_updates: int,
    autocast: Autocast = "off",
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index in the batch, z* [d_model]) as edits finish.

    Args:
        model: the model.
        layer: the last edited layer.
        problems: searched together.
        settings: of the search.
        least_updates: of δ, before a low loss ends a search.
        autocast: for the upper blocks and the logits; z₀, δ, losses and Adam are as without.

    Raises:
        NumericError: a loss is not a number.
    """
    batch = _Batch(model, layer, problems, autocast)
    start_norm = batch.start.norm(dim=1)
    # One leaf per edit: Adam skips those without a gradient, so a finished edit neither moves nor
    # ages, and torch's own optimiser serves.
    deltas = [torch.zeros_like(row).requires_grad_() for row in batch.start]
    optimiser = torch.optim.Adam(deltas, lr=settings.learning_rate)
    active = list(range(len(problems)))
    batch.take(active)
    essence_start: Tensor | None = None
    # MEMIT evaluates the last loss but makes no step on it.
    for step in range(settings.steps - 1):
        with torch.enable_grad():
            stacked = torch.stack([deltas[index] for index in active])
            fitted, essence = batch.losses(stacked, essence_start, settings.kl_weight)
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
            return
        with torch.enable_grad():
            remaining = loss[kept].sum()
        remaining.backward()
        if len(kept) < len(active):
            active = [active[slot] for slot in kept]
            essence_start = essence_start[kept]
            _drop_finished_gradients(deltas, active)
            batch.take(active)
        optimiser.step()
        _clamp(deltas, active, settings.clamp_factor * start_norm)
    for index in active:
        yield index, (batch.start[index] + deltas[index]).detach()


def check_autocast(model: EditableModel, autocast: Autocast) -> None:
    """Refuse autocast where it does nothing, or not what it says.

    Raises:
        ModelError: the model is not in float32.
    """
    if autocast != "off" and model.dtype != torch.float32:
        name = str(model.dtype).removeprefix("torch.")
        raise ModelError(f"autocast to {autocast} is for models in float32, this one is in {name}")


def fitting_batch(
    model: EditableModel,
    layer: int,
    problems: Sequence[Problem],
    settings: "TargetSettings",
    *,
    memory: int,
    autocast: Autocast = "off",
) -> int:
    """Return how many of these edits can be searched together within a bound of memory.

    Two steps are made with the largest edit, then with the two largest, and the most bytes of
    tensors at once are counted, p₁ and p₂ (`activation_memory`). n edits take at most a·n + b·n²,
    with b = max(0, p₂/2 - p₁) and a = p₁ - b: all grows with the number of tokens, but for masks
    and, in models that compute them one by one, attention weights, which grow with its square.

    Args:
        model: the model.
        layer: the last edited layer.
        problems: at least one.
        settings: of the search.
        memory: bytes.
        autocast: of the search.

    Raises:
        InputError: not even one edit fits.
    """
    largest = sorted(problems, key=lambda problem: -problem.own_tokens)[:2]
    # The second step is the first that has log p₀ beside its own.
    probing = replace(settings, steps=3, stop_loss=-math.inf)
    peaks = []
    for count in range(1, len(largest) + 1):
        with PeakMemory() as counted:
            for _ in search(
                model, layer, largest[:count], probing, least_updates=0, autocast=autocast
            ):
                pass
        peaks.append(counted.peak)
    if peaks[0] > memory:
        raise InputError(
            f"one edit's search takes {math.ceil(peaks[0] / MIB)} MiB beside the model, more than "
            f"the {memory // MIB} MiB allowed: allow more"
        )
    square = max(0.0, peaks[-1] / 2 - peaks[0]) if len(peaks) > 1 else 0.0
    linear = peaks[0] - square
    count = 1
    while count < len(problems) and linear * (count + 1) + square * (count + 1) ** 2 <= memory:
        count += 1
    return count


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
