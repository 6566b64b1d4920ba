"""`collabedit simulate`: a whole federation in one process, with faults."""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.acceptance import Acceptance, Vote, judge
from collabedit.cli.acceptance import (
    AcceptanceOption,
    DropOption,
    EfficacyOption,
    RatioOption,
    VotesOption,
    choose_acceptance,
)
from collabedit.cli.closed import (
    CheckColumnsOption,
    CheckToleranceOption,
    CoverOption,
    DecoyBoundOption,
    EqualLengthsOption,
    LengthUnitsOption,
    MinEditsOption,
    OpenSumsOption,
    choose_closed,
    choose_length,
)
from collabedit.cli.console import (
    check_place,
    progress_bar,
    say,
)
from collabedit.cli.logs import LogObserver, configure_logs
from collabedit.cli.plan import (
    BackendOption,
    FalsePositiveOption,
    OverlapOption,
    ParaphrasesOption,
    check_ckks,
    choose_layers,
    parse_backend,
    parse_editor,
    parse_overlap,
)
from collabedit.cli.recording import RecordOption, check_record, simulation_recorder
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import InputError
from collabedit.federation import Coordinator, Party
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.plan import format_digest, plan_errors
from collabedit.proto.votes import name_votes
from collabedit.sketch import LowRankUpdate, Matrix
from collabedit.threat_model import MINIMUM_PARTIES

if TYPE_CHECKING:
    from collabedit.party.editing.editor import ModelEditor
    from collabedit.party.editing.proposal import OverlapWish
    from collabedit.simulation import CastVote


def _crashes(texts: list[str], parties: int) -> tuple[dict[PartyId, str], TaskIndex]:
    crashes: dict[PartyId, str] = {}
    tasks: set[int] = set()
    for text in texts:
        match = re.fullmatch(r"(\d+):(r[0-6])(?::(\d+))?", text)
        if match is None or not 1 <= int(match[1]) <= parties:
            raise InputError(f"--crash {text}: must be PARTY:ROUND or PARTY:ROUND:TASK, as 2:r3:0")
        party = PartyId(int(match[1]))
        if party in crashes:
            raise InputError(f"--crash {text}: party {party} cannot fall silent twice")
        crashes[party] = match[2]
        tasks.add(int(match[3] or 0))
        if len(tasks) > 1:
            raise InputError(f"--crash {text}: all parties must fall silent in one sum")
    return crashes, TaskIndex(max(tasks, default=0))


def _check_flags(
    *, parties: int, schedule: str, statistics: str, out: Path | None, record: Path | None
) -> None:
    if parties < MINIMUM_PARTIES:
        raise InputError(f"{parties} --edits files: a federation has at least {MINIMUM_PARTIES}")
    if schedule not in {"sequential", "parallel"} or statistics not in {"sketch", "dense"}:
        raise InputError("--schedule is sequential or parallel, --statistics sketch or dense")
    if out is not None:
        check_place(out)
    check_record(record)


def _room(wish: "OverlapWish | None") -> int:
    """Requests that an edit may become."""
    return 1 + wish.paraphrases if wish is not None and wish.policy == "augment" else 1


