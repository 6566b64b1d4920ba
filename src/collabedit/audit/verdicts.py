"""From rows to severities and verdicts, by rule and in plain words; and bounds on rows.

A row's headline metric decides: surely above chance, surely not by much, or neither. A verdict is
about deployed defences alone; controls show that the attacks work.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from collabedit.audit.results import AttackCard, DefenceCard, Metric, Row, Severity, Verdict
from collabedit.audit.schema import SeveritySettings, parse_limit_name
from collabedit.threat_model import Adversary

WHO: Final[Mapping[Adversary, str]] = {
    Adversary.NETWORK: "Somebody who sees the network's traffic",
    Adversary.HONEST_AGGREGATOR: "An aggregator that follows the protocol and keeps everything",
    Adversary.MALICIOUS_AGGREGATOR: "An aggregator that lies",
    Adversary.PARTY: "A party",
    Adversary.COLLUDING: "The aggregator together with parties",
    Adversary.RECIPIENT: "Whoever holds the model before and after",
}

_WORST: Final[tuple[Severity, ...]] = ("leaks", "unclear", "chance", "refused", "not-tested")


def severity(metrics: Sequence[Metric], settings: SeveritySettings) -> Severity:
    """Judge a row by its headline metric, the first one.

    Without a chance level there is nothing to guess: then any success leaks, and none is a refusal.
    Scores of candidates that are surely below chance are not at chance: turned round they tell. Of
    other figures less is less.
    """
    if not metrics:
        return "not-tested"
    first = metrics[0]
    if first.chance is None:
        return "leaks" if first.value > 0 else "refused"
    if first.low > first.chance:
        return "leaks"
    turns = first.name == "auc" and first.high < first.chance
    if not turns and first.high <= first.chance + settings.margin:
        return "chance"
    return "unclear"


def verdicts(
    rows: Sequence[Row],
    attacks: Iterable[AttackCard],
    defences: Iterable[DefenceCard],
    settings: SeveritySettings,
) -> tuple[Verdict, ...]:
    """Return one verdict for each adversary, in the order of the threat model."""
    whose = {card.name: card.adversary for card in attacks}
    deployed = {card.name for card in defences if card.deployed}
    titles = {card.name: card.title for card in defences}
    found = []
    for adversary in Adversary:
        own = [index for index, row in enumerate(rows) if whose[row.attack] == adversary.value]
        held = [index for index in own if rows[index].defence in deployed]
        controls = [index for index in own if rows[index].defence not in deployed]
        found.append(
            _verdict(
                adversary, rows, held=held, controls=controls, titles=titles, settings=settings
            )
        )
    return tuple(found)


def _verdict(
    adversary: Adversary,
    rows: Sequence[Row],
    *,
    held: Sequence[int],
    controls: Sequence[int],
    titles: Mapping[str, str],
    settings: SeveritySettings,
) -> Verdict:
    tested = [index for index in held if rows[index].severity != "not-tested"]
    if not tested:
        text = f"{WHO[adversary]}: no attack ran on a deployed defence."
        return Verdict(adversary=adversary.value, severity="not-tested", text=text, evidence=())
    worst = min((rows[index].severity for index in tested), key=_WORST.index)
    deciding = sorted(
        (index for index in tested if rows[index].severity == worst),
        key=lambda index: (-_excess(rows[index].metrics[0]), index),
    )
    count, total = len(deciding), len(tested)
    names = ", ".join(dict.fromkeys(rows[index].attack for index in deciding))
    of = f"{count} of {total} rows ({names})" if total > 1 else f"the only row ({names})"
    strongest = _quoted(rows[deciding[0]], titles)
    match worst:
        case "leaks":
            said = f"learns more than by guessing: {of}, the strongest {strongest}"
        case "unclear":
            said = (
                f"is not surely kept to guessing: {of} may be more than {settings.margin:g} above "
                f"chance or are off it, the first {strongest}"
            )
        case "chance":
            said = (
                f"does no better than guessing: {of}, each at most {settings.margin:g} above "
                f"chance; the highest {strongest}"
            )
        case _:
            said = f"was refused at every try: {of}"
    leaking = sum(rows[index].severity == "leaks" for index in controls)
    tail = f" On controls {leaking} of {len(controls)} rows leak." if controls else ""
    return Verdict(
        adversary=adversary.value,
        severity=worst,
        text=f"{WHO[adversary]} {said}.{tail}",
        evidence=tuple(deciding),
    )


def _excess(metric: Metric) -> float:
    """How far a metric is above chance, as a share of what there is above it."""
    if metric.chance is None:
        return metric.value
    return (metric.value - metric.chance) / max(1 - metric.chance, 1e-9)


def _quoted(row: Row, titles: Mapping[str, str]) -> str:
    first = row.metrics[0]
    chance = "" if first.chance is None else f", chance {first.chance:.3g}"
    return (
        f"{row.attack} on {titles[row.defence].lower()} with {row.parties} parties and "
        f"{row.edits} edits, {first.name} {first.value:.3g} ({first.low:.3g} to {first.high:.3g}"
        f"{chance})"
    )


def missed_limits(
    rows: Sequence[Row],
    attacks: Iterable[AttackCard],
    defences: Iterable[DefenceCard],
    limits: Mapping[str, float],
) -> list[str]:
    """Say which bounds do not hold; one that no row measures does not, either.

    Args:
        rows: of a report.
        attacks: cards of the report.
        defences: likewise.
        limits: largest value of a metric, or of the ε that is refuted, by `metric:adversary`, over
            deployed defences.

    Raises:
        ValueError: a name is none.
    """
    whose = {card.name: card.adversary for card in attacks}
    deployed = {card.name for card in defences if card.deployed}
    missed = []
    for name, bound in limits.items():
        wanted, adversary = parse_limit_name(name)
        measured = [
            (value, row)
            for row in rows
            if row.defence in deployed and whose[row.attack] == adversary.value
            for value in _measured(row, wanted)
        ]
        if not measured:
            missed.append(f"{name}: no row on a deployed defence measures it")
            continue
        value, row = max(measured, key=lambda each: each[0])
        if value > bound:
            missed.append(
                f"{name} is {value:.3g} ({row.attack} on {row.defence}, {row.parties} parties, "
                f"{row.edits} edits), at most {bound:g}"
            )
    return missed


def _measured(row: Row, name: str) -> list[float]:
    if name == "epsilon":
        return [] if row.epsilon is None else [row.epsilon.value]
    return [metric.value for metric in row.metrics if metric.name == name]
