"""The page of an audit: one HTML file, made from the report and from nothing else.

It loads nothing: styles, the script and all plots stand in it, and its content security policy
forbids the rest. Without the script everything shows; with it, rows are filtered, sorted and
folded. Every number that is shown is looked up in the report by its JSON pointer (RFC 6901), and
carries both the pointer and its full value. Equal reports give equal bytes, with equal versions of
matplotlib and jinja2.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from collabedit.audit import words
from collabedit.audit.arrangement import (
    Axis,
    Plot,
    adversaries_of,
    beside_utility,
    curves,
    defence_names,
    headline,
    is_evidence,
    matrix,
    metric_at,
    tradeoffs,
    trends,
)
from collabedit.audit.plots import Plotter, Points
from collabedit.audit.results import AuditReport
from collabedit.errors import InputError

LEVEL = 0.05
"""What an interval of 95 % leaves out."""


def write_page(report: AuditReport, path: Path) -> None:
    """Write the page of a report; its folder must exist.

    Raises:
        InputError: as `render_page`.
        OSError: the file cannot be written.
    """
    path.write_text(render_page(report), encoding="utf-8", newline="\n")


def render_page(report: AuditReport) -> str:
    """Return the page of a report.

    Raises:
        InputError: a verdict quotes a row that the report does not have.
    """
    for verdict in report.verdicts:
        for index in verdict.evidence:
            if not 0 <= index < len(report.rows):
                raise InputError(
                    f"the report's verdict on {verdict.adversary} quotes row {index}, "
                    f"and there are {len(report.rows)}: make the report anew"
                )
    script = _packaged("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _Page(report)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            words=words,
            page=page,
            groups=matrix(report),
            defences=defence_names(report),
            whose=adversaries_of(report),
            style=Markup(_packaged("page.css")),  # noqa: S704  our own file
            script=Markup(script),  # noqa: S704  our own file
            script_digest=digest,
            is_evidence=is_evidence,
            headline=headline,
            level=LEVEL,
        )
    )


class _Page:
    """What the template asks for beyond the report itself.

    Attributes:
        curves, saturation, parties: plots, as `arrangement` groups them.
        tradeoffs: pairs of row and utility, by attack.
    """

    def __init__(self, report: AuditReport) -> None:
        self._report = report
        self._tree: object = report.model_dump(mode="json")
        self._plotter = Plotter()
        self._styles = {name: place for place, name in enumerate(defence_names(report))}
        self._cards = {card.name: card for card in report.defences}
        self._attacks = {card.name: place for place, card in enumerate(report.attacks)}
        self.curves: dict[str, list[Plot]] = {}
        for plot in curves(report):
            self.curves.setdefault(plot.attack, []).append(plot)
        self.saturation = trends(report, "saturation")
        self.parties = trends(report, "parties")
        self.tradeoffs = tradeoffs(report)

    def number(self, pointer: str) -> Markup:
        """Show the report's number at a JSON pointer, rounded, with its full value."""
        value = self._tree
        for part in pointer.split("/")[1:]:
            value = value[int(part)] if isinstance(value, list) else value[part]  # type: ignore[index]
        if value is None:
            return Markup('<span class="none">\N{EN DASH}</span>')
        if not isinstance(value, int | float):
            raise TypeError(f"{pointer} is no number")
        shown = words.rounded(value)
        full = repr(value)
        # Where rounding took nothing away, a tip would only repeat what is read.
        tip = (
            Markup(' title="{}"').format(full) if float(shown.replace(_SPACE, "")) != value else ""
        )
        return Markup('<data value="{}" data-at="{}"{}>{}</data>').format(full, pointer, tip, shown)

    def family_bound(self) -> Markup:
        """Show the bound on the probability that any interval misses: min(1, comparisons x 5 %)."""
        return _derived(min(1.0, self._report.comparisons * LEVEL))

    def corrected_level(self) -> Markup:
        """Show the level of one comparison that makes 5 % of all together."""
        return _derived(LEVEL / self._report.comparisons)

    def interval_of(self, utility: int, field: str) -> int | None:
        """Return the place of a measure's interval: among all measures, or among the measured."""
        entry = self._report.utility[utility]
        known: tuple[str, ...] = _MEASURES
        if len(entry.intervals) != len(known):
            known = tuple(name for name in known if getattr(entry, name) is not None)
        return known.index(field) if len(entry.intervals) == len(known) else None

    def title(self, defence: str) -> str:
        """Return a defence's heading, its name without a card."""
        card = self._cards.get(defence)
        return card.title if card else defence

    def is_deployed(self, defence: str) -> bool:
        """Whether sessions have this defence outside of audits; True for those without a card."""
        card = self._cards.get(defence)
        return card is None or card.deployed

    def card_of(self, attack: str) -> int | None:
        """Return the place of an attack's card."""
        return self._attacks.get(attack)

    def evidence_beside(self, utility: int) -> int | None:
        """Return the row that says most about the defence of a utility."""
        return beside_utility(self._report, utility)

    def symbols(self) -> list[Markup]:
        """Draw a sample of every line that legends use."""
        return [self._plotter.symbol(style) for style in self._styles.values()]

    def style(self, defence: str) -> int:
        """Return the number of a defence's line."""
        return self._styles[defence]

    def of(self, rows: Sequence[int]) -> list[str]:
        """List the defences of rows, for a legend."""
        return list(dict.fromkeys(self._report.rows[index].defence for index in rows))

    def receiver(self, plot: Plot, *, logarithmic: bool) -> Markup:
        """Draw the curves of a plot's rows."""
        lines = [
            (self._styles[row.defence], row.curve)
            for row in (self._report.rows[index] for index in plot.rows)
            if row.curve is not None
        ]
        kind = "logarithmic" if logarithmic else "linear"
        label = f"Receiver operating characteristic of {plot.attack}, {kind} axes"
        return self._plotter.receiver(lines, logarithmic=logarithmic, label=label)

    def trend(self, plot: Plot, axis: Axis) -> Markup:
        """Draw a plot's metric along an axis."""
        lines = []
        for defence in self.of(plot.rows):
            chosen = [row for row in plot.rows if self._report.rows[row].defence == defence]
            lines.append(self._points(defence, chosen, plot.metric, axis))
        across = "parties" if axis == "parties" else "saturation: edits / d_out"
        label = f"{plot.metric} of {plot.attack} along {across}"
        return self._plotter.trend(
            lines, across=across, whole=axis == "parties", joined=True, label=label
        )

    def tradeoff(self, attack: str, pairs: Sequence[tuple[int, int]]) -> Markup:
        """Draw an attack's headline metric against the efficacy of edits."""
        lines = []
        for defence in self.of([row for row, _ in pairs]):
            own = [pair for pair in pairs if self._report.rows[pair[0]].defence == defence]
            lines.append(self._against_utility(defence, own))
        label = f"Headline metric of {attack} against the efficacy of edits"
        return self._plotter.trend(
            lines, across="efficacy, percent", whole=False, joined=False, label=label
        )

    def _points(self, defence: str, rows: Sequence[int], name: str, axis: Axis) -> Points:
        chosen = []
        for index in rows:
            row = self._report.rows[index]
            place = metric_at(row, name)
            if place is not None:
                chosen.append((float(getattr(row, axis)), row.metrics[place]))
        return Points(
            style=self._styles[defence],
            across=tuple(place for place, _ in chosen),
            values=tuple(metric.value for _, metric in chosen),
            low=tuple(metric.low for _, metric in chosen),
            high=tuple(metric.high for _, metric in chosen),
            chance=tuple(metric.chance for _, metric in chosen),
        )

    def _against_utility(self, defence: str, pairs: Sequence[tuple[int, int]]) -> Points:
        metrics = [self._report.rows[row].metrics[0] for row, _ in pairs]
        utilities = [self._report.utility[place] for _, place in pairs]
        return Points(
            style=self._styles[defence],
            across=tuple(entry.efficacy or 0.0 for entry in utilities),
            values=tuple(metric.value for metric in metrics),
            low=tuple(metric.low for metric in metrics),
            high=tuple(metric.high for metric in metrics),
            chance=tuple(metric.chance for metric in metrics),
            spans=tuple(self._span(place) for _, place in pairs),
        )

    def _span(self, utility: int) -> tuple[float, float] | None:
        place = self.interval_of(utility, "efficacy")
        return None if place is None else self._report.utility[utility].intervals[place]


_SPACE = "\N{NARROW NO-BREAK SPACE}"
_MEASURES = ("efficacy", "paraphrase", "neighbourhood")


def _derived(value: float) -> Markup:
    return Markup('<data class="derived" value="{}">{}</data>').format(repr(value), f"{value:.3g}")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("collabedit.audit", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _packaged(name: str) -> str:
    folder = resources.files("collabedit.audit") / "templates"
    return (folder / name).read_text(encoding="utf-8")
