"""What a run leaves for people: tidy rows, tables, figures, and whether the bounds hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from collabedit.errors import AcceptanceError, GridError
from collabedit.experiments.figures import draw_figures
from collabedit.experiments.folder import Finished, RunFolder
from collabedit.experiments.schema import PROTOCOL, Acceptance, Experiment
from collabedit.experiments.statistics import (
    SETTINGS,
    interval_note,
    last_round,
    over_seeds,
    tidy_rows,
)
from collabedit.experiments.tables import main_table, part_table, retention_table

_EDIT_COLUMNS = ("efficacy", "paraphrase", "neighborhood", "score", "generation_accuracy")
_CONFLICT_COLUMNS = ("efficacy", "generation_accuracy", "conflict_gap", "conflict_wins")


@dataclass(frozen=True, slots=True)
class Check:
    """A bound of the file, and what was measured."""

    name: str
    value: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the value is within the bound; NaN is not."""
        return self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a run.

    Attributes:
        folder: where everything is.
        checks: of the file's bounds.
        failures: label and error of each cell without a result.
    """

    folder: Path
    checks: tuple[Check, ...]
    failures: tuple[tuple[str, str], ...]

    def raise_if_missed(self) -> None:
        """Raise if a cell failed or a bound does not hold.

        Raises:
            GridError: a cell has no result.
            AcceptanceError: a bound does not hold.
        """
        if self.failures:
            label, why = self.failures[0]
            raise GridError(
                f"{len(self.failures)} cells have no result, first {label}: {why}; the others are "
                f"in {self.folder}"
            )
        missed = [check for check in self.checks if not check.holds]
        if missed:
            named = ", ".join(f"{check.name} {check.value:.3g}" for check in missed)
            raise AcceptanceError(
                f"bounds of the experiment do not hold: {named}; see {self.folder / 'report.md'}"
            )


def make_report(folder: RunFolder) -> Report:
    """Write `results.csv`, `results.parquet`, `summary.csv`, `report.md` and the figures.

    Raises:
        InputError: the folder holds no run.
    """
    experiment, cells = folder.experiment(), folder.finished()
    rows = tidy_rows(cells)
    summary = over_seeds(rows)
    directory = folder.directory
    rows.to_csv(directory / "results.csv", index=False)
    rows.to_parquet(directory / "results.parquet", index=False)
    summary.to_csv(directory / "summary.csv", index=False)
    # A run of some methods only (`--only`) cannot be held against what the others measure.
    bounds = experiment.acceptance.measurable(frozenset(each.cell.method for each in cells))
    report = Report(
        folder=directory,
        checks=tuple(_checks(bounds, rows, summary)),
        failures=tuple(_failures(cells)),
    )
    figures = draw_figures(experiment, summary, directory) if len(summary) else []
    text = _markdown(experiment, folder.data(), summary, report, figures)
    (directory / "report.md").write_text(text, encoding="utf-8")
    return report


def _failures(cells: Sequence[Finished]) -> list[tuple[str, str]]:
    found = []
    for each in cells:
        if each.record is None:
            found.append((each.cell.label, "not run yet"))
        elif each.record.failure is not None:
            failure = each.record.failure
            found.append((each.cell.label, f"{failure.kind}: {failure.message}"))
    return found


def _checks(bounds: Acceptance, rows: pd.DataFrame, summary: pd.DataFrame) -> list[Check]:
    found = []
    protocol = rows[rows["method"].isin(sorted(PROTOCOL))]
    for name, metric, bound in (
        ("first layer against centralised", "error_first_layer", bounds.first_layer_error),
        ("every layer against centralised", "error_worst_layer", bounds.layer_error),
    ):
        errors = protocol.loc[protocol["metric"] == metric, "value"]
        if bound is not None:
            found.append(Check(name, float(errors.max()) if len(errors) else math.nan, bound))
    if bounds.score_gap is not None:
        found.append(Check("Score against centralised", _score_gap(summary), bounds.score_gap))
    return found


def _score_gap(summary: pd.DataFrame) -> float:
    """Largest difference of mean Scores over settings that both methods have; NaN for none."""
    scores = last_round(summary)
    # A trustee has no policy: he applies what the parties bring, as a session that does not count.
    scores = scores[(scores["metric"] == "score") & (scores["policy"] == "none")]
    settings = [name for name in SETTINGS if name != "method"]
    sides = [
        scores[scores["method"] == method].set_index(settings)["mean"]
        for method in ("collabedit-sequential", "centralised")
    ]
    return float((sides[0] - sides[1]).abs().max())


def _markdown(
    experiment: Experiment,
    data: str,
    summary: pd.DataFrame,
    report: Report,
    figures: Sequence[tuple[str, str]],
) -> str:
    lines = [f"# {experiment.title}", ""]
    lines += [f"Model {experiment.model.name}, edits from {data}; {interval_note(summary)}.", ""]
    if len(summary):
        lines += [main_table(summary), ""]
    for title, table in (
        ("Contested facts", part_table(summary, "contested", _CONFLICT_COLUMNS)),
        ("All other facts", part_table(summary, "uncontested", _EDIT_COLUMNS)),
        ("Efficacy of each round's edits, percent", retention_table(summary, "efficacy")),
    ):
        if table:
            lines += [f"## {title}", "", table, ""]
    for name, caption in figures:
        lines += [f"![{caption}]({name}.png)", "", f"*{caption}*", ""]
    if report.checks:
        lines += ["| bound | value | limit | holds |", "|---|---:|---:|---|"]
        lines += [
            f"| {check.name} | {check.value:.3g} | {check.bound:g} | "
            f"{'yes' if check.holds else 'NO'} |"
            for check in report.checks
        ]
        lines.append("")
    if report.failures:
        lines += ["Cells without a result:", ""]
        lines += [f"- {label}: {why}" for label, why in report.failures]
        lines.append("")
    return "\n".join(lines)
