"""From an audit's folder to its report: draws pooled, rows judged, what was left out said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from collabedit.attacks.pairs import Guesses, bound_of, together
from collabedit.attacks.scoring import Score, pool
from collabedit.audit.curves import RATES
from collabedit.audit.defences import DEFENCES, DefenceName
from collabedit.audit.folder import AuditFolder, Run
from collabedit.audit.results import AuditReport, Curve, Epsilon, Metric, Row, Utility
from collabedit.audit.schema import Audit, Cell
from collabedit.audit.utility import METRICS
from collabedit.audit.verdicts import severity, verdicts
from collabedit.durable import replace_file
from collabedit.errors import GridError
from collabedit.grid import Record
from collabedit.threat_model import Adversary

_NO_RESULT = "not run yet"


@dataclass(frozen=True, slots=True)
class MadeReport:
    """A report, and what has no result.

    Attributes:
        report: as written.
        failures: label and error of each job without a result.
    """

    report: AuditReport = field(repr=False)
    failures: tuple[tuple[str, str], ...]

    def raise_if_failed(self) -> None:
        """Raise if a job has no result.

        Raises:
            GridError: names the first.
        """
        if self.failures:
            label, why = self.failures[0]
            raise GridError(
                f"{len(self.failures)} cells of the audit have no result, first {label}: {why}; "
                "those of the others are kept and reported"
            )


def make_report(folder: AuditFolder) -> MadeReport:
    """Write `report.json`.

    Raises:
        InputError: the folder holds no run, or one of its files is damaged.
        StorageError: the disk refuses.
    """
    audit, run = folder.audit(), folder.run()
    names = [*(entry.id for entry in run.attacks), *(entry.id for entry in run.utility)]
    records = {name: folder.result(name) for name in names}
    rows = _rows(audit, run, records)
    cells = [*(entry.cell for entry in run.attacks), *(each.cell for each in run.left_out)]
    used = {cell.setting.defence for cell in cells}
    defences = tuple(each.card for name, each in DEFENCES.items() if name in used)
    report = AuditReport(
        schema_version=2,
        name=audit.name,
        title=audit.title,
        subject=(
            f"Sessions of the deployed state machines, made for this audit on model "
            f"{audit.model.name} with edits from {run.data}."
        ),
        verdicts=verdicts(rows, run.cards, defences, audit.severity),
        attacks=run.cards,
        defences=defences,
        rows=rows,
        utility=_utility(run, records),
        assumptions=_assumptions(audit),
        not_tested=_not_tested(run),
        digests=run.digests,
        comparisons=sum(bool(row.metrics) and row.metrics[0].chance is not None for row in rows),
    )
    text = f"{report.model_dump_json(indent=1)}\n"
    replace_file(folder.report, text.encode(), private=False)
    labelled = [
        *((entry.cell.label, records[entry.id]) for entry in run.attacks),
        *((f"utility of {entry.setting.label}", records[entry.id]) for entry in run.utility),
    ]
    failures = [(label, why) for label, record in labelled if (why := failure_of(record))]
    return MadeReport(report, tuple(failures))


def failure_of(record: Record | None) -> str | None:
    """Say why a job has no result; None if it has one."""
    if record is None:
        return _NO_RESULT
    return None if record.failure is None else f"{record.failure.kind}: {record.failure.message}"


@dataclass(slots=True)
class _Group:
    """Draws of one row."""

    cell: Cell
    label: str = ""
    outputs: int = 0
    draws: int = 0
    scores: dict[str, list[Score]] = field(default_factory=dict)
    guesses: list[Guesses] = field(default_factory=list)
    curves: list[list[float]] = field(default_factory=list)
    details: dict[str, None] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, seen: dict[str, Any]) -> None:
        self.draws += 1
        for values in seen["scores"]:
            self.scores.setdefault(values["name"], []).append(Score.from_fields(values))
        guessed = seen["guesses"]
        if guessed is not None:
            made, right = tuple(guessed["made"]), tuple(guessed["right"])
            self.guesses.append(Guesses(guessed["pairs"], made, right))
        if seen["curve"] is not None:
            self.curves.append(seen["curve"])
        said = [text for text in (seen["label"], seen["note"]) if text]
        self.details |= dict.fromkeys([*said, *seen["details"]])


def _rows(audit: Audit, run: Run, records: dict[str, Record | None]) -> tuple[Row, ...]:
    groups: dict[tuple[str, str, int, int, str], _Group] = {}
    # A draw that could not be run has no views, so it counts at the first of its row's.
    failed: list[tuple[Cell, str]] = []
    for entry in run.attacks:
        cell, record = entry.cell, records[entry.id]
        result = None if record is None else record.result
        why = failure_of(record) if result is None else result.get("refused")
        if why is not None or result is None:
            failed.append((cell, why or _NO_RESULT))
            groups.setdefault((*_key(cell), ""), _Group(cell))
            continue
        for seen in result["seen"]:
            group = groups.setdefault((*_key(cell), seen["label"]), _Group(cell, seen["label"]))
            group.outputs = result["outputs"]
            group.add(seen)
    for cell, why in failed:
        same = [group for key, group in groups.items() if key[:-1] == _key(cell)]
        taken = next((group for group in same if group.draws), same[0])
        taken.failures[why] = taken.failures.get(why, 0) + 1
    headlines = {card.name: card.headline for card in run.cards}
    outputs = max((group.outputs for group in groups.values()), default=0)
    return tuple(
        _row(audit, group, headlines[group.cell.attack], outputs)
        for group in groups.values()
        if group.draws or group.failures
    )


def _key(cell: Cell) -> tuple[str, str, int, int]:
    setting = cell.setting
    return cell.attack, setting.defence, setting.parties, setting.edits


def _row(audit: Audit, group: _Group, headline: str, outputs: int) -> Row:
    setting = group.cell.setting
    names = sorted(group.scores, key=lambda name: name != headline)
    metrics = tuple(metric_of(pool(group.scores[name])) for name in names)
    return Row(
        attack=group.cell.attack,
        defence=setting.defence,
        parties=setting.parties,
        edits=setting.edits,
        saturation=setting.edits / outputs if outputs else 0.0,
        prior=audit.pool.prior,
        draws=group.draws,
        metrics=metrics,
        epsilon=_epsilon(group.guesses, audit.epsilon.delta),
        curve=mean_curve(group.curves),
        severity=severity(metrics, audit.severity),
        details=tuple(group.details),
        failures=tuple(
            f"{count} draw{'s' if count > 1 else ''}: {why}"
            for why, count in group.failures.items()
        ),
    )


def metric_of(score: Score) -> Metric:
    """Put a figure into the form of the report."""
    return Metric(
        name=score.name,
        value=score.value,
        chance=score.chance,
        low=score.low,
        high=score.high,
        method=score.method,
        trials=score.trials,
    )


def _epsilon(draws: Sequence[Guesses], delta: float) -> Epsilon | None:
    if not draws:
        return None
    found = bound_of(together(draws), delta=delta)
    return Epsilon(
        value=found.epsilon,
        delta=found.delta,
        confidence=found.confidence,
        pairs=found.canaries,
        guesses=found.guesses,
        right=found.right,
    )


def mean_curve(curves: Sequence[Sequence[float]]) -> Curve | None:
    """Average the curves of draws; None without any."""
    if not curves:
        return None
    mean = np.mean(curves, axis=0)
    return Curve(
        false_positive=RATES, true_positive=tuple(min(1.0, float(value)) for value in mean)
    )


def _utility(run: Run, records: dict[str, Record | None]) -> tuple[Utility, ...]:
    groups: dict[tuple[DefenceName, int, int], list[Any]] = {}
    for entry in run.utility:
        record, setting = records[entry.id], entry.setting
        if record is not None and record.result is not None:
            groups.setdefault((setting.defence, setting.parties, setting.edits), []).append(
                record.result
            )
    found = []
    for (defence, parties, edits), results in groups.items():
        averaged = {name: _averaged([each[name] for each in results]) for name in METRICS}
        ends = [averaged[name][1] for name in METRICS]
        found.append(
            Utility(
                defence=defence,
                parties=parties,
                edits=edits,
                efficacy=averaged["efficacy"][0],
                paraphrase=averaged["paraphrase"][0],
                neighbourhood=averaged["neighborhood"][0],
                intervals=tuple(end for end in ends if end is not None),
            )
        )
    return tuple(found)


def _averaged(
    draws: Sequence[dict[str, Any]],
) -> tuple[float | None, tuple[float, float] | None]:
    """Average a metric over draws; half-widths are added as squares, draws being independent."""
    if any(draw["value"] is None for draw in draws):
        return None, None
    value = math.fsum(draw["value"] for draw in draws) / len(draws)
    if any(draw["interval"] is None for draw in draws):
        return value, None
    below = math.hypot(*(draw["value"] - draw["interval"][0] for draw in draws)) / len(draws)
    above = math.hypot(*(draw["interval"][1] - draw["value"] for draw in draws)) / len(draws)
    return value, (max(0.0, value - below), min(100.0, value + above))


def _assumptions(audit: Audit) -> tuple[str, ...]:
    known = {
        "exact": "the prompts of the candidates' records and the plan's templates",
        "generic": "the candidates' subjects and the plan's templates, and no prompts",
    }[audit.pool.prior]
    own = audit.pool.reestimate
    moments = (
        "the plan's covariance"
        if own is None
        else f"a covariance of their own, over {own.tokens} tokens of another text"
    )
    chosen = (
        f"Adversaries choose among {audit.pool.candidates} candidates, members included, all from "
        "the same records; finding candidates at all is not asked of them."
    )
    alone = (
        "They know the defence and its parameters, and have nothing from other sessions but what "
        "their view holds."
    )
    layers = (
        "Attacks on the first edited layer are run on sessions that edit it alone: it is the first "
        "task of a whole session, and its keys depend on no other layer."
    )
    rule = (
        "A row leaks if its headline metric's 95 % interval is above chance, and is at chance if "
        f"the interval holds chance and ends at most {audit.severity.margin:g} above it. Of forty "
        "rows at chance one is expected to seem to leak."
    )
    private = (
        "A lower bound of \N{GREEK SMALL LETTER EPSILON} is about one edit replaced by another: of "
        "pairs of candidates a coin edited one, and the attack says which. It holds with 95 % for "
        f"its row alone, at \N{GREEK SMALL LETTER DELTA} = {audit.epsilon.delta:g}; 0 refutes "
        "nothing and proves nothing."
    )
    public = f"They have the public model, {known}, and {moments}."
    return (chosen, public, alone, layers, rule, private)


def _not_tested(run: Run) -> tuple[str, ...]:
    """Say what was left out, grouped by reason; and which adversaries have no attack here."""
    lacked: dict[tuple[str, str], dict[str, None]] = {}
    for each in run.left_out:
        lacked.setdefault((each.reason, each.cell.attack), {})[each.cell.setting.defence] = None
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, attack), defences in lacked.items():
        together.setdefault((reason, tuple(defences)), []).append(attack)
    found = [
        f"{', '.join(attacks)} on {', '.join(defences)}: {reason}."
        for (reason, defences), attacks in together.items()
    ]
    tested = {card.adversary for card in run.cards}
    found += [
        f"Nothing here is about the adversary {adversary.value}: no attack of that kind was asked "
        "for."
        for adversary in Adversary
        if adversary.value not in tested
    ]
    found += [
        "Prompts and objects of edits, where the matrix has no attack that asks for them.",
        "Adversaries who have other knowledge than the assumptions say.",
    ]
    return tuple(found)
