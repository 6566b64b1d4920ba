"""The folder of an audit of recordings, and its report: the same `report.json` as of other audits.

`recorded.json` says what was run, `cells/` has a result of each attack; the report is made of
these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collabedit.attacks.registry import Entry
from collabedit.attacks.scoring import Score
from collabedit.audit.folder import AuditFolder, card_of
from collabedit.audit.recorded.defence import defence_of
from collabedit.audit.recorded.running import RecordedAudit, RecordedJobs
from collabedit.audit.report import MadeReport, failure_of, mean_curve, metric_of
from collabedit.audit.results import AttackCard, AuditReport, DefenceCard, Row
from collabedit.audit.schema import PriorName, SeveritySettings
from collabedit.audit.verdicts import severity, verdicts
from collabedit.durable import replace_file
from collabedit.errors import InputError
from collabedit.grid import Fields, Record, ResultStore
from collabedit.ids import PartyId
from collabedit.section import Section
from collabedit.threat_model import Adversary

_FILE = "recorded.json"
_OTHER_FILE = "run.json"


class Entered(Section):
    """An attack, and the id of its result; or why it has no view."""

    attack: str
    id: str | None = None
    reason: str | None = None


class RecordedRun(Section):
    """`recorded.json`.

    Attributes:
        plan: name of the recorded plan.
        subject: what was audited, for people.
        prior: what adversaries knew of candidates.
        parties: in the plan.
        edits: of files that were given, of parties in the sum.
        candidates: members included.
        data: where the others are from.
        unknown: parties in the sum whose edits nobody gave.
        notes: assumptions that follow from recordings and files.
        defence: of the plan.
        digests: of the report.
        cards: of all attacks that were asked for.
        entered: in their order.
    """

    plan: str
    subject: str
    prior: PriorName
    parties: int
    edits: int
    candidates: int
    data: str
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    defence: DefenceCard
    digests: dict[str, str]
    cards: tuple[AttackCard, ...]
    entered: tuple[Entered, ...]


def is_recorded(directory: Path) -> bool:
    """Whether a folder is of an audit of recordings."""
    return (directory / _FILE).exists()


@dataclass(frozen=True, slots=True)
class RecordedFolder:
    """A folder of results."""

    directory: Path

    @property
    def store(self) -> ResultStore:
        """The results of attacks."""
        return AuditFolder(self.directory).store

    def begin(
        self, audit: RecordedAudit, jobs: RecordedJobs, entries: Sequence[Entry], *, edits: int
    ) -> None:
        """Write down what is about to run.

        Args:
            audit: what is asked.
            jobs: of this run.
            entries: attacks that were asked for.
            edits: of the files, of parties in the sum.

        Raises:
            InputError: the folder is another audit's.
        """
        run = _run_of(audit, jobs, entries, edits=edits)
        if (self.directory / _OTHER_FILE).exists():
            raise InputError(f"{self.directory}: holds an audit of another kind; choose another")
        if is_recorded(self.directory) and self.run().digests["plan"] != run.digests["plan"]:
            raise InputError(
                f"{self.directory}: holds the audit of a recording of another plan; choose another"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        text = f"{run.model_dump_json(indent=1)}\n"
        replace_file(self.directory / _FILE, text.encode(), private=False)

    def run(self) -> RecordedRun:
        """Read what was run.

        Raises:
            InputError: the folder holds no such run.
        """
        path = self.directory / _FILE
        try:
            return RecordedRun.model_validate_json(path.read_text(encoding="utf-8"), strict=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read; is this the folder of an audit of recordings?"
            ) from error


def make_recorded_report(folder: RecordedFolder) -> MadeReport:
    """Write `report.json`.

    Raises:
        InputError: the folder holds no run, or one of its files is damaged.
        StorageError: the disk refuses.
    """
    run, settings = folder.run(), SeveritySettings()
    headlines = {card.name: card.headline for card in run.cards}
    rows: list[Row] = []
    failures: list[tuple[str, str]] = []
    unscored: list[Entered] = []
    for entered in run.entered:
        if entered.id is None:
            unscored.append(entered)
            continue
        record = folder.store.load(entered.id)
        why = failure_of(record)
        if why is not None:
            failures.append((f"{entered.attack} on the recorded session", why))
        result = None if record is None else record.result
        if result is not None and "unscored" in result:
            unscored.append(Entered(attack=entered.attack, reason=result["unscored"]))
            continue
        rows += _rows(run, entered.attack, headlines[entered.attack], record, settings)
    report = AuditReport(
        schema_version=2,
        name=run.plan,
        title=f"Recorded session of {run.plan}",
        subject=run.subject,
        verdicts=verdicts(rows, run.cards, (run.defence,), settings),
        attacks=run.cards,
        defences=(run.defence,),
        rows=tuple(rows),
        utility=(),
        assumptions=_assumptions(run, settings),
        not_tested=_not_tested(run, unscored),
        digests=run.digests,
        comparisons=sum(bool(row.metrics) and row.metrics[0].chance is not None for row in rows),
    )
    text = f"{report.model_dump_json(indent=1)}\n"
    replace_file(AuditFolder(folder.directory).report, text.encode(), private=False)
    return MadeReport(report, tuple(failures))


def _run_of(
    audit: RecordedAudit, jobs: RecordedJobs, entries: Sequence[Entry], *, edits: int
) -> RecordedRun:
    plan, known = audit.session.plan, audit.known
    origins = ", ".join(audit.session.origins)
    subject = (
        f"A session of plan {plan.name} on model {plan.model.name}, as recorded by {origins}; "
        f"members are from files of {_names(audit, [p for p, own in known.members.items() if own])}"
    )
    if audit.second is not None:
        subject += f"; a second session recorded by {', '.join(audit.second.origins)}"
    return RecordedRun(
        plan=plan.name,
        subject=f"{subject}.",
        prior=audit.prior,
        parties=len(plan.party_ids),
        edits=edits,
        candidates=len(known.candidates.edits),
        data=known.candidates.name,
        unknown=tuple(plan.party_name(party) for party in sorted(known.unknown)),
        notes=known.notes,
        defence=defence_of(plan),
        digests=audit.digests(),
        cards=tuple(card_of(entry) for entry in entries),
        entered=tuple(
            Entered(attack=entry.name, reason=jobs.left_out[entry.name])
            if entry.name in jobs.left_out
            else Entered(attack=entry.name, id=jobs.attacks[entry.name].id)
            for entry in entries
        ),
    )


def _names(audit: RecordedAudit, parties: Sequence[PartyId]) -> str:
    return ", ".join(audit.session.plan.party_name(party) for party in parties)


def _rows(
    run: RecordedRun,
    attack: str,
    headline: str,
    record: Record | None,
    settings: SeveritySettings,
) -> list[Row]:
    """Make a row of each view; one without figures of an attack that could not be run."""
    result = None if record is None else record.result
    why = failure_of(record) if result is None else result.get("refused")
    outputs = 0 if result is None else result["outputs"]
    nothing: Fields = {"label": "", "note": "", "scores": [], "curve": None, "details": []}
    views: list[Fields] = [nothing] if result is None or why is not None else result["seen"]
    rows = []
    for seen in views:
        scores = [Score(**values) for values in seen["scores"]]
        scores.sort(key=lambda each: each.name != headline)
        metrics = tuple(metric_of(each) for each in scores)
        said = [text for text in (seen["label"], seen["note"]) if text]
        rows.append(
            Row(
                attack=attack,
                defence=run.defence.name,
                parties=run.parties,
                edits=run.edits,
                saturation=run.edits / outputs if outputs else 0.0,
                prior=run.prior,
                draws=1 if metrics else 0,
                metrics=metrics,
                curve=mean_curve([] if seen["curve"] is None else [seen["curve"]]),
                severity=severity(metrics, settings),
                details=(*said, *seen["details"]),
                failures=() if why is None else (f"1 draw: {why}",),
            )
        )
    return rows


def _assumptions(run: RecordedRun, settings: SeveritySettings) -> tuple[str, ...]:
    known = {
        "exact": "the prompts of the candidates' records",
        "generic": "the candidates' subjects, and no prompts",
    }[run.prior]
    chosen = (
        f"Adversaries choose among {run.candidates} candidates: the parties' subjects, and others "
        f"of {run.data} that nobody edited. If these are of another kind than the parties' edits, "
        "an attack may tell kinds apart, and not edits."
    )
    public = (
        f"They have the public model as the session began on it, {known}, the plan with its "
        "templates, and its covariance."
    )
    one = (
        "A recording is one draw: intervals are about the edits of this session, not about others "
        "that the same federation will run."
    )
    layers = "Attacks on the first edited layer look at that layer of the recorded session."
    rule = (
        "A row leaks if its headline metric's 95 % interval is above chance, and is at chance if "
        f"the interval holds chance and ends at most {settings.margin:g} above it. Of forty rows "
        "at chance one is expected to seem to leak."
    )
    return (chosen, public, one, layers, *run.notes, rule)


def _not_tested(run: RecordedRun, without: Sequence[Entered]) -> tuple[str, ...]:
    """Say what was left out, grouped by reason."""
    together: dict[str, list[str]] = {}
    for each in without:
        together.setdefault(each.reason or "", []).append(each.attack)
    found = [f"{', '.join(attacks)}: {reason}." for reason, attacks in together.items()]
    if run.unknown:
        found.append(
            f"Questions about the edits of {', '.join(run.unknown)}, whose files were not given; "
            "numbers of edits in rows leave theirs out."
        )
    asked = {card.adversary for card in run.cards}
    found += [
        f"Nothing here is about the adversary {adversary.value}: no attack of that kind was asked "
        "for."
        for adversary in Adversary
        if adversary.value not in asked
    ]
    return (
        *found,
        "A bound of ε: no coin decided what these parties edit.",
        "What the edits do to the model (`evaluate` measures that).",
        "Adversaries who have other knowledge than the assumptions say.",
    )
