"""A whole federation in one process, on a real model; `collabedit simulate` is its command line."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from collabedit.acceptance import Acceptance, Vote, judge
from collabedit.api.checks import check_ckks
from collabedit.api.proposing import (
    PlanOptions,
    coordinator_entry,
    party_entry,
    propose,
    read_covariance,
)
from collabedit.api.recording import check_record, simulation_recorder
from collabedit.api.reporting import SILENT, Reporter
from collabedit.api.requests import Edits
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import InputError
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party.edits import Edit, load_edits
from collabedit.party.items import edit_items
from collabedit.plan import Plan, format_digest
from collabedit.proto.votes import name_votes
from collabedit.simulation import CastVote, Faults, Outcome, Simulation, accept_all
from collabedit.sketch import LowRankUpdate, Matrix

if TYPE_CHECKING:
    from collabedit.party.editing.covariance import Covariance
    from collabedit.party.editing.editor import ModelEditor
    from collabedit.party.editing.model import EditableModel


@dataclass(frozen=True, slots=True)
class Simulated:
    """How a simulated session ended.

    Attributes:
        plan: with throw-away keys.
        outcome: of the protocol.
        updates: what was applied, by layer, in the model's own coordinates; empty after an abort.
        before: measures of the edits on the unedited model (docs/metrics.md).
        after: likewise on the edited one; None after an abort.
        model: edited, or as it was after an abort.
    """

    plan: Plan
    outcome: Outcome
    updates: Mapping[LayerIndex, LowRankUpdate] = field(repr=False)
    before: Mapping[str, Any]
    after: Mapping[str, Any] | None
    model: "EditableModel" = field(repr=False)

    def raise_if_aborted(self) -> None:
        """Raise if the session ended early.

        Raises:
            SessionAbortedError: with reason and culprit.
        """
        if self.outcome.aborted is not None:
            raise self.outcome.aborted.to_error(self.plan)

    def to_dict(self) -> dict[str, object]:
        """Return a report for JSON."""
        plan, outcome = self.plan, self.outcome
        report: dict[str, object] = {
            "plan": format_digest(plan.digest),
            "tasks": [record.to_dict(plan) for record in outcome.records],
            "aborted": outcome.aborted.reason.name if outcome.aborted else None,
            "votes": name_votes(plan, outcome.votes),
            "refused_messages": len(outcome.refusals),
            "messages": len(outcome.transcript),
            "before": self.before,
            "after": self.after,
        }
        if plan.overlap is not None:
            report["decisions"] = {
                plan.party_name(party): [decision.to_dict() for decision in decisions]
                for party, decisions in sorted(outcome.decisions.items())
            }
        return report


def simulate(
    model: "Path | EditableModel",
    edits: Mapping[str, Edits],
    *,
    covariance: "Path | Covariance | None" = None,
    faults: Faults | None = None,
    seed: int = 0,
    record: Path | None = None,
    device: str = "auto",
    reporter: Reporter = SILENT,
    **options: Unpack[PlanOptions],
) -> Simulated:
    """Run the deployed protocol over a lossy in-memory network, with throw-away keys.

    One model stands for those of all parties, which hold the same weights; it stays edited.

    Args:
        model: directory of the unedited model, or the model itself.
        edits: of each party, by name; at least three.
        covariance: second moments of the model, or their file; `ridge` needs none.
        faults: what goes wrong; None is nothing.
        seed: of the faults.
        record: private directory for a transcript, for audits.
        device: where a model that is loaded goes; see `load_model`.
        reporter: told what happens.
        options: of the plan.

    Raises:
        InputError: something given does not fit together.
        PlanError: the plan does not hold together.
    """
    from collabedit.party.editing.evaluate import evaluate
    from collabedit.party.editing.model import load_model

    check_record(record)
    check_ckks(options.get("backend", "masked"))
    records = [load_edits(own) if isinstance(own, Path) else tuple(own) for own in edits.values()]
    moments = read_covariance(covariance)
    name = model.name if isinstance(model, Path) else "model"
    loaded = load_model(model, device=device) if isinstance(model, Path) else model
    randomness = SystemRandomness()
    keys = {PartyId(i): SigningKey.generate(randomness) for i in range(len(records) + 1)}
    public = {party: key.verify_key.to_bytes().hex() for party, key in keys.items()}
    room = _room(options)
    plan = propose(
        loaded,
        moments,
        name="simulation",
        model_name=name,
        parties=[
            party_entry(party, identity=public[PartyId(i)], max_edits=room * len(own))
            for i, (party, own) in enumerate(zip(edits, records, strict=True), 1)
        ],
        aggregator=coordinator_entry("aggregator", identity=public[AGGREGATOR]),
        options=options,
    )
    crash_task = TaskIndex(0) if faults is None else faults.crash_task
    if crash_task >= len(plan.tasks):
        raise InputError(
            f"a crash in sum {crash_task}: the session has only {len(plan.tasks)} sums"
        )
    editors = _editors(plan, loaded, moments, records, reporter)

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return editors[party].statistics(plan.tasks[task])

    applied: dict[TaskIndex, PartyId] = {}

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        # All parties hold the same weights, so one model in memory stands for all of them.
        if applied.setdefault(task, party) == party:
            editors[party].apply(updates)

    vote = accept_all if plan.acceptance is None else _voting(plan.acceptance, editors)
    everything = [edit for own in records for edit in own]
    before = evaluate(loaded, everything).metrics.to_dict()
    with (
        simulation_recorder(record, plan) as recorder,
        tempfile.TemporaryDirectory(prefix="collabedit-") as spool,
    ):
        outcome = Simulation(
            plan,
            identities=keys,
            directory=Path(spool),
            randomness=dict.fromkeys(keys, randomness),
            faults=faults,
            seed=seed,
            observer=reporter.observe,
            recorder=recorder,
        ).run(
            contribute,
            apply,
            vote,
            items={
                party: edit_items(own)
                for party, own in zip(plan.party_ids, records, strict=True)
                if plan.overlap is not None
            },
            weigh=lambda party, decisions: editors[party].weigh(decisions),
        )
    after = None if outcome.aborted else evaluate(loaded, everything).metrics.to_dict()
    merged = {
        layer: update for editor in editors.values() for layer, update in editor.updates.items()
    }
    return Simulated(plan, outcome, {} if outcome.aborted else merged, before, after, loaded)


def _room(options: PlanOptions) -> int:
    """Requests that an edit may become."""
    wish = options.get("overlap")
    return 1 + wish.paraphrases if wish is not None and wish.policy == "augment" else 1


def _editors(
    plan: Plan,
    model: "EditableModel",
    covariance: "Covariance | None",
    records: list[tuple[Edit, ...]],
    reporter: Reporter,
) -> "dict[PartyId, ModelEditor]":
    from collabedit.party.editing.editor import (
        ModelEditor,
        edited_layers,
        key_maps,
        target_settings,
    )
    from collabedit.party.editing.targets import compute_targets

    maps = key_maps(plan, covariance)
    editors = {}
    for party, own in zip(plan.party_ids, records, strict=True):
        with reporter.progress(f"targets of {plan.party_name(party)}") as advance:
            targets = compute_targets(
                model,
                own,
                layer=edited_layers(plan.editing)[-1],
                templates=plan.editing.context_templates,
                settings=target_settings(plan.editing),
                progress=advance,
            )
        editors[party] = ModelEditor(plan, model, own, targets, maps)
    return editors


def _voting(acceptance: Acceptance, editors: "Mapping[PartyId, ModelEditor]") -> CastVote:
    """Measure the model for every party before the session; return how each votes afterwards."""
    unedited = {party: editor.measure() for party, editor in editors.items()}

    def vote(party: PartyId, updates: Mapping[LayerIndex, LowRankUpdate]) -> Vote:
        # One model in memory stands for all, so the trial must not stay, unlike at a real party.
        own = editors[party]
        trial = replace(own, updates={})
        trial.apply(updates)
        after = own.measure()
        trial.rollback()
        return judge(acceptance, unedited[party], after)

    return vote
