"""What commands that run a grid of jobs share: options, where it runs, and how it shows."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from collabedit.cli.console import say, terminal

if TYPE_CHECKING:
    from collabedit.grid import Cluster, Event, Failure, Job, Report, ResultStore

CACHE = Path(".cache/collabedit")

DataOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="Edits file in CounterFact's, the flat or zsRE's form.")
]
ModelOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="Model directory, instead of the file's.")
]
CacheOption: TypeAlias = Annotated[
    Path, typer.Option(help="Directory for models, covariances and targets.")
]
WorkersOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Processes; default: one for each core.")
]
ThreadsOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Of each process; default: the cores shared out.")
]
SchedulerOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler, as tcp://host:8786.")
]


def chosen_cluster(workers: int | None, threads: int | None, scheduler: str | None) -> "Cluster":
    """Share the cores out among processes, or take a scheduler's."""
    from collabedit.grid import Cluster

    cores = os.cpu_count() or 1
    count = workers or cores
    return Cluster(count, threads or max(1, cores // count), scheduler)


def run_grid(
    jobs: "Sequence[Job]",
    store: "ResultStore",
    *,
    preparations: "Sequence[Job]",
    cluster: "Cluster",
    title: str,
    place: Path,
) -> None:
    """Run the jobs of a grid that have no result yet, with what they need, and show it.

    Args:
        jobs: all of the grid.
        store: of their results.
        preparations: shared pieces; those that no pending job needs are not shown.
        cluster: where they run.
        title: what jobs are called.
        place: folder of the results, for people.
    """
    from collabedit.grid import run_jobs

    pending = [job for job in jobs if not store.finished(job.id)]
    say(f"{len(jobs)} {title}, {len(pending)} to run; results in {place}")
    needed = {name for job in pending for name in job.after}
    shared = sum(job.id in needed for job in preparations)
    with grid_progress(len(pending), shared, title=title) as report:
        run_jobs(jobs, store, cluster=cluster, preparations=preparations, report=report)


@contextmanager
def grid_progress(jobs: int, preparations: int, *, title: str) -> Iterator["Report"]:
    """Show two bars on a terminal; without one, a line for each job that ended.

    Args:
        jobs: how many are to run.
        preparations: how many of these.
        title: what jobs are called.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=terminal,
        disable=not terminal.is_terminal,
    ) as bars:
        shared = bars.add_task("shared pieces", total=preparations)
        own = bars.add_task(title, total=jobs)

        def report(event: "Event", label: str, failure: "Failure | None") -> None:
            bars.advance(shared if event == "prepared" else own)
            if failure is not None:
                say(f"failed: {label}: {failure.kind}: {failure.message}")
            elif not terminal.is_terminal:
                say(f"{event}: {label}")

        yield report
