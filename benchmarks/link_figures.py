"""The part of the page about many parties over links: what to read first, and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib import pyplot as plt

PICTURE: Final = "links.svg"

_WAYS: Final = {
    "closed": ("ours, closed sums", "#3b6ea5"),
    "dense": ("the same, S and T whole", "#b9770e"),
    "paper": ("the paper's rule, in the clear", "#7f8c8d"),
}
_RTT: Final = 50


def section(record: Mapping[str, Any]) -> list[str]:
    """Say what the tables that follow are."""
    return [
        "",
        "Simulated with costs measured here and messages counted in real sessions. The sizing has",
        "the least line, then disk, then processors, with which a task ends in time although a",
        "tenth of the parties is lost. The validation has what the same model says of small",
        "sessions that then ran. `docs/scaling.md` has the assumptions.",
        "",
        agreement(record),
        "",
        f"![seconds against parties, for each link]({PICTURE})",
    ]


def agreement(record: Mapping[str, Any]) -> str:
    """Say in one line how far the model is off the sessions that really ran."""
    found = [
        f"{row['case']} {row['predicted_over_measured']} as if the machine were free, "
        f"{row['beside_others_over_measured']} with what others took of it "
        f"({100 * row['others_took']:.0f} %)"
        for row in record["rows"]
        if row.get("table") == "validation" and row["what"] == "r1 to r6"
    ]
    return f"Seconds of r1 to r6, predicted over measured: {'; '.join(found)}."


def plot(record: Mapping[str, Any], path: Path) -> None:
    """Draw seconds of a task against parties, one panel for each link."""
    rows = [
        row
        for row in record["rows"]
        if row.get("table") == "seconds of a task" and row["rtt_ms"] == _RTT
    ]
    links = sorted({row["link_mbit"] for row in rows})
    figure, panels = plt.subplots(
        1, max(len(links), 1), figsize=(10, 3.6), sharey=True, layout="constrained", squeeze=False
    )
    for axes, link in zip(panels[0], links, strict=False):
        here = [row for row in rows if row["link_mbit"] == link]
        for form, (label, color) in _WAYS.items():
            axes.plot(*_line(here, form, "all there"), "o-", color=color, label=label, ms=4)
        lost = _line(here, "closed", "both")
        if lost[0]:
            label = "ours, a tenth lost, one link at a tenth"
            axes.plot(*lost, "s--", color="#3b6ea5", label=label, ms=4, mfc="white")
        axes.set_title(f"{_rate(link)} a party, {_RTT} ms", fontsize=9)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("parties")
        axes.set_xticks(sorted({row["parties"] for row in here}))
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("seconds of a task")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _line(rows: Sequence[Mapping[str, Any]], form: str, case: str) -> tuple[list[int], list[float]]:
    found = sorted(
        (row["parties"], row["wall_s"])
        for row in rows
        if row["form"] == form and row["case"] == case
    )
    return [parties for parties, _ in found], [seconds for _, seconds in found]


def _rate(mbit: int) -> str:
    return f"{mbit} Mbit/s" if mbit < 1000 else f"{mbit // 1000} Gbit/s"
