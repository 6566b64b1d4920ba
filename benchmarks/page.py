"""A page of what the benchmarks on this machine found: out/bench/README.md and its pictures.

    python benchmarks/page.py

It reads the records that are there; of a benchmark that did not run here it says so.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import link_figures
from matplotlib import pyplot as plt
from timing import OUTPUT

Record = Mapping[str, Any]

NOT_RUN: Final = "not run"

MAIN: Final = ("masks", "peers", "merge", "transport", "targets", "scale", "links")
"""What `make bench` runs, in the order of the page; others that ran follow."""


@dataclass(frozen=True)
class Ratio:
    """One comparison: how many times better ours is, and what was asked of it.

    Attributes:
        benchmark: whose record has it.
        what: is compared, for people.
        row: fields that a row must have.
        field: of the row.
        is_inverse: the record has ours over the other's.
        wanted: at least this; None where nothing is asked.
    """

    benchmark: str
    what: str
    row: Mapping[str, object]
    field: str
    is_inverse: bool = False
    wanted: float | None = None

    def value(self, records: Mapping[str, Record]) -> float | None:
        """Find the figure; None if its benchmark, or the peer in it, did not run."""
        rows = records.get(self.benchmark, {"rows": []})["rows"]
        found = [row for row in rows if self.row.items() <= row.items() and self.field in row]
        if not found:
            return None
        value = float(found[0][self.field])
        return 1 / value if self.is_inverse else value


_FLOWER = "a client's processor time, beside Flower's"
RATIOS = (
    Ratio("peers", f"{_FLOWER}, first run", {"what": "ours"}, "cold_times_less_cpu", wanted=8),
    Ratio("peers", f"{_FLOWER}, warm", {"what": "ours"}, "warm_times_less_cpu"),
    Ratio(
        "peers",
        f"{_FLOWER}, warm, its 32-bit ring",
        {"what": "ours, the peer's ring"},
        "warm_times_less_cpu",
        wanted=8,
    ),
    Ratio(
        "masks",
        "rate of masks over AES-256-GCM's own",
        {"what": "keystreams of all masks", "tile_kib": 1024},
        "share_of_aes_rate",
        wanted=0.8,
    ),
    Ratio(
        "merge",
        "upload of a layer, GPT-J, 1,000 edits, beside the paper's",
        {"shape": "GPT-J 16384x4096", "step": "upload of a party and layer"},
        "times_less_than_peer",
        wanted=10,
    ),
    Ratio(
        "merge",
        "merge, GPT2-XL, 10 parties, 1,000 edits, beside the paper's rule",
        {"shape": "GPT2-XL 6400x1600", "step": "merge", "way": "sketch"},
        "times_faster_than_peer",
        wanted=20,
    ),
    Ratio(
        "merge",
        "memory of that merge",
        {"shape": "GPT2-XL 6400x1600", "step": "merge", "way": "sketch"},
        "memory_over_peer",
        is_inverse=True,
        wanted=4,
    ),
    Ratio(
        "targets",
        "search of targets, 8 in a batch, beside one by one",
        {"what": "8 in a batch"},
        "ratio_to_peer",
        is_inverse=True,
        wanted=3,
    ),
    Ratio(
        "transport",
        "upload over mutual TLS, beside the same stream that hashes and syncs",
        {"what": "ours"},
        "ratio_to_writing",
        is_inverse=True,
        wanted=0.8,
    ),
    Ratio(
        "transport",
        "upload with masks, beside a mutual TLS socket",
        {"what": "ours, masks included"},
        "ratio_to_socket",
        is_inverse=True,
        wanted=0.8,
    ),
    Ratio(
        "links",
        "task of 100 parties, GPT-J, 100 Mbit/s, beside the paper's in the clear (simulated)",
        {
            "table": "seconds of a task",
            "parties": 100,
            "form": "closed",
            "link_mbit": 100,
            "rtt_ms": 50,
            "case": "all there",
        },
        "paper_over_ours",
    ),
)


def summary(records: Mapping[str, Record]) -> list[str]:
    """List every comparison, and whether what was asked for is met."""
    lines = ["| comparison | ours is better by | asked for | aim |", "|---|---:|---:|---|"]
    for ratio in RATIOS:
        value = ratio.value(records)
        asked = "" if ratio.wanted is None else f"{ratio.wanted:g}"
        found = NOT_RUN if value is None else f"{value:.2f}"
        lines.append(f"| {ratio.what} | {found} | {asked} | {verdict(ratio, value)} |")
    return lines


def verdict(ratio: Ratio, value: float | None) -> str:
    """Say of one comparison how it stands to its aim."""
    if ratio.wanted is None:
        return "none"
    if value is None:
        return NOT_RUN
    return "met" if value >= ratio.wanted else "**missed**"


def counts(records: Mapping[str, Record]) -> str:
    """Say in one line how many aims are met."""
    values = [(ratio, ratio.value(records)) for ratio in RATIOS if ratio.wanted is not None]
    found = [verdict(ratio, value) for ratio, value in values]
    missed = [
        f"{ratio.what} ({value:.2f} of {ratio.wanted:g})"
        for ratio, value in values
        if value is not None and verdict(ratio, value) == "**missed**"
    ]
    line = f"{found.count('met')} of {len(found)} aims met, {len(missed)} missed, "
    line += f"{found.count(NOT_RUN)} not run."
    return line + (f" Missed: {'; '.join(missed)}." if missed else "")


def tables(record: Record) -> list[str]:
    """Show a record's rows: a table for each name under `table`, or for each set of fields."""
    groups: dict[object, list[Record]] = {}
    for row in record["rows"]:
        groups.setdefault(row.get("table", tuple(row)), []).append(row)
    lines: list[str] = []
    for name, group in groups.items():
        rows = [{key: row[key] for key in row if key != "table"} for row in group]
        if isinstance(name, str):
            lines += ["", f"### {name[0].upper()}{name[1:]}"]
        lines += ["", *table(rows)]
    return lines


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show rows with every field that any of them has; numbers to the right."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    numeric = [all(isinstance(row.get(key, 0), int | float) for row in rows) for key in fields]
    lines = [
        f"| {' | '.join(field.replace('_', ' ') for field in fields)} |",
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
    ]
    lines += [f"| {' | '.join(cell(row.get(key, '')) for key in fields)} |" for row in rows]
    return lines


