"""From an audit file to jobs for the grid: shared pieces, sessions, attacks, utility (ADR 0022)."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collabedit import __version__
from collabedit.attacks.registry import Entry
from collabedit.audit.attacking import AttackTask, KeysTask, attack_session, prepare_keys
from collabedit.audit.defences import DEFENCES
from collabedit.audit.keeping import LAYOUT, save_session
from collabedit.audit.pool import Candidates
from collabedit.audit.schema import Audit, Scope, Setting
from collabedit.audit.schema import Cell as AuditCell
from collabedit.audit.sessions import Maker, SessionTask, run_session
from collabedit.audit.utility import UtilityTask, measure_utility
from collabedit.audit.views import kind_of, lacking
from collabedit.experiments.cell import Bench
from collabedit.experiments.schema import Cell
from collabedit.experiments.shared import TargetJobs, covariance_job, covariance_text, found_beside
from collabedit.grid import Fields, Job, job_id

RESULTS_VERSION = 4
"""Raised when the meaning of a stored number or session changes, so that none mixes both."""


@dataclass(frozen=True, slots=True)
class AuditJobs:
    """What an audit consists of.

    Attributes:
        cells: of `attacks`, in order.
        attacks: a job for each cell that has a view.
        settings: of `utility`, in order.
        utility: a job for each session whose edits' effect is measured.
        preparations: shared pieces and sessions.
        left_out: attack, setting and reason of each cell without a view.
        digests: for the report.
    """

    cells: tuple[AuditCell, ...]
    attacks: tuple[Job, ...]
    settings: tuple[Setting, ...]
    utility: tuple[Job, ...]
    preparations: tuple[Job, ...]
    left_out: tuple[tuple[AuditCell, str], ...]
    digests: Mapping[str, str]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All that leave a result."""
        return (*self.attacks, *self.utility)


@dataclass(frozen=True, slots=True)
class KeepTask:
    """A session that is to be in the cache."""

    session: SessionTask
    path: Path


def prepare_session(task: KeepTask) -> Fields:
    """Run a session and keep it, if it isn't there."""
    if not task.path.exists():
        save_session(task.path, run_session(task.session))
    return {}


def split_cells(
    cells: Sequence[AuditCell], known: Mapping[str, Entry]
) -> tuple[list[AuditCell], list[tuple[AuditCell, str]]]:
    """Part the cells that have a view from those that have none, which come with a reason."""
    run, left_out = [], []
    for cell in cells:
        why = lacking(known[cell.attack].view, cell.setting)
        if why is None:
            run.append(cell)
        else:
            left_out.append((cell, why))
    return run, left_out


def make_jobs(
    audit: Audit,
    cells: Sequence[AuditCell],
    candidates: Candidates,
    bench: Bench,
    known: Mapping[str, Entry],
    *,
    beside: Path,
) -> AuditJobs:
    """Make the jobs of an audit.

    Args:
        audit: the file's content.
        cells: of it, also those without a view.
        candidates: whom adversaries choose among.
        bench: where workers find model and cache.
        known: attacks that are installed.
        beside: the file; texts in it are relative to its folder.

    Raises:
        InputError: a covariance has no text.
    """
    run, left_out = split_cells(cells, known)
    planner = _Planner(audit, candidates, bench, beside)
    attacks = [planner.attack(cell, known[cell.attack]) for cell in run]
    settings = _measured(audit, [cell.setting for cell in run])
    utility = [planner.utility(setting) for setting in settings]
    return AuditJobs(
        cells=tuple(run),
        attacks=tuple(attacks),
        settings=tuple(settings),
        utility=tuple(utility),
        preparations=planner.preparations(),
        left_out=tuple(left_out),
        digests=planner.digests(),
    )


def _measured(audit: Audit, settings: Sequence[Setting]) -> list[Setting]:
    """Choose the sessions whose effect is measured: whole ones, of the first seeds of each grid."""
    if not audit.utility.measure:
        return []
    whole: dict[Setting, None] = {}
    seeds: dict[tuple[str, int, int], list[int]] = {}
    wanted = audit.utility.defences
    for setting in settings:
        if wanted is not None and setting.defence not in wanted:
            continue
        taken = seeds.setdefault((setting.defence, setting.parties, setting.edits), [])
        if setting.seed not in taken and len(taken) < audit.utility.seeds:
            taken.append(setting.seed)
            whole.setdefault(setting.model_copy(update={"scope": "all"}))
    return list(whole)


