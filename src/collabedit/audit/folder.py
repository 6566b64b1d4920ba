"""The folder of an audit: a copy of the file, which cells it has, and their results.

`audit.toml` is the file as it was run, `run.json` lists its cells in order with their ids, and
`cells/` holds one result each. The report is made from these alone.
"""

from dataclasses import dataclass
from pathlib import Path

from collabedit.attacks.registry import Entry
from collabedit.audit.results import AttackCard
from collabedit.audit.running import AuditJobs
from collabedit.audit.schema import Audit, Cell, Setting, load_audit
from collabedit.durable import replace_file
from collabedit.errors import InputError
from collabedit.grid import Record, ResultStore
from collabedit.section import Section

_AUDIT = "audit.toml"
_RUN = "run.json"


class AttackEntry(Section):
    """A cell and the id of its result."""

    id: str
    cell: Cell


class UtilityEntry(Section):
    """A session whose effect was measured, and the id of the result."""

    id: str
    setting: Setting


class LeftOut(Section):
    """A cell without a view, and why it has none."""

    cell: Cell
    reason: str


class Run(Section):
    """`run.json`.

    Attributes:
        data: where edits were from, for people.
        digests: of the report.
        cards: of all attacks that the file names.
        attacks, utility: with results.
        left_out: without a view.
    """

    data: str
    digests: dict[str, str]
    cards: tuple[AttackCard, ...]
    attacks: tuple[AttackEntry, ...]
    utility: tuple[UtilityEntry, ...]
    left_out: tuple[LeftOut, ...]


def card_of(entry: Entry) -> AttackCard:
    """Describe an attack for the report."""
    return AttackCard(
        name=entry.name,
        asks=entry.asks,
        adversary=entry.adversary.value,
        source=entry.source,
        departs=entry.departs,
        headline=entry.headline,
        package=entry.package,
    )


@dataclass(frozen=True, slots=True)
class AuditFolder:
    """A folder of results."""

    directory: Path

    @property
    def store(self) -> ResultStore:
        """The results of cells."""
        return ResultStore(self.directory / "cells")

    @property
    def report(self) -> Path:
        """The report as JSON."""
        return self.directory / "report.json"

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.directory / "report.html"

    def begin(self, source: Path, jobs: AuditJobs, known: dict[str, Entry], *, data: str) -> None:
        """Write down what is about to run.

        Args:
            source: the audit file.
            jobs: of this run.
            known: attacks that are installed.
            data: where the edits are from.

        Raises:
            InputError: the folder is another audit's.
        """
        kept = self.directory / _AUDIT
        if kept.exists():
            earlier, now = load_audit(kept).name, load_audit(source).name
            if earlier != now:
                raise InputError(f"{self.directory}: holds audit {earlier}; choose another")
        self.directory.mkdir(parents=True, exist_ok=True)
        named = dict.fromkeys(
            [*(cell.attack for cell in jobs.cells), *(cell.attack for cell, _ in jobs.left_out)]
        )
        run = Run(
            data=data,
            digests=dict(jobs.digests),
            cards=tuple(card_of(known[name]) for name in named),
            attacks=tuple(
                AttackEntry(id=job.id, cell=cell)
                for cell, job in zip(jobs.cells, jobs.attacks, strict=True)
            ),
            utility=tuple(
                UtilityEntry(id=job.id, setting=setting)
                for setting, job in zip(jobs.settings, jobs.utility, strict=True)
            ),
            left_out=tuple(LeftOut(cell=cell, reason=why) for cell, why in jobs.left_out),
        )
        replace_file(kept, source.read_bytes(), private=False)
        text = f"{run.model_dump_json(indent=1)}\n"
        replace_file(self.directory / _RUN, text.encode(), private=False)

    def audit(self) -> Audit:
        """Read the audit as it was run.

        Raises:
            InputError: the folder holds none.
        """
        return load_audit(self.directory / _AUDIT)

    def run(self) -> Run:
        """Read what was run.

        Raises:
            InputError: the folder holds no run.
        """
        path = self.directory / _RUN
        try:
            return Run.model_validate_json(path.read_text(encoding="utf-8"), strict=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read; is this the folder of an audit?") from error

    def result(self, name: str) -> Record | None:
        """Read a result; None if it was not run yet.

        Raises:
            InputError: the file is damaged.
        """
        return self.store.load(name)
