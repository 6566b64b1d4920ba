"""How a report is laid out on its page: the matrix, and which rows make which plot.

Everything here is indices into the report's rows, in an order that follows from the report alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from collabedit.audit.results import AuditReport, Metric, Row
from collabedit.audit.words import severity_rank

Axis: TypeAlias = Literal["saturation", "parties"]


@dataclass(frozen=True, slots=True)
class Line:
    """An attack in the matrix.

    Attributes:
        attack: its name.
        headline: name of its headline metric, empty if it is not known.
        cells: rows for each defence, the one that says most first; empty where nothing was run.
    """

    attack: str
    headline: str
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The attacks of one adversary."""

    adversary: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Rows that share a plot.

    Attributes:
        attack: of all of them.
        metric: what is drawn, empty for curves.
        common: fields of `Row` that are equal in all rows, of parties, edits and prior.
        rows: index of each, by defence in the order of the report, then along the axis.
    """

    attack: str
    metric: str
    common: tuple[str, ...]
    rows: tuple[int, ...]


def adversaries_of(report: AuditReport) -> dict[str, str]:
    """Map attacks to their adversaries, attacks without a card to the empty name."""
    known = {card.name: card.adversary for card in report.attacks}
    return {name: known.get(name, "") for name in attack_names(report)}


def attack_names(report: AuditReport) -> list[str]:
    """List the attacks with a card, then those that only rows name."""
    return _distinct(
        [*(card.name for card in report.attacks), *(row.attack for row in report.rows)]
    )


def defence_names(report: AuditReport) -> list[str]:
    """List the defences with a card, then those that only rows or utilities name."""
    return _distinct(
        [
            *(card.name for card in report.defences),
            *(row.defence for row in report.rows),
            *(entry.defence for entry in report.utility),
        ]
    )


def headline(row: Row) -> Metric | None:
    """Return the first metric, None of a row that could not be run."""
    return row.metrics[0] if row.metrics else None


def is_evidence(row: Row) -> bool:
    """Whether the attack could be run in every draw, and came to a figure."""
    return bool(row.metrics) and not row.failures


def worst_first(report: AuditReport, indices: Iterable[int]) -> tuple[int, ...]:
    """Order rows by what they say: no evidence last, then severity, then distance from chance."""

    def weight(index: int) -> tuple[bool, int, float, int]:
        row = report.rows[index]
        first = headline(row)
        above = first.low - (first.chance or 0.0) if first else 0.0
        return (not is_evidence(row), severity_rank(row.severity), -above, index)

    return tuple(sorted(indices, key=weight))


def matrix(report: AuditReport) -> tuple[Group, ...]:
    """Arrange attacks by adversary, and their rows by defence.

    Adversaries stand in the order of the verdicts, those without one after them. An attack that was
    left out has empty cells.
    """
    whose = adversaries_of(report)
    columns = defence_names(report)
    promised = {card.name: card.headline for card in report.attacks}

    def line(attack: str) -> Line:
        own = [index for index, row in enumerate(report.rows) if row.attack == attack]
        first = next((m for m in (headline(report.rows[index]) for index in own) if m), None)
        cells = tuple(
            worst_first(report, (index for index in own if report.rows[index].defence == defence))
            for defence in columns
        )
        return Line(attack, promised.get(attack, first.name if first else ""), cells)

    order = _distinct([*(verdict.adversary for verdict in report.verdicts), *whose.values()])
    groups = (
        Group(adversary, tuple(line(name) for name in whose if whose[name] == adversary))
        for adversary in order
    )
    return tuple(group for group in groups if group.lines)


def curves(report: AuditReport) -> tuple[Plot, ...]:
    """Gather curves of one attack in one setting, over defences."""
    return tuple(
        Plot(report.rows[rows[0]].attack, "", _common(report, rows), tuple(rows))
        for rows in _grouped(
            report,
            (index for index, row in enumerate(report.rows) if row.curve),
            lambda row: (row.attack, row.parties, row.edits, row.prior),
        ).values()
    )


def trends(report: AuditReport, axis: Axis) -> tuple[Plot, ...]:
    """Gather rows of one attack along saturation or the number of parties, over defences.

    The prior is equal within a plot. Edits and parties vary together if each defence has one row at
    each place on the axis; else there is a plot for each value of the other. A plot needs a defence
    with two places.
    """
    other: Axis | Literal["edits"] = "parties" if axis == "saturation" else "edits"
    usable = [index for index, row in enumerate(report.rows) if is_evidence(row)]
    plots: list[Plot] = []
    for rows in _grouped(report, usable, lambda row: (row.attack, row.prior)).values():
        parts = [rows]
        if not _is_function(report, rows, axis):
            parts = list(_grouped(report, rows, lambda row: (getattr(row, other),)).values())
        plots += [plot for part in parts if (plot := _trend(report, part, axis)) is not None]
    return tuple(plots)


def tradeoffs(report: AuditReport) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    """Pair rows with the utility of the same defence in the same setting, by attack.

    Returns:
        Attacks that two or more such pairs name, with pairs of indices of row and utility.
    """
    places = {
        (entry.defence, entry.parties, entry.edits): index
        for index, entry in enumerate(report.utility)
        if entry.efficacy is not None
    }
    pairs: dict[str, list[tuple[int, int]]] = {}
    for index, row in enumerate(report.rows):
        place = places.get((row.defence, row.parties, row.edits))
        if place is not None and is_evidence(row):
            pairs.setdefault(row.attack, []).append((index, place))
    return tuple((name, tuple(found)) for name, found in pairs.items() if len(found) > 1)


def beside_utility(report: AuditReport, utility: int) -> int | None:
    """Return the row that says most about the defence and setting of a utility, None without."""
    entry = report.utility[utility]
    rows = worst_first(
        report,
        (
            index
            for index, row in enumerate(report.rows)
            if (row.defence, row.parties, row.edits) == (entry.defence, entry.parties, entry.edits)
            and is_evidence(row)
        ),
    )
    return rows[0] if rows else None


def metric_at(row: Row, name: str) -> int | None:
    """Return the place of a metric among those of a row."""
    return next((place for place, each in enumerate(row.metrics) if each.name == name), None)


def _trend(report: AuditReport, rows: Sequence[int], axis: Axis) -> Plot | None:
    # Recall is what saturation takes away; an attack that has none shows its headline.
    names = [metric.name for metric in report.rows[rows[0]].metrics]
    metric = next((name for name in names if name.startswith("recall")), names[0])
    kept = [index for index in rows if metric_at(report.rows[index], metric) is not None]
    kept.sort(key=lambda index: float(getattr(report.rows[index], axis)))
    order = defence_names(report)
    kept.sort(key=lambda index: order.index(report.rows[index].defence))
    places: dict[str, set[float]] = {}
    for index in kept:
        row = report.rows[index]
        places.setdefault(row.defence, set()).add(float(getattr(row, axis)))
    if max((len(found) for found in places.values()), default=0) < 2:
        return None
    return Plot(report.rows[rows[0]].attack, metric, _common(report, kept), tuple(kept))


def _is_function(report: AuditReport, rows: Sequence[int], axis: Axis) -> bool:
    places = [(report.rows[index].defence, getattr(report.rows[index], axis)) for index in rows]
    return len(set(places)) == len(places)


def _common(report: AuditReport, rows: Sequence[int]) -> tuple[str, ...]:
    return tuple(
        name
        for name in ("parties", "edits", "saturation", "prior")
        if len({getattr(report.rows[index], name) for index in rows}) == 1
    )


def _grouped(
    report: AuditReport, rows: Iterable[int], key: Callable[[Row], tuple[object, ...]]
) -> dict[tuple[object, ...], list[int]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in rows:
        groups.setdefault(key(report.rows[index]), []).append(index)
    return groups


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
