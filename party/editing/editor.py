"""A party's model in a session: statistics of its edits layer by layer, and the merged updates.

Joins the engine's pieces under the plan. What the plan pins (weights, tokenizer, covariance, layer
shapes) is checked once, when the editor is made, since a party that computes on anything else
makes the sum meaningless without an error showing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from collabedit.acceptance import Measures
from collabedit.editing import Editing, Layer
from collabedit.errors import InputError, ModelError, NumericError, PlanError
from collabedit.ids import LayerIndex
from collabedit.party.decisions import Decision
from collabedit.party.editing.apply import Undo, apply_update
from collabedit.party.editing.assessment import general_text, measure
from collabedit.party.editing.covariance import Covariance, load_covariance
from collabedit.party.editing.key_map import KeyMap, key_scales
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.means import OWN_MEANS, Means
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.ranks import ALONE, Ranks
from collabedit.party.editing.reassertion import Reassertions
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.targets import Targets, TargetSettings, compute_targets
from collabedit.party.editing.updates import apply_saved, load_history
from collabedit.party.edits import Edit, edits_digest
from collabedit.party.items import paraphrase_requests
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix


def target_settings(editing: Editing) -> TargetSettings:
    """Return the plan's settings of the target search."""
    return TargetSettings(**editing.targets.model_dump())


def edited_layers(editing: Editing) -> tuple[int, ...]:
    """Return the indices of the edited layers, ascending."""
    return tuple(layer.index for layer in editing.layers)


def start_weights(plan: Plan) -> str | None:
    """Name the weights that a session begins on; None if they are the checkpoint's own.

    After a history two machines have the same weights up to rounding only, and one machine may
    round otherwise tomorrow, so they are named by what they were made of.
    """
    previous = plan.model.previous
    return None if previous is None else " ".join((plan.model.weights, *previous))


def load_plan_model(
    plan: Plan, path: Path, *, device: str = "auto", previous: Sequence[Path] = ()
) -> EditableModel:
    """Load a model directory, check that it is the plan's model, and apply the plan's history.

    Args:
        plan: the plan.
        path: the checkpoint, before any session.
        device: as `load_model` has it.
        previous: updates of the sessions in `model.previous`, oldest first.

    Raises:
        ModelError: another architecture, shape, weights or tokenizer; says which and both digests.
        InputError: an update is missing, too many, of another session, or in the wrong place.
    """
    history = load_history(previous, weights=plan.model.weights, sessions=plan.model.previous or ())
    model = load_plan_checkpoint(plan, path, device=device)
    for saved in history:
        apply_saved(model, saved)
    return model


def load_plan_checkpoint(plan: Plan, path: Path, *, device: str = "auto") -> EditableModel:
    """Load a model directory and check that it is the plan's model, before its history.

    Raises:
        ModelError: another architecture, shape, weights or tokenizer; says which and both digests.
    """
    model = load_model(path, dtype=plan.model.dtype, device=device)
    found = model.architecture.model_type
    if found != plan.model.architecture:
        raise ModelError(f"{path}: is a {found} model, the plan's is {plan.model.architecture}")
    for name, digest, wanted in (
        ("weights", f"sha256:{model.weights_digest()}", plan.model.weights),
        ("tokenizer", f"sha256:{model.tokenizer_digest()}", plan.model.tokenizer),
    ):
        if digest != wanted:
            raise ModelError(f"{path}: {name} have digest {digest}, the plan states {wanted}")
    for layer in plan.editing.layers:
        shape = (model.d_in(layer.index), model.d_out(layer.index))
        if shape != (layer.inputs, layer.outputs):
            raise ModelError(
                f"{path}: layer {layer.index} maps {shape[0]} to {shape[1]}, in the plan "
                f"{layer.inputs} to {layer.outputs}"
            )
    return model


def load_plan_covariance(plan: Plan, path: Path | None) -> Covariance | None:
    """Read a covariance file and check that it is the plan's; None for a plan without one.

    Raises:
        InputError: another digest, a layer is missing, no file where the plan has a covariance, or
            one where it has none.
    """
    editing = plan.editing
    if editing.covariance is None:
        if path is not None:
            raise InputError(f"{path}: the plan's editor {editing.editor} takes no covariance")
        return None
    if path is None:
        raise InputError(
            f"the plan's editor {editing.editor} needs the covariance file {editing.covariance}"
        )
    covariance = load_covariance(path, digest=editing.covariance.removeprefix("sha256:"))
    missing = set(edited_layers(editing)) - set(covariance.matrices)
    if missing:
        raise InputError(f"{path}: has no second moments of layer {min(missing)}")
    return covariance


