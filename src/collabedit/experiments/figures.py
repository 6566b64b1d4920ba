"""The figures of a run, as PNG and SVG.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; every method has a
mark of its own besides. Methods that agree would hide each other: the trustee is a broad grey line
below the others, adding updates a broken line above them, and points stand a little apart.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import pandas as pd

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from collabedit.experiments.schema import Experiment, FigureRequest
from collabedit.experiments.statistics import PERCENT, interval_note, last_round
from collabedit.experiments.tables import HEADINGS


@dataclass(frozen=True, slots=True)
class _Look:
    """How a method is drawn."""

    label: str
    colour: str
    marker: str
    line: str = "-"


_LOOKS: dict[str, _Look] = {
    "centralised": _Look("centralised", "#9a9a9a", "o"),
    "collabedit-sequential": _Look("CollabEdit, sequential", "#0072B2", "o"),
    "collabedit-parallel": _Look("CollabEdit, one shot", "#009E73", "s"),
    "task-arithmetic": _Look("task arithmetic", "#D55E00", "^", "-."),
    "ties": _Look("TIES", "#CC79A7", "D"),
    "simple-average": _Look("simple average", "#E69F00", "v"),
    "unedited": _Look("unedited", "#000000", "x", ":"),
}
_POLICY_LABELS = {
    "none": "not counted",
    "keep": "keep",
    "majority": "majority",
    "drop": "drop",
    "augment": "augment",
}
_UNITS = dict.fromkeys(("efficacy", "paraphrase", "neighborhood"), ", percent") | {
    "generation_accuracy": ", percent",
    "conflict_wins": "",
}
_NAMES = {
    "efficacy": "efficacy (ES)",
    "paraphrase": "paraphrase (PS)",
    "neighborhood": "neighbourhood (NS)",
    "generation_accuracy": "generated",
}

Drawing: TypeAlias = tuple[Figure, str]
"""A figure and its caption."""


def draw_figures(
    experiment: Experiment, summary: pd.DataFrame, directory: Path
) -> list[tuple[str, str]]:
    """Draw what the file asks for; return the name (no suffix) and caption of each figure made.

    A figure of which no cell has the metric yet is left out.
    """
    kinds: dict[str, Callable[[pd.DataFrame, str | None], Drawing | None]] = {
        "curve": _curve,
        "forgetting": _forgetting,
        "overlap": _overlap,
        "conflict": _conflict,
        "bars": _bars,
    }
    made = []
    with mpl.rc_context(_STYLE):
        for request in experiment.figures:
            drawing = kinds[request.kind](summary, request.metric)
            if drawing is None:
                continue
            figure, caption = drawing
            name = _name(experiment, request)
            for suffix in ("png", "svg"):
                # Without a date the same numbers give the same file.
                metadata = {"Date": None} if suffix == "svg" else None
                figure.savefig(directory / f"{name}.{suffix}", dpi=150, metadata=metadata)
            plt.close(figure)
            made.append((name, f"{experiment.title}. {caption}"))
    return made


_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "collabedit",
    "figure.constrained_layout.use": True,
}


def _name(experiment: Experiment, request: FigureRequest) -> str:
    metric = f"-{request.metric.replace('_', '-')}" if request.metric else ""
    return f"{experiment.name}-{request.kind}{metric}"


def _title(metric: str) -> str:
    return _NAMES.get(metric, HEADINGS.get(metric, metric)) + _UNITS.get(metric, "")


def _series(chosen: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Groups in the order in which methods are drawn: the trustee first, below all others."""
    groups = list(chosen.groupby(list(by), sort=False))
    order = list(_LOOKS)
    yield from sorted(groups, key=lambda group: order.index(str(group[0][0])))


def _several(rows: pd.DataFrame, column: str) -> bool:
    return len(set(rows[column])) > 1


def _errors(rows: pd.DataFrame) -> list[list[float]]:
    """Lengths of error bars below and above; 0 where there is no interval."""
    low = (rows["mean"] - rows["low"]).clip(lower=0).fillna(0)
    high = (rows["high"] - rows["mean"]).clip(lower=0).fillna(0)
    return [low.tolist(), high.tolist()]


