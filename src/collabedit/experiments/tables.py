"""Markdown tables of a run."""

import math
from collections.abc import Sequence

import pandas as pd

from collabedit.experiments.statistics import SETTINGS, last_round

HEADINGS = {
    "efficacy": "ES",
    "paraphrase": "PS",
    "neighborhood": "NS",
    "score": "Score",
    "generation_accuracy": "generated",
    "fluency": "fluency",
    "perplexity": "perplexity",
    "error_first_layer": "error, first layer",
    "error_worst_layer": "error, worst layer",
    "error_unique_first_layer": "error vs unique, first layer",
    "error_unique_worst_layer": "error vs unique, worst layer",
    "bytes_uploaded": "bytes per party and round",
    "seconds": "seconds",
    "conflict_gap": "P(conflict) - P(target)",
    "conflict_wins": "conflict wins, %",
}
"""Metrics in the order of columns, with what tables call them."""

_SCIENTIFIC = {name for name in HEADINGS if name.startswith("error_")}
_ALWAYS = ("method",)


def main_table(summary: pd.DataFrame) -> str:
    """One row for each setting after its last round, one column for each metric measured there."""
    return _table(last_round(summary), list(HEADINGS))


def part_table(summary: pd.DataFrame, part: str, metrics: Sequence[str]) -> str:
    """The same of one part of the edits, such as the contested ones; empty if there is none."""
    chosen = summary[(summary["part"] == part) & (summary["after_round"] == summary["rounds"])]
    return _table(chosen, metrics) if len(chosen) else ""


def retention_table(summary: pd.DataFrame, metric: str) -> str:
    """What is left of each round's edits after each later round; empty for one round."""
    chosen = summary[
        (summary["metric"] == metric)
        & summary["part"].str.startswith("round-")
        & (summary["rounds"] > 1)
    ]
    if not len(chosen):
        return ""
    settings = _varying(chosen)
    rounds = sorted(set(chosen["after_round"]))
    lines = _head([*settings, "edits of", *(f"after round {number}" for number in rounds)])
    for values, group in chosen.groupby([*settings, "part"], sort=False):
        by_round = {row["after_round"]: row for _, row in group.iterrows()}
        cells = [
            format_value(metric, by_round[number]) if number in by_round else ""
            for number in rounds
        ]
        named = map(_setting, settings, values)
        lines.append(_row([*named, str(values[-1]).replace("-", " "), *cells]))
    return "\n".join(lines)


def format_value(metric: str, row: "pd.Series[float]") -> str:
    """Render a mean with its interval."""
    mean, low, high = row["mean"], row["low"], row["high"]
    if metric in _SCIENTIFIC:
        return f"{mean:.1e}"
    if metric == "bytes_uploaded":
        return f"{round(mean):,}"
    digits = 3 if metric == "conflict_gap" else 1
    text = f"{mean:.{digits}f}"
    if math.isnan(low) or metric == "seconds":
        return text
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def _table(chosen: pd.DataFrame, metrics: Sequence[str]) -> str:
    settings = _varying(chosen)
    there = [name for name in metrics if name in set(chosen["metric"])]
    lines = _head([*settings, *(HEADINGS[name] for name in there)])
    for values, group in chosen.groupby(settings, sort=False):
        by_metric = {row["metric"]: row for _, row in group.iterrows()}
        cells = [
            format_value(name, by_metric[name]) if name in by_metric else "-" for name in there
        ]
        lines.append(_row([*map(_setting, settings, values), *cells]))
    return "\n".join(lines)


def _varying(chosen: pd.DataFrame) -> list[str]:
    """Settings that differ between rows; the method always."""
    return [name for name in SETTINGS if name in _ALWAYS or len(set(chosen[name])) > 1]


def _setting(name: str, value: object) -> str:
    """Render a setting: rates in percent, a memory's weight as it is."""
    if isinstance(value, float):
        return f"{value:g}" if name == "memory" else f"{value:.0%}"
    return str(value)


def _head(names: Sequence[str]) -> list[str]:
    return [_row([name.replace("_", " ") for name in names]), _row(["---"] * len(names))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
