"""Pieces that cells share, as jobs of their own: second moments, and targets of single edits.

Experiments and audits run the same jobs into the same cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collabedit.experiments.cache import directory_digest
from collabedit.experiments.cell import Bench, TargetTask, prepare_covariance, prepare_targets
from collabedit.experiments.schema import (
    Cell,
    CovarianceSource,
    EditorSettings,
    Measures,
    ModelSource,
)
from collabedit.grid import Fields, Job, job_id
from collabedit.party.editing.corpus import PYTHON_DOCS, read_source
from collabedit.party.editing.gathering import SELF_SAMPLES
from collabedit.party.edits import Edit, edits_digest

TARGETS_PER_JOB = 8
"""As many edits as the target search takes at a time."""


@dataclass(slots=True)
class TargetJobs:
    """Edits of one editor's target search, cut into jobs as cells ask for them.

    Attributes:
        covariance: id of the job behind which all of them come.
        of_edit: id of an edit's job.
        jobs: in the order in which they were asked for.
    """

    covariance: str
    of_edit: dict[Edit, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)

    def ask_for(self, edits: Sequence[Edit], cell: Cell, bench: Bench) -> tuple[str, ...]:
        """Return the jobs that have the targets of `edits`, adding some for new ones."""
        new = [edit for edit in edits if edit not in self.of_edit]
        for start in range(0, len(new), TARGETS_PER_JOB):
            part = tuple(new[start : start + TARGETS_PER_JOB])
            name = f"{self.covariance}-targets-{edits_digest(part)}"
            self.of_edit |= dict.fromkeys(part, name)
            self.jobs.append(
                Job(
                    id=name,
                    label=f"targets {len(self.jobs) + 1} for {cell.editor.title}",
                    identity={},
                    work=prepare_targets,
                    given=TargetTask(bench, cell, part),
                    after=(self.covariance,),
                )
            )
        return tuple(dict.fromkeys([self.covariance, *(self.of_edit[edit] for edit in edits)]))


def covariance_job(cell: Cell, bench: Bench) -> Job:
    """Make the job of an editor's second moments."""
    return Job(
        id=job_id(_editor_identity(cell.editor, bench)),
        label=f"covariance for {cell.editor.title}",
        identity={},
        work=prepare_covariance,
        given=TargetTask(bench, cell, ()),
    )


def _editor_identity(editor: EditorSettings, bench: Bench) -> Mapping[str, object]:
    values = editor.model_dump(mode="json", exclude={"label"})
    return {"prepare": values, "model": bench.model_digest}


def covariance_text(source: CovarianceSource) -> Fields:
    """Describe the text of a covariance by its content.

    Raises:
        InputError: there is none.
    """
    values = source.model_dump(mode="json")
    # `read_source` gives the name without folders and the digest of the text.
    return values if source.source == SELF_SAMPLES else values | read_source(source.source)[1]


def bench_for(
    source: ModelSource,
    covariance: CovarianceSource | None,
    measures: Measures,
    *,
    beside: Path,
    model: Path,
    cache: Path,
    device: str,
) -> Bench:
    """Describe to workers where everything is.

    Args:
        source: of the model, as the file says.
        covariance: of the file.
        measures: what cells measure.
        beside: the file; a text in it is relative to its folder.
        model: directory of the checkpoint.
        cache: where shared pieces go.
        device: as `load_model` takes it.

    Raises:
        InputError: the directory holds no checkpoint.
    """
    return Bench(
        model=model.resolve(),
        dtype=source.dtype,
        device=device,
        model_digest=directory_digest(model),
        cache=(cache / "experiments").resolve(),
        covariance=None if covariance is None else found_beside(covariance, beside),
        measures=measures,
    )


def found_beside(source: CovarianceSource, beside: Path) -> CovarianceSource:
    """Return a covariance whose text, if it is a file, is named from anywhere."""
    if source.source in {SELF_SAMPLES, PYTHON_DOCS}:
        return source
    return source.model_copy(update={"source": str((beside.parent / source.source).resolve())})