def _line(
    axes: Axes,
    rows: pd.DataFrame,
    x: Sequence[float],
    method: str,
    label: str,
    *,
    counted: bool = False,
) -> None:
    """Draw a method; a session that counts has a broken line and open marks."""
    look = _LOOKS[method]
    broad = method == "centralised"
    axes.errorbar(
        x,
        rows["mean"],
        yerr=_errors(rows),
        color=look.colour,
        marker=look.marker,
        markerfacecolor="white" if counted else look.colour,
        linestyle="--" if counted else look.line,
        markersize=11 if broad else 5.5,
        linewidth=6 if broad else 1.6,
        alpha=0.55 if broad else 1.0,
        elinewidth=1,
        capsize=2,
        label=label,
    )


def _legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _curve(summary: pd.DataFrame, metric: str | None) -> Drawing | None:
    """A metric against the number of edits, one line for each method."""
    name = metric or "score"
    rows = last_round(summary)
    plain = (rows["rounds"] == 1) & (rows["overlap"] == 0) & (rows["conflict"] == 0)
    rows = rows[plain & (rows["metric"] == name)].sort_values("edits")
    if not len(rows):
        return None
    figure, axes = plt.subplots(figsize=(7.4, 4.8))
    series = list(_series(rows, ["method", "editor", "memory"]))
    several = _several(rows, "editor")
    for place, ((method, editor, memory), own) in enumerate(series):
        # A little aside of each other, so that equal methods do not hide each other's bars.
        shift = 1 + 0.02 * (place - len(series) / 2)
        label = _LOOKS[method].label + (f", {editor}" if several else "")
        label += f", memory {memory:g}" if memory else ""
        _line(axes, own, [edits * shift for edits in own["edits"]], method, label)
    axes.set_xscale("log")
    ticks = sorted(set(rows["edits"]))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("edits of all parties together")
    axes.set_ylabel(_title(name))
    _legend_below(figure, axes, 3)
    return figure, f"{_title(name)} against the number of edits; {interval_note(rows)}."


def _forgetting(summary: pd.DataFrame, metric: str | None) -> Drawing | None:
    """What is left of each round's edits after later rounds: one panel for each method."""
    name = metric or "efficacy"
    rows = summary[
        (summary["metric"] == name)
        & summary["part"].str.startswith("round-")
        & (summary["rounds"] > 1)
        & (summary["method"] != "unedited")
    ]
    if not len(rows):
        return None
    panels = list(_series(rows, ["method", "editor", "memory"]))
    columns = 2 if len(panels) in {2, 4} else min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(3.4 * columns, 2.9 * lines + 0.5),
        sharey=True,
        squeeze=False,
    )
    several = _several(rows, "editor")
    colours = mpl.colormaps["cividis"]
    last = int(rows["after_round"].max())
    for axes, ((method, editor, memory), own) in zip(grid.flat, panels, strict=False):
        for number in range(1, last + 1):
            line = own[own["part"] == f"round-{number}"].sort_values("after_round")
            shift = 0.3 / last * (number - (last + 1) / 2)
            axes.errorbar(
                line["after_round"] + shift,
                line["mean"],
                yerr=_errors(line),
                color=colours(0.85 * (number - 1) / max(1, last - 1)),
                marker="osD^v<>"[(number - 1) % 7],
                markersize=5,
                linewidth=1.5,
                elinewidth=1,
                capsize=2,
                label=f"edits of round {number}",
            )
        title = _LOOKS[method].label + (f", {editor}" if several else "")
        axes.set_title(title + (f", memory {memory:g}" if memory else ""), fontsize=10)
        axes.set_xticks(range(1, last + 1))
        axes.set_xlim(0.7, last + 0.3)
        axes.set_xlabel("after round")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(_title(name))
        if name in PERCENT:
            # Shared by all: a curve at 100 that is cut out of its axis looks like a fall.
            axes.set_ylim(-3, 103)
    _legend_below(figure, grid.flat[0], min(last, 4))
    note = interval_note(rows)
    return figure, f"{_title(name)} of each round's edits after that and later rounds; {note}."


def _labels(rows: pd.DataFrame) -> list[tuple[str, tuple[str, str, str], pd.DataFrame]]:
    """Rows of a dot plot: label, (method, editor, policy), values."""
    several = _several(rows, "editor")
    treated = _several(rows, "policy")
    found = []
    for (method, editor, policy), own in _series(rows, ["method", "editor", "policy"]):
        label = _LOOKS[method].label
        if several and method != "unedited":
            label += f", {editor}"
        if treated and method.startswith("collabedit") and policy != "none":
            label += f": {_POLICY_LABELS[policy]}"
        found.append((label, (method, editor, policy), own))
    return found


