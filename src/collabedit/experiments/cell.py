"""One cell from start to end: rounds of editing, and what the model holds after each.

Runs in a worker process. The base model is loaded once there; a cell edits it in place, measures,
and leaves it with its exact original bits, which is checked.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from collabedit.demo.methods import Share, Updates, edit_alone, edited, relative_errors
from collabedit.errors import ModelError, NumericError
from collabedit.experiments.cache import Cache, base_model
from collabedit.experiments.deal import Deal, Round
from collabedit.experiments.measuring import (
    WHOLE,
    Measurement,
    conflict_measurements,
    cost_measurements,
    edit_measurements,
    general_measurements,
    outcomes_of,
)
from collabedit.experiments.methods import Merged, merge
from collabedit.experiments.protocol import edited_by, new_identities, session_plan
from collabedit.experiments.schema import Cell, CovarianceSource, EditorSettings, Measures
from collabedit.grid import Fields
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import target_settings
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.proposal import PARAPHRASES
from collabedit.party.editing.targets import Targets
from collabedit.party.edits import Edit, edits_digest
from collabedit.party.items import paraphrase_requests
from collabedit.plan import Plan


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a worker finds what all cells share.

    Attributes:
        model: directory of the checkpoint.
        dtype: of its weights.
        device: as `load_model` takes it.
        model_digest: of the directory.
        cache: private directory, on a file system that all workers see.
        covariance: what E[kkᵀ] is averaged over; None if no editor needs it.
        measures: what to measure.
    """

    model: Path
    dtype: str
    device: str
    model_digest: str
    cache: Path
    covariance: CovarianceSource | None
    measures: Measures

    def load(self) -> EditableModel:
        """Return this process's copy of the base model."""
        return base_model(self.model, self.dtype, self.device, self.model_digest)

    def second_moments(self, editor: EditorSettings) -> Covariance | None:
        """Return the editor's covariance, from the cache; None for one without."""
        if editor.editor == "ridge" or self.covariance is None:
            return None
        model = self.load()
        return Cache(self.cache).covariance(model, edited_by(editor, model), self.covariance)


@dataclass(frozen=True, slots=True)
class CellTask:
    """A cell with its edits, as it travels to a worker."""

    bench: Bench
    cell: Cell
    dealt: Deal = field(repr=False)


@dataclass(frozen=True, slots=True)
class TargetTask:
    """Some edits whose targets several cells need, with one of these cells."""

    bench: Bench
    cell: Cell
    edits: tuple[Edit, ...] = field(repr=False)


def prepare_covariance(task: TargetTask) -> Fields:
    """Put the second moments of an editor's layers into the cache."""
    task.bench.second_moments(task.cell.editor)
    return {}


def prepare_targets(task: TargetTask) -> Fields:
    """Put the targets of edits on the unedited model into the cache."""
    model = task.bench.load()
    covariance = task.bench.second_moments(task.cell.editor)
    _targets(task.bench, task.cell, model, covariance, [task.edits])
    return {}


def run_cell(task: CellTask) -> Fields:
    """Edit round after round and measure after each.

    Returns:
        `measurements`, and `edits` as how many different ones were wanted.

    Raises:
        CollabEditError: an editor or a session refused.
    """
    bench, cell = task.bench, task.cell
    model = bench.load()
    before = model.weights_digest()
    covariance = None if cell.method == "unedited" else bench.second_moments(cell.editor)
    measurements: list[Measurement] = []
    with ExitStack() as stack:
        for number, each in enumerate(task.dealt.rounds, 1):
            updates: Updates = {}
            if cell.method != "unedited":
                current = _for_weights(covariance, model)
                shares = _targets(bench, cell, model, current, each.shares)
                if cell.memory:
                    shares = _with_past(shares, task.dealt.rounds[: number - 1])
                merged = merge(cell, model, current, shares)
                _check_finite(merged)
                measurements += cost_measurements(
                    merged.errors, merged.uploaded, merged.seconds, after_round=number
                )
                if cell.overlap or cell.policy != "none":
                    measurements += _against_unique(
                        bench,
                        cell,
                        model,
                        covariance=current,
                        each=each,
                        updates=merged.updates,
                        number=number,
                    )
                updates = merged.updates
            stack.enter_context(edited(model, updates))
            measurements += _measure(model, bench.measures, task.dealt.rounds[:number])
    if model.weights_digest() != before:
        raise ModelError("a cell left the base model edited; this is a bug, please report it")
    wanted = sum(len(each.intended) for each in task.dealt.rounds)
    return {"measurements": [asdict(one) for one in measurements], "edits": wanted}


