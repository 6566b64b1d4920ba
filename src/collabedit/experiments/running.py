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
from collabedit.experiments.schema import Cell, CovarianceSource, EditorSettings, Experiment
from collabedit.grid import Fields, Job, job_id
from collabedit.party.editing.corpus import PYTHON_DOCS, read_source
from collabedit.party.editing.gathering import SELF_SAMPLES
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
    chunks: dict[str, _Chunks] = {}
    preparations: list[Job] = []
    made = []
    for cell in cells:
        dealt = deal(pool, cell)
        identity = cell_identity(cell, dealt, bench, text)
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


def covariance_text(source: CovarianceSource) -> Fields:
    """Describe the text of a covariance by its content.

    Raises:
        InputError: there is none.
    """
    values = source.model_dump(mode="json")
    # `read_source` gives the name without folders and the digest of the text.
    return values if source.source == SELF_SAMPLES else values | read_source(source.source)[1]


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
    experiment: Experiment, *, beside: Path, model: Path, cache: Path, device: str
) -> Bench:
    """Describe to workers where everything is.

    Args:
        experiment: the file's content.
        beside: the file; a text in it is relative to its folder.
        model: directory of the checkpoint.
        cache: where shared pieces go.
        device: as `load_model` takes it.

    Raises:
        InputError: the directory holds no checkpoint.
    """
    covariance = experiment.covariance
    if covariance is not None and covariance.source not in {SELF_SAMPLES, PYTHON_DOCS}:
        found = (beside.parent / covariance.source).resolve()
        covariance = covariance.model_copy(update={"source": str(found)})
    return Bench(
        model=model.resolve(),
        dtype=experiment.model.dtype,
        device=device,
        model_digest=directory_digest(model),
        cache=(cache / "experiments").resolve(),
        covariance=covariance,
        measures=experiment.measures,
    )
