"""`collabedit audit`: attacks on defences from a file, and the report that comes of it."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from collabedit.cli import audit_recorded
from collabedit.cli.console import say
from collabedit.cli.gridding import (
    CACHE,
    CacheOption,
    DataOption,
    ModelOption,
    SchedulerOption,
    ThreadsOption,
    WorkersOption,
    chosen_cluster,
    run_grid,
)
from collabedit.errors import AcceptanceError, InputError

if TYPE_CHECKING:
    from collabedit.attacks.registry import Entry
    from collabedit.audit.report import MadeReport
    from collabedit.audit.results import AuditReport
    from collabedit.audit.schema import Audit, Cell

app = typer.Typer(
    help="Attack sessions under several defences, and report what leaks.", no_args_is_help=True
)
app.command("recorded")(audit_recorded.run)

_Folder = Annotated[Path, typer.Argument(help="Folder of results of `audit run`.")]


@app.command("list")
def show_attacks() -> None:
    """List the attacks that are installed, also those of other packages.

    Exits with 2 if one cannot be used; the others are listed.
    """
    from collabedit.attacks.registry import discover

    found, faults = discover()
    table = Table("attack", "adversary", "question", "package")
    for entry in found.values():
        table.add_row(entry.name, entry.adversary.value, entry.asks, entry.package)
    _console().print(table)
    if faults:
        raise InputError("; ".join(faults.values()))


@app.command("run")
def run(
    config: Annotated[Path, typer.Option(help="Audit file (docs/audit.md).")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of results; default: out/audit/NAME.")
    ] = None,
    data: DataOption = None,
    model: ModelOption = None,
    cache: CacheOption = CACHE,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    scheduler: SchedulerOption = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this attack only; repeatable.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda ...; spread: over all GPUs.")
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List cells; load and run nothing.")
    ] = False,
) -> None:
    """Run what has no result yet, then write report.json and report.html.

    Exits with 10 if a cell failed; the others are kept and reported.
    """
    from collabedit.attacks.registry import discover
    from collabedit.audit.folder import AuditFolder
    from collabedit.audit.pool import draw_candidates
    from collabedit.audit.recorded.report import is_recorded
    from collabedit.audit.running import make_jobs
    from collabedit.audit.schema import load_audit
    from collabedit.experiments.cache import find_model
    from collabedit.experiments.deal import load_pool
    from collabedit.experiments.schema import Measures
    from collabedit.experiments.shared import bench_for

    audit, (known, faults) = load_audit(config), discover()
    for name, fault in faults.items():
        if audit.asks_for(name):
            raise InputError(fault)
    cells = audit.cells(known, only=frozenset(only) if only else None)
    if dry_run:
        _show_cells(audit, cells, known)
        return
    pool = load_pool(audit.data, beside=config, given=data)
    candidates = draw_candidates(pool, audit.pool)
    directory = find_model(audit.model, beside=config, given=model, cache=cache, report=say)
    bench = bench_for(
        audit.model,
        audit.covariance,
        Measures(perplexity=False),
        beside=config,
        model=directory,
        cache=cache,
        device=device,
    )
    jobs = make_jobs(audit, cells, candidates, bench, known, beside=config)
    folder = AuditFolder(out or Path("out/audit") / audit.name)
    if is_recorded(folder.directory):
        raise InputError(f"{folder.directory}: holds an audit of recordings; choose another")
    folder.begin(config, jobs, known, data=pool.name)
    began = time.monotonic()
    run_grid(
        jobs.jobs,
        folder.store,
        preparations=jobs.preparations,
        cluster=chosen_cluster(workers, threads, scheduler),
        title="cells",
        place=folder.directory,
    )
    say(f"{time.monotonic() - began:.0f} s")
    write_report(folder.directory).raise_if_failed()


@app.command("report")
def report(folder: _Folder) -> None:
    """Make the report again from stored results.

    Exits as `run` does, with 10 for a cell without a result.
    """
    write_report(folder).raise_if_failed()


@app.command("check")
def check(
    folder: _Folder,
    maximum: Annotated[
        list[str] | None,
        typer.Option(
            "--max",
            help="Largest value of a metric for an adversary on deployed defences, as "
            "recall@n:honest-aggregator=0.1; repeatable. Goes before the file's [limits].",
        ),
    ] = None,
) -> None:
    """Hold a report against bounds: those of its file's [limits], and --max.

    Exits with 7 if a bound does not hold or nothing measures it, with 10 if a cell has no result.
    """
    from collabedit.audit.folder import AuditFolder
    from collabedit.audit.recorded.report import is_recorded
    from collabedit.audit.verdicts import missed_limits

    # An audit of recordings has no file.
    written = {} if is_recorded(folder) else AuditFolder(folder).audit().limits
    limits = written | dict(_parse_limit(text) for text in maximum or ())
    if not limits:
        raise InputError(f"{folder}: no bounds: give --max, or write [limits] into the audit file")
    made = write_report(folder)
    made.raise_if_failed()
    found: AuditReport = made.report
    missed = missed_limits(found.rows, found.attacks, found.defences, limits)
    if missed:
        raise AcceptanceError(f"bounds of the audit do not hold: {'; '.join(missed)}")
    say(f"{len(limits)} bounds hold")


def _parse_limit(text: str) -> tuple[str, float]:
    from collabedit.audit.schema import parse_limit_name

    name, separator, bound = text.rpartition("=")
    try:
        parse_limit_name(name)
        value = float(bound)
    except ValueError as error:
        raise InputError(f"--max {text}: write METRIC:ADVERSARY=BOUND ({error})") from error
    if not separator or value != value:  # noqa: PLR0124  # NaN is unequal to itself
        raise InputError(f"--max {text}: write METRIC:ADVERSARY=BOUND")
    return name, value


def write_report(directory: Path) -> "MadeReport":
    """Write the report of a folder as JSON and as a page, and print the verdicts.

    Raises:
        InputError: the folder holds no audit, or one of its files is damaged.
    """
    from collabedit.audit.folder import AuditFolder
    from collabedit.audit.page import write_page
    from collabedit.audit.recorded.report import (
        RecordedFolder,
        is_recorded,
        make_recorded_report,
    )
    from collabedit.audit.report import make_report

    folder = AuditFolder(directory)
    if is_recorded(directory):
        made = make_recorded_report(RecordedFolder(directory))
    else:
        made = make_report(folder)
    say(f"wrote {folder.report}")
    write_page(made.report, folder.page)
    say(f"wrote {folder.page}")
    for verdict in made.report.verdicts:
        typer.echo(f"{verdict.adversary}: {verdict.severity}: {verdict.text}")
    return made


def _show_cells(audit: "Audit", cells: "tuple[Cell, ...]", known: "dict[str, Entry]") -> None:
    from collabedit.audit.running import split_cells

    run, left_out = split_cells(cells, known)
    table = Table("attack", "defence", "parties", "edits", "seeds", title_justify="left")
    table.title = f"{audit.title}: {len(run)} cells"
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for cell in run:
        setting = cell.setting
        key = (cell.attack, str(setting.defence), str(setting.parties), str(setting.edits))
        rows.setdefault(key, []).append(str(setting.seed))
    for key, seeds in rows.items():
        table.add_row(*key, ",".join(seeds))
    _console().print(table)
    reasons = dict.fromkeys((cell.attack, cell.setting.defence, why) for cell, why in left_out)
    for attack, defence, why in reasons:
        typer.echo(f"left out: {attack} on {defence}: {why}")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 200)