def _for_weights(covariance: Covariance | None, model: EditableModel) -> Covariance | None:
    """Let later rounds use the unedited model's second moments, as the paper does.

    A covariance names the weights that it was gathered on, and a plan refuses others.
    """
    if covariance is None or covariance.provenance.get("weights") == model.weights_digest():
        return covariance
    provenance = {
        ("base-weights" if name == "weights" else name): value
        for name, value in covariance.provenance.items()
    }
    return replace(covariance, provenance=provenance)


def _targets(
    bench: Bench,
    cell: Cell,
    model: EditableModel,
    covariance: Covariance | None,
    shares: Sequence[Sequence[Edit]],
) -> list[Share]:
    """Give each party the targets of its edits on the model as it is now, from the cache."""
    plan = _target_plan(cell, model, covariance)
    everything = list(dict.fromkeys(edit for share in shares for edit in share))
    found = Cache(bench.cache).targets(
        model,
        everything,
        layer=plan.editing.layers[-1].index,
        templates=plan.editing.context_templates,
        settings=target_settings(plan.editing),
    )
    column = {edit: place for place, edit in enumerate(everything)}
    return [
        Share(
            edits,
            Targets(
                found.values[:, [column[edit] for edit in edits]],
                edits_digest(edits),
                found.settings_digest,
            ),
        )
        for edits in shares
    ]


def _with_past(shares: Sequence[Share], rounds: Sequence[Round]) -> list[Share]:
    """Add to each party's share its edits of earlier rounds."""
    return [
        replace(share, past=[edit for each in rounds for edit in each.shares[party]])
        for party, share in enumerate(shares)
    ]


def _target_plan(cell: Cell, model: EditableModel, covariance: Covariance | None) -> Plan:
    """A plan of the cell's editor; who takes part does not touch the target search."""
    return session_plan(
        cell,
        model,
        covariance,
        identities=new_identities(cell.parties),
        edits=[cell.edits_per_party] * cell.parties,
    )


def _check_finite(merged: Merged) -> None:
    if any(error != error for error in merged.errors):  # noqa: PLR0124  # NaN is unequal to itself
        raise NumericError("the update is not a number")


def _against_unique(
    bench: Bench,
    cell: Cell,
    model: EditableModel,
    *,
    covariance: Covariance | None,
    each: Round,
    updates: Updates,
    number: int,
) -> list[Measurement]:
    """Compare with the trustee who applies once what shall be applied, whoever else has it too."""
    wanted = _wanted(cell, each)
    if not wanted:
        return []  # nothing to apply, and no size to set an error against
    (share,) = _targets(bench, cell, model, covariance, [wanted])
    plan = _target_plan(cell, model, covariance)
    errors = relative_errors(updates, edit_alone(plan, model, covariance, [share]))
    return [
        Measurement("error_unique_first_layer", WHOLE, number, errors[min(errors)]),
        Measurement("error_unique_worst_layer", WHOLE, number, max(errors.values())),
    ]


def _wanted(cell: Cell, each: Round) -> list[Edit]:
    """What a trustee applies who knows who has what, by the cell's policy (SPEC 6.7).

    A majority of two thirds holds the target of every contested fact.
    """
    contested = _contested(each)
    match cell.policy:
        case "none" | "majority":
            return list(each.intended)
        case "drop":
            return [edit for edit in each.intended if edit not in contested]
        case "keep":
            return list(each.held)
        case "augment":
            added = [
                request for edit in contested for request in paraphrase_requests(edit)[:PARAPHRASES]
            ]
            return [*each.held, *added]


def _measure(
    model: EditableModel, measures: Measures, rounds: Sequence[Round]
) -> list[Measurement]:
    """Measure a model after the last of `rounds`: all edits so far, and each part of them."""
    number = len(rounds)
    contested = [edit for each in rounds for edit in _contested(each)]
    apart = frozenset(contested)
    parts = [[edit for edit in each.intended if edit not in apart] for each in rounds]
    plain = [edit for part in parts for edit in part]
    outcomes = outcomes_of(model, [*plain, *contested])
    found = edit_measurements(outcomes, part=WHOLE, after_round=number)
    if contested:
        found += edit_measurements(outcomes[len(plain) :], part="contested", after_round=number)
        if plain:
            found += edit_measurements(
                outcomes[: len(plain)], part="uncontested", after_round=number
            )
        conflicts = [conflict for each in rounds for conflict in each.conflicts]
        found += conflict_measurements(model, conflicts, after_round=number)
    start = 0
    for place, part in enumerate(parts, 1):
        own = outcomes[start : start + len(part)]
        start += len(part)
        found += edit_measurements(own, part=f"round-{place}", after_round=number)
    found += general_measurements(model, plain, measures, after_round=number)
    return found


def _contested(each: Round) -> dict[Edit, None]:
    """The majority's side of contested facts, in order."""
    return dict.fromkeys(conflict.target for conflict in each.conflicts)
