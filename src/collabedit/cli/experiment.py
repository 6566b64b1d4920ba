"""`collabedit experiment`: grids of cells from a file, and their tables and figures."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

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

app = typer.Typer(help="Reproduce tables and figures from a file.", no_args_is_help=True)


@app.command("run")
def run(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of results; default: out/experiments/NAME.")
    ] = None,
    data: DataOption = None,
    model: ModelOption = None,
    cache: CacheOption = CACHE,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    scheduler: SchedulerOption = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this method only; repeatable.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda ...; spread: over all GPUs.")
    ] = "auto",
) -> None:
    """Run what has no result yet, then make tables and figures.

    Exits with 7 if a bound of the file does not hold, with 10 if a cell failed.
    """
    from collabedit.experiments.cache import find_model
    from collabedit.experiments.deal import load_pool
    from collabedit.experiments.folder import RunFolder
    from collabedit.experiments.report import make_report
    from collabedit.experiments.running import make_jobs
    from collabedit.experiments.schema import load_experiment, parse_methods
    from collabedit.experiments.shared import bench_for

    experiment = load_experiment(file)
    cells = experiment.cells(only=parse_methods(only) if only else None)
    pool = load_pool(experiment.data, beside=file, given=data)
    directory = find_model(experiment.model, beside=file, given=model, cache=cache, report=say)
    bench = bench_for(
        experiment.model,
        experiment.covariance,
        experiment.measures,
        beside=file,
        model=directory,
        cache=cache,
        device=device,
    )
    jobs = make_jobs(cells, pool, bench)
    folder = RunFolder(out or Path("out/experiments") / experiment.name)
    folder.begin(file, cells, jobs.cells, data=pool.name)
    began = time.monotonic()
    run_grid(
        jobs.cells,
        folder.store,
        preparations=jobs.preparations,
        cluster=chosen_cluster(workers, threads, scheduler),
        title="cells",
        place=folder.directory,
    )
    made = make_report(folder)
    say(f"{time.monotonic() - began:.0f} s; wrote {folder.directory / 'report.md'}")
    made.raise_if_missed()


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    data: DataOption = None,
    model: ModelOption = None,
    cache: CacheOption = CACHE,
) -> None:
    """Read a file, list its cells and say how large they are; nothing is loaded or run.

    Sizes come from the checkpoint's `config.json`, or from [model.config] in the file.
    """
    from collabedit.experiments.deal import deal, load_pool
    from collabedit.experiments.estimate import check_cells
    from collabedit.experiments.schema import load_experiment

    experiment = load_experiment(file)
    beside = file.parent / experiment.model.directory if experiment.model.directory else None
    cells = check_cells(experiment, model or beside or cache / experiment.model.name)
    if data is not None or experiment.data.source == "facts" or experiment.data.path is not None:
        pool = load_pool(experiment.data, beside=file, given=data)
        for cell, _ in cells:
            deal(pool, cell)
    table = Table("cell", title=f"{experiment.title}: {len(cells)} cells", title_justify="left")
    for heading in ("layers", "targets", "upload", "S and T", "memory"):
        table.add_column(heading, justify="right")
    for cell, size in cells:
        table.add_row(
            cell.label,
            ",".join(map(str, size.layers)),
            str(size.targets),
            _bytes(size.upload),
            _bytes(size.dense) if size.upload else "-",
            _bytes(size.memory),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    weights, moments = cells[0][1].weights, max(size.covariance for _, size in cells)
    typer.echo(
        f"weights {_bytes(weights)} ({experiment.model.dtype}), covariance {_bytes(moments)}; "
        "upload: of a party in one round; memory: estimated peak of a worker"
    )


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results of `experiment run`.")],
) -> None:
    """Make tables and figures again from stored cells.

    Exits as `run` does, with 7 for a bound that does not hold and 10 for a cell without result.
    """
    from collabedit.experiments.folder import RunFolder
    from collabedit.experiments.report import make_report

    made = make_report(RunFolder(folder))
    say(f"wrote {folder / 'report.md'}")
    made.raise_if_missed()


def _bytes(count: int) -> str:
    """Render a number of bytes in three digits."""
    if not count:
        return "-"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"