def _show(report: Mapping[str, object], out: Path | None) -> None:
    text = json.dumps(report, indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    typer.echo(text)


def _voting(acceptance: Acceptance, editors: "Mapping[PartyId, ModelEditor]") -> "CastVote":
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


def run(
    model: Annotated[Path, typer.Option(help="Model directory.")],
    edits: Annotated[list[Path], typer.Option(help="Edits file; once for each party.")],
    covariance: Annotated[
        Path | None, typer.Option(help="File of `collabedit covariance`; ridge needs none.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Like 4-8; default: the covariance's, else as published.")
    ] = None,
    editor: Annotated[str, typer.Option(help="memit, ridge, alphaedit or emmet.")] = "memit",
    covariance_weight: Annotated[float | None, typer.Option(help="λ; default: published.")] = None,
    nullspace_threshold: Annotated[float | None, typer.Option(help="Of alphaedit.")] = None,
    l2: Annotated[float | None, typer.Option(help="Of alphaedit.")] = None,
    shift: Annotated[float | None, typer.Option(help="Of ridge.")] = None,
    schedule: Annotated[str, typer.Option(help="sequential or parallel.")] = "sequential",
    statistics: Annotated[str, typer.Option(help="sketch or dense.")] = "sketch",
    backend: BackendOption = "masked",
    acceptance: AcceptanceOption = False,
    votes: VotesOption = None,
    efficacy: EfficacyOption = None,
    neighbourhood_drop: DropOption = None,
    perplexity_ratio: RatioOption = None,
    crash: Annotated[
        list[str] | None, typer.Option(help="PARTY:ROUND[:TASK] falls silent; repeatable.")
    ] = None,
    drop: Annotated[float, typer.Option(min=0, max=1, help="Share of messages lost.")] = 0.0,
    duplicate: Annotated[float, typer.Option(min=0, max=1, help="Share sent twice.")] = 0.0,
    tamper: Annotated[float, typer.Option(min=0, max=1, help="Share with a bit flipped.")] = 0.0,
    delay: Annotated[int, typer.Option(min=0, help="Largest delay, in messages.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the faults.")] = 0,
    overlap: OverlapOption = None,
    false_positive: FalsePositiveOption = None,
    paraphrases: ParaphrasesOption = None,
    open_sums: OpenSumsOption = False,
    check_columns: CheckColumnsOption = None,
    check_tolerance: CheckToleranceOption = None,
    cover_edits: CoverOption = None,
    min_edits: MinEditsOption = None,
    decoy_bound: DecoyBoundOption = None,
    equal_lengths: EqualLengthsOption = False,
    length_units: LengthUnitsOption = None,
    record: RecordOption = None,
    out: Annotated[Path | None, typer.Option(help="Report to write, JSON.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda ...; spread: over all GPUs.")
    ] = "auto",
) -> None:
    """Run the deployed protocol over a lossy in-memory network, with throw-away keys."""
    from collabedit.party.editing.covariance import load_covariance
    from collabedit.party.editing.editor import (
        ModelEditor,
        edited_layers,
        key_maps,
        target_settings,
    )
    from collabedit.party.editing.evaluate import evaluate
    from collabedit.party.editing.model import load_model
    from collabedit.party.editing.proposal import LENGTH_UNITS, propose_plan
    from collabedit.party.editing.targets import compute_targets
    from collabedit.party.edits import load_edits
    from collabedit.party.items import edit_items
    from collabedit.simulation import Faults, Simulation, accept_all

    configure_logs()
    _check_flags(
        parties=len(edits), schedule=schedule, statistics=statistics, out=out, record=record
    )
    chosen_editor, chosen_backend = parse_editor(editor), parse_backend(backend)
    check_ckks(chosen_backend)
    wish = parse_overlap(overlap, false_positive, paraphrases)
    closed = choose_closed(
        open_sums=open_sums,
        check_columns=check_columns,
        check_tolerance=check_tolerance,
        cover_edits=cover_edits,
        min_edits=min_edits,
        decoy_bound=decoy_bound,
        equal_lengths=equal_lengths,
    )
    crashes, crash_task = _crashes(crash or [], len(edits))
    records = [load_edits(path) for path in edits]
    moments = None if covariance is None else load_covariance(covariance)
    loaded = load_model(model, device=device)
    randomness = SystemRandomness()
    keys = {PartyId(i): SigningKey.generate(randomness) for i in range(len(edits) + 1)}
    public = {party: key.verify_key.to_bytes().hex() for party, key in keys.items()}
    with plan_errors("the simulated plan"):
        plan = propose_plan(
            loaded,
            moments,
            name="simulation",
            model_name=model.name,
            parties=[
                Party(
                    name=f"party-{i}", identity=public[PartyId(i)], max_edits=_room(wish) * len(own)
                )
                for i, own in enumerate(records, 1)
            ],
            aggregator=Coordinator(name="aggregator", identity=public[AGGREGATOR]),
            layers=choose_layers(layers, loaded, moments, editor=chosen_editor),
            randomness=randomness,
            editor=chosen_editor,
            covariance_weight=covariance_weight,
            nullspace_threshold=nullspace_threshold,
            l2=l2,
            shift=shift,
            schedule="parallel" if schedule == "parallel" else "sequential",
            statistics="dense" if statistics == "dense" else "sketch",
            backend=chosen_backend,
            overlap=wish,
            closed=closed,
            length_units=choose_length(
                equal_lengths=equal_lengths, length_units=length_units, proposed=LENGTH_UNITS
            ),
            acceptance=choose_acceptance(
                asked=acceptance,
                votes=votes,
                efficacy=efficacy,
                neighbourhood_drop=neighbourhood_drop,
                perplexity_ratio=perplexity_ratio,
                parties=len(edits),
            ),
        )
    if crash_task >= len(plan.tasks):
        raise InputError(f"--crash {(crash or [])[0]}: the session has {len(plan.tasks)} sums")
    maps = key_maps(plan, moments)
    editors = {}
    for party, own in zip(plan.party_ids, records, strict=True):
        with progress_bar(f"targets of {plan.party_name(party)}") as advance:
            targets = compute_targets(
                loaded,
                own,
                layer=edited_layers(plan.editing)[-1],
                templates=plan.editing.context_templates,
                settings=target_settings(plan.editing),
                progress=advance,
            )
        editors[party] = ModelEditor(plan, loaded, own, targets, maps)

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return editors[party].statistics(plan.tasks[task])

    applied: set[TaskIndex] = set()

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        # All parties hold the same weights, so one model in memory stands for all of them.
        if task not in applied:
            applied.add(task)
            editors[party].apply(updates)

    vote = accept_all if plan.acceptance is None else _voting(plan.acceptance, editors)
    everything = [edit for own in records for edit in own]
    before = evaluate(loaded, everything).metrics.to_dict()
    with (
        simulation_recorder(record, plan) as recorder,
        tempfile.TemporaryDirectory(prefix="collabedit-") as spool,
    ):
        simulation = Simulation(
            plan,
            identities=keys,
            directory=Path(spool),
            randomness=dict.fromkeys(keys, randomness),
            faults=Faults(
                drop=drop,
                duplicate=duplicate,
                tamper=tamper,
                delay=delay,
                crash_before=crashes,
                crash_task=crash_task,
            ),
            seed=seed,
            observer=LogObserver("aggregator"),
            recorder=recorder,
        )
        outcome = simulation.run(
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
    report: dict[str, object] = {
        "plan": format_digest(plan.digest),
        "tasks": [record.to_dict(plan) for record in outcome.records],
        "aborted": outcome.aborted.reason.name if outcome.aborted else None,
        "votes": name_votes(plan, outcome.votes),
        "refused_messages": len(outcome.refusals),
        "messages": len(outcome.transcript),
        "before": before,
        "after": None if outcome.aborted else evaluate(loaded, everything).metrics.to_dict(),
    }
    if plan.overlap is not None:
        report["decisions"] = {
            plan.party_name(party): [decision.to_dict() for decision in decisions]
            for party, decisions in sorted(outcome.decisions.items())
        }
    _show(report, out)
    simulation.coordinator.raise_if_aborted()
    say("the federation finished")