def cell(value: object) -> str:
    """Show a value: no more than five digits of a number, rounds that are in JSON as words."""
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.0f}"
    if isinstance(value, str) and value.startswith("{"):
        return ", ".join(f"{key} {each}" for key, each in json.loads(value).items())
    return str(value).replace("|", "\\|")


def plot(records: Mapping[str, Record], path: Path) -> None:
    """Draw the ratios that are known."""
    shown = [(ratio, value) for ratio in RATIOS if (value := ratio.value(records)) is not None]
    mpl.rcParams["svg.hashsalt"] = "collabedit"
    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.42 * len(shown)), layout="constrained")
    names = [ratio.what for ratio, _ in shown]
    is_missed = [verdict(ratio, value) == "**missed**" for ratio, value in shown]
    # From 1 on: a bar to the left is worse than the other way.
    axes.barh(
        names,
        [value - 1 for _, value in shown],
        left=1,
        color=["#b9770e" if missed else "#3b6ea5" for missed in is_missed],
    )
    for place, (ratio, value) in enumerate(shown):
        # Beyond the red line if that is where the figure would stand.
        ends = [value, *([] if ratio.wanted is None else [ratio.wanted])]
        near = [end for end in ends if 1 / 1.5 < end / value < 1.5]
        place_x, align = (max(near) * 1.05, "left") if value >= 1 else (min(near) / 1.05, "right")
        axes.text(place_x, place, f"{value:.3g}", va="center", ha=align, fontsize=8)
        if ratio.wanted is not None:
            axes.plot([ratio.wanted] * 2, [place - 0.4, place + 0.4], color="#c0392b", lw=2)
    if shown:
        axes.set_xscale("log")
        most = max(max(value, ratio.wanted or value) for ratio, value in shown)
        least = min(min(value, ratio.wanted or value) for ratio, value in shown)
        axes.set_xlim(min(least, 1) / 1.8, max(most, 1) * 1.8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="black", lw=0.8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("times better than the other way; red line: asked for; brown: missed")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def page(records: Mapping[str, Record]) -> str:
    """Write the page."""
    lines = ["# Benchmarks of this machine", ""]
    for first in list(records.values())[:1]:
        processor = first.get("processor", first["machine"])
        lines += [f"{processor}, {first['cpus']} processors, Python {first['python']}.", ""]
    lines += [
        "Made by `python benchmarks/page.py`; `benchmarks/README.md` says what a row is. `load` is",
        "of the machine when the benchmark ended: above the number of processors something else",
        "was running.",
        "",
        "## Aims",
        "",
        counts(records),
        "",
        *summary(records),
        "",
        "![ratios](ratios.svg)",
    ]
    for name in dict.fromkeys((*MAIN, *records)):
        lines += ["", f"## {name}", ""]
        if name not in records:
            lines.append(f"{NOT_RUN}: `python benchmarks/bench_{name}.py`")
            continue
        record = records[name]
        settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())
        lines.append(f"Load {record['load']}." + (f" {settings}." if settings else ""))
        if name == "links":
            lines += link_figures.section(record)
        lines += tables(record)
    return "\n".join(lines) + "\n"


def read(names: Sequence[Path]) -> dict[str, Record]:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in names}
    # Others than `timing.write_record` write may lie there, too.
    return {name: record for name, record in found.items() if "settings" in record}


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    records = read(sorted(OUTPUT.glob("*.json")))
    plot(records, OUTPUT / "ratios.svg")
    if "links" in records:
        link_figures.plot(records["links"], OUTPUT / link_figures.PICTURE)
    (OUTPUT / "README.md").write_text(page(records), encoding="utf-8")
    sys.stdout.write(f"{OUTPUT / 'README.md'}\n{counts(records)}\n")


if __name__ == "__main__":
    main()
