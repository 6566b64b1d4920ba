"""The folder of a run: a copy of the experiment, which cells it has, and their results.

`experiment.toml` is the file as it was run, `run.json` lists its cells in order with their ids, and
`cells/` holds one result each. Tables and figures are made from these three alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collabedit.errors import InputError
from collabedit.experiments.schema import Cell, Experiment, load_experiment
from collabedit.grid import Job, Record, ResultStore
from collabedit.section import Section

_EXPERIMENT = "experiment.toml"
_RUN = "run.json"


class _Entry(Section):
    id: str
    cell: Cell


class _Run(Section):
    """`run.json`."""

    data: str
    cells: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A cell and what became of it; None if it was not run yet."""

    cell: Cell
    id: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder of results."""

    directory: Path

    @property
    def store(self) -> ResultStore:
        """The results of cells."""
        return ResultStore(self.directory / "cells")

    def begin(self, source: Path, cells: Sequence[Cell], jobs: Sequence[Job], *, data: str) -> None:
        """Write down what is about to run.

        Args:
            source: the experiment file.
            cells: of this run.
            jobs: one for each.
            data: where the edits are from, for the report.

        Raises:
            InputError: the folder is another experiment's.
        """
        kept = self.directory / _EXPERIMENT
        if kept.exists():
            earlier, now = load_experiment(kept).name, load_experiment(source).name
            if earlier != now:
                raise InputError(f"{self.directory}: holds experiment {earlier}; choose another")
        self.directory.mkdir(parents=True, exist_ok=True)
        kept.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        listed = _Run(
            data=data,
            cells=tuple(
                _Entry(id=job.id, cell=cell) for cell, job in zip(cells, jobs, strict=True)
            ),
        )
        text = listed.model_dump_json(indent=1)
        (self.directory / _RUN).write_text(f"{text}\n", encoding="utf-8")

    def experiment(self) -> Experiment:
        """Read the experiment as it was run.

        Raises:
            InputError: the folder holds none.
        """
        return load_experiment(self.directory / _EXPERIMENT)

    def data(self) -> str:
        """Return where the edits were from."""
        return self._listed().data

    def finished(self) -> list[Finished]:
        """Read all cells of the last run with their results.

        Raises:
            InputError: the folder holds no run, or one of its files is damaged.
        """
        store = self.store
        return [
            Finished(entry.cell, entry.id, store.load(entry.id)) for entry in self._listed().cells
        ]

    def _listed(self) -> "_Run":
        path = self.directory / _RUN
        try:
            # JSON has no tuples, and writes a whole number without its point.
            return _Run.model_validate_json(path.read_text(encoding="utf-8"), strict=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read; is this the folder of a run?") from error