def key_maps(plan: Plan, covariance: Covariance | None) -> dict[int, KeyMap]:
    """Make Φ of the plan's editor for each layer.

    Args:
        plan: the plan.
        covariance: the plan's (`load_plan_covariance`).

    Raises:
        NumericError: a covariance is not positive definite, or has no clear null space.
        PlanError: d' or the dimension of the null space differs from the plan's.
    """
    maps = {}
    for layer in plan.editing.layers:
        second_moment = None if covariance is None else covariance.matrices[layer.index]
        try:
            maps[layer.index] = _key_map(plan.editing, layer, second_moment)
        except (NumericError, PlanError) as error:
            raise type(error)(f"layer {layer.index}: {error}") from error
        if maps[layer.index].mapped != layer.mapped:
            raise PlanError(f"layer {layer.index} maps keys to another size than the plan has")
    return maps


def _key_map(editing: Editing, layer: Layer, second_moment: Matrix | None) -> KeyMap:
    """Φ of one layer. A valid plan holds exactly its editor's parameters."""
    match editing, layer, second_moment:
        case Editing(covariance_weight=float(weight)), _, np.ndarray():
            return KeyMap.from_covariance(second_moment, weight)
        case Editing(nullspace_threshold=float(threshold), l2=float(l2)), Layer(
            kept=int(kept)
        ), np.ndarray():
            return KeyMap.from_null_space(second_moment, kept=kept, threshold=threshold, l2=l2)
        case _, Layer(shift=float(shift)), None:
            return KeyMap.scaled(layer.inputs, shift)
    raise InputError(f"the editor {editing.editor} and the covariance do not fit each other")


@dataclass(frozen=True, slots=True)
class _Requests:
    """What is edited: n edits, their targets, and the square roots of their weights, [n].

    `own` are those of the party's edits that are among them. Re-assertions come last.
    """

    own: Sequence[Edit]
    edits: Sequence[Edit]
    targets: Targets
    roots: Matrix

    def with_reassertions(self, added: Reassertions | None) -> "_Requests":
        """Append re-assertions, each of weight 1."""
        if added is None or not added.facts:
            return self
        edits = [*self.edits, *added.facts]
        values = torch.cat([self.targets.values, added.targets.values], dim=1)
        targets = replace(
            self.targets, values=values, edits_digest=edits_digest(edits), distances=None
        )
        roots = np.concatenate([self.roots, np.ones(len(added.facts))])
        return _Requests(self.own, edits, targets, roots)


