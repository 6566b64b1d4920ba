"""From an experiment file to a folder of results: jobs for the grid, in the right order."""

from collections.abc import Sequence
from dataclasses import dataclass

from collabedit.experiments.cell import Bench, CellTask, run_cell
from collabedit.experiments.deal import Deal, Pool, deal
from collabedit.experiments.schema import Cell
from collabedit.experiments.shared import TargetJobs, covariance_job, covariance_text
from collabedit.grid import Fields, Job, job_id

RESULTS_VERSION = 1
"""Raised when the meaning of a stored number changes, so that no cell mixes both."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a run consists of."""

    cells: tuple[Job, ...]
    preparations: tuple[Job, ...]


def make_jobs(cells: Sequence[Cell], pool: Pool, bench: Bench) -> Jobs:
    """Make the jobs of cells, and those of the pieces that they share.

    Args:
        cells: of an experiment.
        pool: what edits are drawn from.
        bench: where workers find model and cache.

    Raises:
        InputError: the pool is too small for a cell, or the covariance has no text.
    """
    text = None if bench.covariance is None else covariance_text(bench.covariance)
    chunks: dict[str, TargetJobs] = {}
    preparations: list[Job] = []
    made = []
    for cell in cells:
        dealt = deal(pool, cell)
        identity = cell_identity(cell, dealt, bench, text)
        after: tuple[str, ...] = ()
        if cell.method != "unedited":
            covariance = covariance_job(cell, bench)
            if covariance.id not in chunks:
                chunks[covariance.id] = TargetJobs(covariance.id)
                preparations.append(covariance)
            # Later rounds' targets depend on the edited model, so they are the cell's own.
            after = chunks[covariance.id].ask_for(dealt.rounds[0].held, cell, bench)
        made.append(
            Job(
                id=job_id(identity),
                label=cell.label,
                identity=identity,
                work=run_cell,
                given=CellTask(bench, cell, dealt),
                after=after,
            )
        )
    for each in chunks.values():
        preparations += each.jobs
    return Jobs(tuple(made), tuple(preparations))


def cell_identity(cell: Cell, dealt: Deal, bench: Bench, text: Fields | None) -> Fields:
    """State all that determines a cell's result, by content: nothing in it is private.

    Names of files are not part of it, nor is the rest of the experiment file.

    Args:
        cell: the cell.
        dealt: its edits.
        bench: model and measures.
        text: what the covariance is made from (`covariance_text`).
    """
    return {
        "version": RESULTS_VERSION,
        "cell": cell.model_dump(mode="json", exclude_none=True, exclude={"editor": {"label"}}),
        "model": {"digest": bench.model_digest, "dtype": bench.dtype},
        "edits": dealt.digest(),
        "covariance": text,
        "measures": bench.measures.model_dump(mode="json"),
    }
