"""A page of what the benchmarks on this machine found: out/bench/README.md and ratios.svg.

    python benchmarks/page.py

It reads the records that are there; a benchmark that did not run here is said to be missing.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from timing import OUTPUT

Record = Mapping[str, Any]


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
        "upload over mutual TLS, beside a bare stream",
        {"what": "ours"},
        "ratio_to_raw",
        is_inverse=True,
        wanted=0.8,
    ),
)


def summary(records: Mapping[str, Record]) -> list[str]:
    lines = ["| comparison | ours is better by | asked for | |", "|---|---|---|---|"]
    for ratio in RATIOS:
        value = ratio.value(records)
        asked = "" if ratio.wanted is None else f"{ratio.wanted:g}"
        if value is None:
            found, verdict = "did not run", ""
        else:
            found = f"{value:.2f}"
            is_met = ratio.wanted is None or value >= ratio.wanted
            verdict = "" if ratio.wanted is None else ("met" if is_met else "**missed**")
        lines.append(f"| {ratio.what} | {found} | {asked} | {verdict} |")
    return lines


def table(record: Record) -> list[str]:
    """Show a record's rows, with every field that any of them has."""
    fields = list(dict.fromkeys(field for row in record["rows"] for field in row))
    lines = [f"| {' | '.join(fields)} |", "|" + "---|" * len(fields)]
    lines += [
        f"| {' | '.join(str(row.get(field, '')) for field in fields)} |" for row in record["rows"]
    ]
    return lines


def plot(records: Mapping[str, Record], path: Path) -> None:
    shown = [(ratio, value) for ratio in RATIOS if (value := ratio.value(records)) is not None]
    mpl.rcParams["svg.hashsalt"] = "collabedit"
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.42 * len(shown)), layout="constrained")
    names = [ratio.what for ratio, _ in shown]
    axes.barh(names, [value for _, value in shown], color="#3b6ea5")
    for place, (ratio, value) in enumerate(shown):
        axes.text(value * 1.05, place, f"{value:.3g}", va="center", fontsize=8)
        if ratio.wanted is not None:
            axes.plot([ratio.wanted] * 2, [place - 0.4, place + 0.4], color="#c0392b", lw=2)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.axvline(1, color="black", lw=0.8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("times better than the other way; red: asked for")
    figure.savefig(path, metadata={"Date": None})


def page(records: Mapping[str, Record]) -> str:
    first = next(iter(records.values()))
    machine = f"{first.get('processor', first['machine'])}, {first['cpus']} processors"
    lines = [
        "# Benchmarks of this machine",
        "",
        f"{machine}, Python {first['python']}. Made by `python benchmarks/page.py`; what a row is,",
        "says `benchmarks/README.md`. `load` is of the machine when the benchmark ended: above the",
        "number of processors something else was running.",
        "",
        *summary(records),
        "",
        "![ratios](ratios.svg)",
    ]
    for name, record in records.items():
        settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())
        lines += ["", f"## {name}", "", f"load {record['load']}. {settings}", "", *table(record)]
    return "\n".join(lines) + "\n"


def read(names: Sequence[Path]) -> dict[str, Record]:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in names}
    # Others than `timing.write_record` write may lie there, too.
    return {name: record for name, record in found.items() if "settings" in record}


def main() -> None:
    records = read(sorted(OUTPUT.glob("*.json")))
    if not records:
        sys.exit(f"{OUTPUT} has no records: run a benchmark first")
    plot(records, OUTPUT / "ratios.svg")
    (OUTPUT / "README.md").write_text(page(records), encoding="utf-8")
    sys.stdout.write(f"{OUTPUT / 'README.md'}\n")


if __name__ == "__main__":
    main()