@dataclass(slots=True)
class ModelEditor:
    """Implements `party.member.Editor` on a transformers model.

    Attributes:
        plan: the plan.
        model: edited in place; `rollback` restores its exact bits.
        edits: this party's.
        targets: z* of `edits`.
        maps: Φ by layer.
        past: edits of earlier sessions that new ones shall leave alone, at most as many as the
            plan's memory allows; it must have one if there are any.
        updates: what was applied so far, in the model's own coordinates.
        text: private general text for the vote on an update; None takes the project's.
        reassertions: true facts that are edited in beside `edits`; they measure nothing.
        ranks: that share the forward passes of `statistics` and the searches of `weigh`; each has
            an editor of its own, and all are called alike.
        means: of the searches of `weigh`.
    """

    plan: Plan
    model: EditableModel
    edits: Sequence[Edit] = field(repr=False)
    targets: Targets = field(repr=False)
    maps: Mapping[int, KeyMap]
    updates: dict[LayerIndex, LowRankUpdate] = field(default_factory=dict)
    batch_size: int = 32
    past: Sequence[Edit] = field(default=(), repr=False)
    text: str | None = field(default=None, repr=False)
    reassertions: Reassertions | None = field(default=None, repr=False)
    ranks: Ranks = ALONE
    means: Means = OWN_MEANS
    _undos: list[Undo] = field(default_factory=list, init=False, repr=False)
    _requests: _Requests = field(init=False, repr=False)
    _brought: Sequence[Edit] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.past) > self.plan.max_past_edits:
            raise ValueError(
                f"{len(self.past)} past edits, the plan's memory allows {self.plan.max_past_edits}"
            )
        self._bring_everything()

    def _bring_everything(self) -> None:
        ones = np.ones(len(self.edits))
        own = _Requests(self.edits, self.edits, self.targets, ones)
        self._requests = own.with_reassertions(self.reassertions)
        self._brought = self.past

    def weigh(self, decisions: Sequence[Decision], past_claims: Sequence[int] = ()) -> None:
        """Edit from here on what `decisions` say of each edit, in order, with those weights.

        The targets of added paraphrases are searched here, so the model must be unedited.

        Args:
            decisions: about each edit.
            past_claims: of each past edit, then of each re-assertion, how many edits of this
                session are about the same; with any it is left out. () knows of none.

        Raises:
            ValueError: another number of decisions than of edits, or of counts than of past ones.
        """
        facts = () if self.reassertions is None else self.reassertions.facts
        claims = past_claims or (0,) * (len(self.past) + len(facts))
        remembered, reasserted = claims[: len(self.past)], claims[len(self.past) :]
        self._brought = [
            edit for edit, count in zip(self.past, remembered, strict=True) if not count
        ]
        unclaimed = [not count for _, count in zip(facts, reasserted, strict=True)]
        chosen = list(zip(self.edits, decisions, strict=True))
        kept = [index for index, (_, decision) in enumerate(chosen) if decision.is_kept]
        added = [
            (request, decision.weight)
            for edit, decision in chosen
            for request in paraphrase_requests(edit)[: decision.added]
        ]
        own = [self.edits[index] for index in kept]
        edits = own + [request for request, _ in added]
        weights = [decisions[index].weight for index in kept] + [weight for _, weight in added]
        values = self.targets.values[:, kept]
        if added:
            editing = self.plan.editing
            fresh = compute_targets(
                self.model,
                [request for request, _ in added],
                layer=edited_layers(editing)[-1],
                templates=editing.context_templates,
                settings=target_settings(editing),
                ranks=self.ranks,
                means=self.means,
            )
            values = torch.cat([values, fresh.values], dim=1)
        targets = replace(
            self.targets, values=values, edits_digest=edits_digest(edits), distances=None
        )
        roots = np.sqrt(np.array(weights, dtype=np.float64))
        left = None if self.reassertions is None else self.reassertions.kept(unclaimed)
        self._requests = _Requests(own, edits, targets, roots).with_reassertions(left)

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        """Return K̃ [d', n + p] and R [d_out, n] of each layer, on the model as edited so far.

        The columns of an edit of weight w are those of the edit times √w. The last p columns of K̃
        are those of the past edits.
        """
        return [self._layer_statistics(layer) for layer in layers]

    def _layer_statistics(self, layer: Layer) -> tuple[Matrix, Matrix]:
        mapped, wanted = self._weighed(layer)
        if self._brought and self.plan.memory is not None:
            root = float(np.sqrt(self.plan.memory.weight))
            remembered = self._mapped_keys(self._brought, layer.index)
            remembered *= root * key_scales(self.plan.editing, remembered)
            mapped = np.concatenate([mapped, remembered], axis=1)
        return mapped, wanted

    def _weighed(self, layer: Layer) -> tuple[Matrix, Matrix]:
        editing, requests = self.plan.editing, self._requests
        if not requests.edits:
            return np.zeros((layer.mapped, 0)), np.zeros((layer.outputs, 0))
        wanted = residuals(
            self.model,
            requests.edits,
            requests.targets,
            layer.index,
            layers=edited_layers(editing),
            schedule=editing.schedule,
            batch_size=self.batch_size,
            ranks=self.ranks,
        )
        mapped = self._mapped_keys(requests.edits, layer.index)
        scales = requests.roots * key_scales(editing, mapped)
        return mapped * scales, wanted.numpy() * scales

    def _mapped_keys(self, edits: Sequence[Edit], layer: int) -> Matrix:
        templates = self.plan.editing.context_templates
        keys = compute_keys(
            self.model, edits, layer, templates, batch_size=self.batch_size, ranks=self.ranks
        )
        return self.maps[layer].map_keys(keys.numpy())

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        """Apply merged updates, given in mapped coordinates: ΔW = left · (right Φ)."""
        for layer, update in sorted(updates.items()):
            own = LowRankUpdate(update.left, self.maps[layer].unmap_rows(update.right))
            self._undos.append(apply_update(self.model, layer, own))
            self.updates[layer] = own

    def rollback(self) -> None:
        """Take back everything that was applied, bit by bit."""
        while self._undos:
            self._undos.pop().restore()
        self.updates.clear()
        self._bring_everything()

    def measure(self) -> Measures:
        """Measure own edits, their neighbourhood and the text on the model as edited so far."""
        text = general_text() if self.text is None else self.text
        return measure(
            self.model, self._requests.own, text, around=self.edits, batch_size=self.batch_size
        )
