"""`collabedit simulate`: a whole federation in one process, with faults."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from collabedit.api.places import check_place
from collabedit.api.proposing import given_options
from collabedit.api.recording import check_record
from collabedit.api.simulating import simulate
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
from collabedit.cli.console import ConsoleReporter, parse_layers, say
from collabedit.cli.logs import LogObserver, configure_logs
from collabedit.cli.plan import (
    BackendOption,
    FalsePositiveOption,
    OverlapOption,
    ParaphrasesOption,
    parse_backend,
    parse_editor,
    parse_overlap,
)
from collabedit.cli.recording import RecordOption
from collabedit.errors import InputError
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import plan_errors
from collabedit.simulation import Faults
from collabedit.threat_model import MINIMUM_PARTIES


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


def _show(report: Mapping[str, object], out: Path | None) -> None:
    text = json.dumps(report, indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    typer.echo(text)


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
    from collabedit.party.editing.proposal import LENGTH_UNITS

    configure_logs()
    _check_flags(
        parties=len(edits), schedule=schedule, statistics=statistics, out=out, record=record
    )
    crashes, crash_task = _crashes(crash or [], len(edits))
    with plan_errors("the simulated plan"):
        options = given_options(
            layers=parse_layers(layers) if layers else None,
            editor=parse_editor(editor),
            covariance_weight=covariance_weight,
            nullspace_threshold=nullspace_threshold,
            l2=l2,
            shift=shift,
            schedule="parallel" if schedule == "parallel" else "sequential",
            statistics="dense" if statistics == "dense" else "sketch",
            backend=parse_backend(backend),
            overlap=parse_overlap(overlap, false_positive, paraphrases),
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
        options["closed"] = choose_closed(
            open_sums=open_sums,
            check_columns=check_columns,
            check_tolerance=check_tolerance,
            cover_edits=cover_edits,
            min_edits=min_edits,
            decoy_bound=decoy_bound,
            equal_lengths=equal_lengths,
        )
    simulated = simulate(
        model,
        {f"party-{i}": path for i, path in enumerate(edits, 1)},
        covariance=covariance,
        faults=Faults(
            drop=drop,
            duplicate=duplicate,
            tamper=tamper,
            delay=delay,
            crash_before=crashes,
            crash_task=crash_task,
        ),
        seed=seed,
        record=record,
        device=device,
        reporter=ConsoleReporter(LogObserver("aggregator")),
        **options,
    )
    _show(simulated.to_dict(), out)
    simulated.raise_if_aborted()
    say("the federation finished")