def _dots(axes: Axes, rows: pd.DataFrame, metric: str, labels: Sequence[str]) -> None:
    """One dot with its interval for each label, from top to bottom."""
    there = {label: (key, own) for label, key, own in _labels(rows[rows["metric"] == metric])}
    for place, label in enumerate(labels):
        if label not in there:
            continue
        (method, _, _), own = there[label]
        look = _LOOKS[method]
        axes.errorbar(
            own["mean"],
            [place] * len(own),
            xerr=_errors(own),
            color="#606060" if method == "centralised" else look.colour,
            marker=look.marker,
            markersize=6,
            linestyle="none",
            elinewidth=1.2,
            capsize=2.5,
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=True, axis="both")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(_title(metric), fontsize=10)


def _dot_panels(rows: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    labels = list(dict.fromkeys(label for label, _, _ in _labels(rows)))
    figure, grid = plt.subplots(
        1,
        len(metrics),
        figsize=(2.6 + 2.1 * len(metrics), 1.2 + 0.34 * len(labels)),
        sharey=True,
        squeeze=False,
    )
    for axes, metric in zip(grid.flat, metrics, strict=True):
        _dots(axes, rows, metric, labels)
    return figure


def _bars(summary: pd.DataFrame, metric: str | None) -> Drawing | None:
    """Dots by method and editor: one metric, or Score and its parts."""
    rows = last_round(summary)
    wanted = (metric,) if metric else ("score", "efficacy", "paraphrase", "neighborhood")
    metrics = [name for name in wanted if name in set(rows["metric"])]
    if not metrics:
        return None
    rows = rows[rows["metric"].isin(metrics)]
    note = interval_note(rows)
    return _dot_panels(rows, metrics), f"{', '.join(map(_title, metrics))}; {note}."


def _conflict(summary: pd.DataFrame, metric: str | None) -> Drawing | None:
    """Which side of contested facts each method and policy takes."""
    rows = summary[(summary["part"] == "contested") & (summary["after_round"] == summary["rounds"])]
    wanted = (metric,) if metric else ("conflict_gap", "conflict_wins", "generation_accuracy")
    metrics = [name for name in wanted if name in set(rows["metric"])]
    if not metrics:
        return None
    rows = rows[rows["metric"].isin(metrics)]
    figure = _dot_panels(rows, metrics)
    for axes, name in zip(figure.axes, metrics, strict=True):
        if name == "conflict_gap":
            axes.axvline(0, color="#404040", linewidth=0.8)
        else:
            axes.set_xlim(-4, 104)
    return figure, (
        "Contested facts: the target is the majority's object, the conflict the minority's; "
        f"{interval_note(rows)}."
    )


def _overlap(summary: pd.DataFrame, metric: str | None) -> Drawing | None:
    """Against the rate of overlap: the distance from the trustee of unique edits, and a metric."""
    name = metric or "score"
    rows = last_round(summary)
    plain = (rows["rounds"] == 1) & (rows["conflict"] == 0)
    # Without any overlap a trustee applies every fact once anyway.
    rows = rows[plain & rows["metric"].isin(["error_unique_worst_layer", name])]
    if not len(rows):
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.4))
    for axes, chosen in ((left, "error_unique_worst_layer"), (right, name)):
        own_rows = rows[(rows["metric"] == chosen)].sort_values("overlap")
        labelled = _labels(own_rows)
        for place, (label, (method, _, policy), own) in enumerate(labelled):
            shift = 1.5 * (place - (len(labelled) - 1) / 2)
            at = [100 * rate + shift for rate in own["overlap"]]
            _line(axes, own, at, method, label, counted=policy != "none")
        rates = sorted(100 * rate for rate in set(own_rows["overlap"]))
        axes.set_xticks(rates, [f"{rate:.0f}" for rate in rates])
        axes.set_xlabel("share of a party's edits that all parties have, percent")
    left.set_yscale("log")
    left.set_ylabel("relative distance, worst layer")
    left.set_title("from the trustee who applies every fact once", fontsize=10)
    right.set_title(_title(name), fontsize=10)
    _legend_below(figure, right, 3)
    return figure, (
        "Edits that several parties bring: distance from the update that applies every fact once, "
        f"and {_title(name)}; {interval_note(rows)}."
    )
