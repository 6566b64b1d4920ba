"""`make fault-simulation`: many scenarios on several processes, and what came of them as JSON."""

import argparse
import concurrent.futures
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.simulation.faults.generate import scenario
from tests.simulation.faults.ops import Scenario
from tests.simulation.faults.shrink import as_test, shrink
from tests.simulation.faults.world import Result, play

SEED: Final = 20_000
"""First scenario. The fast suite plays those from 0 on."""

LISTS: Final = 10_000
_CHUNK: Final = 50
_MAXIMUM_SHRUNK: Final = 5


@dataclass(frozen=True)
class Finding:
    """A broken rule.

    Attributes:
        seed: of the scenario.
        name: of the rule.
        detail: what was seen.
    """

    seed: int
    name: str
    detail: str


def play_afresh(wanted: Scenario) -> Result:
    """Play a scenario in a directory of its own, in memory where the machine has such a place."""
    memory = Path("/dev/shm")  # noqa: S108  a directory of its own is made there
    base = memory if memory.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="collabedit-faults-", dir=base))
    try:
        return play(wanted, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _play_chunk(seeds: range) -> tuple[Counter[str], list[Finding]]:
    counts: Counter[str] = Counter()
    findings = []
    for seed in seeds:
        result = play_afresh(scenario(seed))
        counts.update(result.counts)
        if result.finding is not None:
            findings.append(Finding(seed, result.finding.name, str(result.finding)))
    return counts, findings


def shrunk(finding: Finding) -> str:
    """Cut the scenario of a finding down and write it as a test."""

    def fails(wanted: Scenario) -> bool:
        found = play_afresh(wanted).finding
        return found is not None and found.name == finding.name

    return as_test(shrink(scenario(finding.seed), fails), finding.name, finding.detail)


def _grouped(counts: Counter[str], prefix: str) -> dict[str, int]:
    return {
        key.removeprefix(prefix): count
        for key, count in sorted(counts.items())
        if key.startswith(prefix)
    }


def run(first: int, lists: int, *, processes: int) -> dict[str, object]:
    """Play `lists` scenarios from `first` on."""
    started = time.monotonic()
    chunks = [
        range(start, min(start + _CHUNK, first + lists))
        for start in range(first, first + lists, _CHUNK)
    ]
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        for counted, found in pool.map(_play_chunk, chunks):
            counts.update(counted)
            findings += found
    return {
        "seed": first,
        "lists": lists,
        "seconds": round(time.monotonic() - started, 1),
        "operations": _grouped(counts, "op "),
        "ends": _grouped(counts, "end, "),
        "refused": _grouped(counts, "refused "),
        "exact_sums": counts["exact sums"],
        "exact_sums_by_plan": _grouped(counts, "sums, "),
        "openers_ended": _grouped(counts, "openers ended, "),
        "sessions_that_opened_something": counts["sessions that opened something"],
        "crashes": counts["crashes"],
        "restarts": counts["restarts"],
        "findings": [
            {"seed": found.seed, "rule": found.name, "detail": found.detail}
            | ({"test": shrunk(found)} if place < _MAXIMUM_SHRUNK else {})
            for place, found in enumerate(findings)
        ],
    }


def main() -> int:
    """Run the campaign of the command line; 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="number of the first scenario")
    parser.add_argument("--lists", type=int, default=LISTS, help="how many scenarios")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    report = run(options.seed, options.lists, processes=options.processes)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    findings = report["findings"]
    assert isinstance(findings, list)
    for finding in findings:
        print(f"{finding['seed']}: {finding['detail']}\n{finding.get('test', '')}")  # noqa: T201
    print(  # noqa: T201
        f"{options.lists} lists, {report['exact_sums']} exact sums, {report['crashes']} crashes, "
        f"{len(findings)} findings, {report['seconds']} s: {options.out}"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