@dataclass(slots=True)
class _Planner:
    """Makes jobs, each shared one once."""

    audit: Audit
    candidates: Candidates
    bench: Bench
    beside: Path
    _shared: dict[str, Job] = field(default_factory=dict)
    _targets: TargetJobs = field(init=False)
    _base: Fields = field(init=False)
    _cell: Cell = field(init=False)

    def __post_init__(self) -> None:
        # Who takes part does not touch second moments and targets.
        self._cell = Cell(
            method="collabedit-sequential",
            editor=self.audit.editor,
            parties=3,
            edits_per_party=1,
            rounds=1,
            overlap=0.0,
            conflict=0.0,
            policy="none",
            memory=0.0,
            seed=0,
        )
        covariance = covariance_job(self._cell, self.bench)
        self._shared[covariance.id] = covariance
        self._targets = TargetJobs(covariance.id)
        text = self.bench.covariance
        self._base = {
            "version": RESULTS_VERSION,
            "package": __version__,
            "model": {"digest": self.bench.model_digest, "dtype": self.bench.dtype},
            "covariance": None if text is None else covariance_text(text),
            "editor": self.audit.editor.model_dump(mode="json", exclude={"label"}),
        }

    def preparations(self) -> tuple[Job, ...]:
        """All that were asked for, each behind what it needs."""
        covariance, *rest = self._shared.values()
        return (covariance, *self._targets.jobs, *rest)

    def digests(self) -> dict[str, str]:
        """Say what the report is about, by content."""
        without = {"model": {"directory"}, "data": {"path"}, "covariance": {"source"}}
        values = self.audit.model_dump(mode="json", exclude=without)
        return {
            "configuration": job_id(values),
            "model": self.bench.model_digest,
            "candidates": self.candidates.digest,
            "covariance": job_id(self._base["covariance"] or {}),
            "collabedit": __version__,
        }

    @property
    def _folder(self) -> Path:
        return self.bench.cache.parent / "audit"

    def _session(self, setting: Setting) -> tuple[SessionTask, Path, str]:
        """Return a session, where it is kept, and its id."""
        defence, dealt = DEFENCES[setting.defence], self.candidates.deal(setting)
        chosen = {number: self.candidates.edits[number] for own in dealt for number in own}
        others = [edit for number, edit in enumerate(self.candidates.edits) if number not in chosen]
        decoys = tuple(others) if defence.is_camouflaged else ()
        sizes = self.audit.defences.model_dump(mode="json")
        identity = {
            **self._base,
            "session": setting.model_dump(mode="json"),
            "sizes": sizes,
            "candidates": self.candidates.digest,
            "shares": [list(own) for own in dealt],
        }
        once = setting.model_copy(update={"again": False})
        name = job_id(identity)
        task = SessionTask(
            maker=Maker(self.bench, self.audit.editor, self.audit.defences),
            setting=setting,
            plan_id=job_id({**identity, "session": once.model_dump(mode="json")}),
            id=name,
            shares=dealt,
            edits=chosen,
            decoys=decoys,
        )
        return task, self._folder / "sessions" / f"{name}-{LAYOUT}.npz", name

    def _after_session(self, task: SessionTask, path: Path) -> tuple[str, ...]:
        """Return what must have run before a session is there, adding it."""
        if path.exists():
            return ()
        before = self._targets.ask_for(list(task.edits.values()), self._cell, self.bench)
        name = f"session-{task.id}"
        self._shared.setdefault(
            name,
            Job(
                id=name,
                label=f"session {task.setting.label}",
                identity={},
                work=prepare_session,
                given=KeepTask(task, path),
                after=before,
            ),
        )
        return (*before, name)

    def _keys(self, task: SessionTask, scope: Scope) -> tuple[KeysTask, str, tuple[str, ...]]:
        pool = self.audit.pool
        own = None if pool.reestimate is None else found_beside(pool.reestimate, self.beside)
        text = None if own is None else covariance_text(own)
        identity = {
            **self._base,
            "keys": self.candidates.digest,
            "prior": pool.prior,
            "scope": scope,
            "reestimate": text,
        }
        name = job_id(identity)
        path = self._folder / "keys" / f"{name}.npz"
        # Keys do not depend on the defence; the plan that carries templates is any without decoys.
        keys = KeysTask(task, self.candidates, pool.prior, scope, own, path)
        if path.exists():
            return keys, name, ()
        before = (self._targets.covariance,)
        job = f"keys-{name}"
        self._shared.setdefault(
            job,
            Job(
                id=job,
                label=f"keys of {len(self.candidates.edits)} candidates, {scope} layers",
                identity={},
                work=prepare_keys,
                given=keys,
                after=before,
            ),
        )
        return keys, name, (*before, job)

    def attack(self, cell: AuditCell, entry: Entry) -> Job:
        """Make the job of one attack on one session."""
        task, path, name = self._session(cell.setting)
        after = list(self._after_session(task, path))
        kind, again, repeated = kind_of(entry.view), None, None
        if kind is not None and kind.needs_again:
            other = cell.setting.model_copy(update={"again": True})
            second, place, repeated = self._session(other)
            again = (second, place)
            after += self._after_session(second, place)
        keys, known, behind = self._keys(task, cell.setting.scope)
        settings = self.audit.attacks.get(cell.attack, {})
        identity = {
            "version": RESULTS_VERSION,
            "attack": cell.attack,
            "code": code_digest(entry),
            "settings": settings,
            "session": name,
            "again": repeated,
            "keys": known,
        }
        return Job(
            id=job_id(identity),
            label=cell.label,
            identity=identity,
            work=attack_session,
            given=AttackTask(cell.attack, settings, task, path, again, keys),
            after=tuple(dict.fromkeys([*after, *behind])),
        )

    def utility(self, setting: Setting) -> Job:
        """Make the job that measures a session's edits."""
        task, path, name = self._session(setting)
        identity = {"version": RESULTS_VERSION, "utility": name}
        return Job(
            id=job_id(identity),
            label=f"utility of {setting.label}",
            identity=identity,
            work=measure_utility,
            given=UtilityTask(task, path),
            after=self._after_session(task, path),
        )


def code_digest(entry: Entry) -> str:
    """Digest an attack's module, so that who changes an attack does not see its old figures."""
    made: Any = entry.make
    try:
        source = inspect.getsource(inspect.getmodule(made) or made)
    except (OSError, TypeError):
        source = entry.package
    return hashlib.sha256(source.encode()).hexdigest()
