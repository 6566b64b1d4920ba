"""From cells to tidy rows, and from rows to means over seeds with intervals.

A mean over three or more seeds has Student's t interval over them (n - 1 degrees of freedom): it
says how far the figure would move with other records and another deal. One or two seeds say next to
nothing about their spread (t is 12.7 for two). Then the interval is that over edits, of the cell
(`docs/metrics.md`), or of two independent cells' mean, their half-widths added as squares; tables
and captions say which. Shares in percent are cut to 0 to 100.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from collabedit.experiments.folder import Finished
from collabedit.intervals import CONFIDENCE

SETTINGS = (
    "method",
    "editor",
    "parties",
    "edits_per_party",
    "rounds",
    "overlap",
    "conflict",
    "policy",
    "memory",
)
"""What sets cells apart besides the seed."""

MEASURED = ("metric", "part", "after_round")
MINIMUM_SEEDS = 3
"""For an interval over them."""

PERCENT = frozenset(
    {
        "efficacy",
        "paraphrase",
        "neighborhood",
        "score",
        "generation_accuracy",
        "conflict_wins",
    }
)
_COLUMNS = ("cell", *SETTINGS, "edits", "seed", *MEASURED, "value", "low", "high")


def tidy_rows(cells: Sequence[Finished]) -> pd.DataFrame:
    """One row for each measurement of each cell that has a result."""
    rows: list[dict[str, Any]] = []
    for finished in cells:
        if finished.record is None or finished.record.result is None:
            continue
        cell, result = finished.cell, finished.record.result
        common = {name: getattr(cell, name) for name in SETTINGS if name != "editor"}
        common |= {
            "cell": finished.id[:16],
            "editor": cell.editor.title,
            "edits": result["edits"],
            "seed": cell.seed,
        }
        rows += [common | measurement for measurement in result["measurements"]]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.astype({"value": float, "low": float, "high": float})


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Average rows over seeds: columns of settings, `mean`, `low`, `high`, `seeds`, `interval`.

    `interval` is `seeds`, `edits`, or `none` where neither gives one.
    """
    keys = [*SETTINGS, "edits", *MEASURED]
    made = []
    for values, group in rows.dropna(subset=["value"]).groupby(keys, sort=False):
        entry = dict(zip(keys, values, strict=True))
        made.append(entry | _summary(group, percent=entry["metric"] in PERCENT))
    columns = [*keys, "mean", "low", "high", "seeds", "interval"]
    return pd.DataFrame(made, columns=columns)


def _summary(group: pd.DataFrame, *, percent: bool) -> dict[str, Any]:
    values = group["value"]
    count, mean = len(values), float(values.mean())
    if count >= MINIMUM_SEEDS:
        half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(ddof=1))
        below = above = half / math.sqrt(count)
        kind = "seeds"
    else:
        below = float(np.linalg.norm(values - group["low"])) / count
        above = float(np.linalg.norm(group["high"] - values)) / count
        kind = "none" if math.isnan(below) else "edits"
    low, high = mean - below, mean + above
    if percent:
        low, high = max(low, 0.0), min(high, 100.0)
    return {"mean": mean, "low": low, "high": high, "seeds": count, "interval": kind}


def last_round(summary: pd.DataFrame) -> pd.DataFrame:
    """Keep what was measured after the last round, on all edits."""
    whole = summary["part"] == "all"
    return summary[whole & (summary["after_round"] == summary["rounds"])]


def interval_note(summary: pd.DataFrame) -> str:
    """Say what the intervals of a summary are over."""
    kinds = set(summary["interval"]) - {"none"}
    counts = " or ".join(str(count) for count in sorted(set(summary["seeds"])))
    seeds = "one seed" if counts == "1" else f"{counts} seeds"
    if kinds == {"edits"}:
        return f"{seeds}, 95 % intervals over edits"
    if kinds == {"seeds"}:
        return f"means over {seeds}, 95 % t intervals over them"
    if not kinds:
        return f"{seeds}, no intervals"
    return f"{seeds}; 95 % t intervals over seeds from {MINIMUM_SEEDS} on, else over edits"
