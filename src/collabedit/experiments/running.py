"""From an experiment file to a folder of results: jobs for the grid, in the right order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collabedit.experiments.cache import directory_digest
from collabedit.experiments.cell import (
    Bench,
    CellTask,
    TargetTask,
    prepare_covariance,
    prepare_targets,
    run_cell,
)
from collabedit.experiments.deal import Deal, Pool, deal
from collabedit.experiments.schema import Cell, EditorSettings, Experiment
from collabedit.grid import Fields, Job, job_id
from collabedit.party.edits import Edit, edits_digest

RESULTS_VERSION = 1
"""Raised when the meaning of a stored number changes, so that no cell mixes both."""

TARGETS_PER_JOB = 8
"""As many edits as the target search takes at a time."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a run consists of."""

    cells: tuple[Job, ...]
    preparations: tuple[Job, ...]


@dataclass(slots=True)
class _Chunks:
    """Edits of one editor's target search, cut into jobs as cells ask for them."""

    covariance: str
    of_edit: dict[Edit, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)


def make_jobs(
    experiment: Experiment, cells: Sequence[Cell], pool: Pool, bench: Bench
) -> Jobs:
    """Make the jobs of cells, and those of the pieces that they share.

    Args:
        experiment: the file.
        cells: of it.
        pool: what edits are drawn from.
        bench: where workers find model and cache.

    Raises:
        InputError: the pool is too small for a cell.
    """
    chunks: dict[str, _Chunks] = {}
    preparations: list[Job] = []
    made = []
    for cell in cells:
        dealt = deal(pool, cell)
        identity = cell_identity(experiment, cell, dealt, model=bench.model_digest)
        after: tuple[str, ...] = ()
        if cell.method != "unedited":
            key = job_id(_editor_identity(cell.editor, bench))
            if key not in chunks:
                chunks[key] = _Chunks(key)
                preparations.append(_covariance_job(key, cell, bench))
            # Later rounds' targets depend on the edited model, so they are the cell's own.
            after = _ask_for(chunks[key], dealt.rounds[0].held, cell, bench)
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


def cell_identity(experiment: Experiment, cell: Cell, dealt: Deal, *, model: str) -> Fields:
    """State all that determines a cell's result, by content: nothing in it is private.

    Names of files are not part of it, nor is the rest of the experiment file.
    """
    covariance = experiment.covariance
    return {
        "version": RESULTS_VERSION,
        "cell": cell.model_dump(mode="json", exclude_none=True, exclude={"editor": {"label"}}),
        "model": {"digest": model, "dtype": experiment.model.dtype},
        "edits": dealt.digest(),
        "covariance": None if covariance is None else covariance.model_dump(mode="json"),
        "measures": experiment.measures.model_dump(mode="json"),
    }


def _editor_identity(editor: EditorSettings, bench: Bench) -> Mapping[str, object]:
    values = editor.model_dump(mode="json", exclude={"label"})
    return {"prepare": values, "model": bench.model_digest}


def _covariance_job(key: str, cell: Cell, bench: Bench) -> Job:
    return Job(
        id=key,
        label=f"covariance for {cell.editor.title}",
        identity={},
        work=prepare_covariance,
        given=TargetTask(bench, cell, ()),
    )


def _ask_for(chunks: _Chunks, edits: Sequence[Edit], cell: Cell, bench: Bench) -> tuple[str, ...]:
    """Return the jobs that have the targets of `edits`, adding some for those nobody asked for."""
    new = [edit for edit in edits if edit not in chunks.of_edit]
    for start in range(0, len(new), TARGETS_PER_JOB):
        part = tuple(new[start : start + TARGETS_PER_JOB])
        name = f"{chunks.covariance}-targets-{edits_digest(part)}"
        chunks.of_edit |= dict.fromkeys(part, name)
        chunks.jobs.append(
            Job(
                id=name,
                label=f"targets {len(chunks.jobs) + 1} for {cell.editor.title}",
                identity={},
                work=prepare_targets,
                given=TargetTask(bench, cell, part),
                after=(chunks.covariance,),
            )
        )
    return tuple(dict.fromkeys([chunks.covariance, *(chunks.of_edit[edit] for edit in edits)]))


def bench_for(
    experiment: Experiment, *, model: Path, cache: Path, device: str, digest: str | None = None
) -> Bench:
    """Describe to workers where everything is.

    Raises:
        InputError: the directory holds no checkpoint.
    """
    return Bench(
        model=model.resolve(),
        dtype=experiment.model.dtype,
        device=device,
        model_digest=digest or directory_digest(model),
        cache=(cache / "experiments").resolve(),
        covariance=experiment.covariance,
        measures=experiment.measures,
    )
