"""`collabedit audit recorded`: attacks on a session that somebody recorded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.console import PreviousOption
from collabedit.cli.gridding import (
    CACHE,
    CacheOption,
    DataOption,
    SchedulerOption,
    ThreadsOption,
    WorkersOption,
    chosen_cluster,
    run_grid,
)
from collabedit.errors import InputError

if TYPE_CHECKING:
    from collabedit.audit.schema import PriorName


def run(
    recordings: Annotated[
        list[Path],
        typer.Argument(
            help="Recordings of one session, by one or several ends; of a second one of the same "
            "plan and edits for attacks on a pair."
        ),
    ],
    edits: Annotated[
        list[str],
        typer.Option(help="NAME=FILE: the edits that a party brought; repeatable."),
    ],
    model: Annotated[Path, typer.Option(help="Model directory, the plan's.")],
    covariance: Annotated[
        Path | None, typer.Option(help="Covariance file, the plan's; ridge needs none.")
    ] = None,
    previous: PreviousOption = None,
    past: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE: past edits and re-assertions that a party brought, nothing after = "
            "for none; repeatable."
        ),
    ] = None,
    data: DataOption = None,
    candidates: Annotated[
        int, typer.Option(min=4, help="Whom adversaries choose among, members included.")
    ] = 1000,
    prior: Annotated[
        str, typer.Option(help="What they know of candidates: exact prompts, or generic ones.")
    ] = "exact",
    seed: Annotated[int, typer.Option(min=0, help="Of candidates and of what attacks draw.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this attack only; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results; default: out/audit/PLAN-recorded.")
    ] = None,
    cache: CacheOption = CACHE,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    scheduler: SchedulerOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Attack recordings of a real session, then write report.json and report.html.

    Exits with 10 if an attack failed; the others are kept and reported.
    """
    from collabedit.attacks.registry import discover
    from collabedit.audit.recorded.attacking import Source
    from collabedit.audit.recorded.report import RecordedFolder
    from collabedit.audit.recorded.running import RecordedAudit, chosen_entries, make_jobs
    from collabedit.audit.recorded.sessions import open_sessions
    from collabedit.audit.recorded.truth import draw_known, read_brought
    from collabedit.cli.audit import write_report
    from collabedit.experiments.deal import load_pool
    from collabedit.experiments.schema import DataSource

    entries = chosen_entries(*discover(), only or ())
    chosen = _prior(prior)
    source = Source(
        recordings=tuple(path.resolve() for path in recordings),
        model=model.resolve(),
        previous=tuple(path.resolve() for path in previous or ()),
        covariance=None if covariance is None else covariance.resolve(),
        device=device,
    )
    with open_sessions(recordings) as sessions:
        session = sessions[0]
        brought = read_brought(session.plan, edits, past or ())
        pool = load_pool(DataSource(), beside=Path(), given=data)
        known = draw_known(session, brought, pool, candidates=candidates, seed=seed)
        # Refuse another model or covariance here, in one line, and not in every worker.
        source.load()
        source.maps()
        audit = RecordedAudit(sessions, source, known, chosen, seed, cache)
        jobs = make_jobs(audit, entries)
        folder = RecordedFolder(out or Path("out/audit") / f"{session.plan.name}-recorded")
        counted = sum(len(own) for party, own in brought.edits.items() if party in session.summed)
        folder.begin(audit, jobs, entries, edits=counted)
    run_grid(
        list(jobs.attacks.values()),
        folder.store,
        preparations=jobs.preparations,
        cluster=chosen_cluster(workers, threads, scheduler),
        title="attacks",
        place=folder.directory,
    )
    write_report(folder.directory).raise_if_failed()


def _prior(text: str) -> "PriorName":
    if text == "exact":
        return "exact"
    if text == "generic":
        return "generic"
    raise InputError(f"--prior {text}: must be exact or generic")
