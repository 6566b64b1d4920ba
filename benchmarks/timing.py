"""Interleaved timing of alternatives, and the record that a benchmark leaves behind.

Alternatives are run in turn, round after round, so that a busy machine slows all of them alike and
their ratio stays meaningful.
"""

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).parents[1] / "out" / "bench"


@dataclass(frozen=True, slots=True)
class Timed:
    """Several runs of one alternative, in seconds.

    Attributes:
        wall: median by the wall clock.
        cpu: median processor time of this process, all threads.
        best: shortest by the wall clock.
        runs: how many.
    """

    wall: float
    cpu: float
    best: float
    runs: int


def time_in_turn(
    alternatives: Mapping[str, Callable[[], object]], *, runs: int = 5, warm_up: bool = True
) -> dict[str, Timed]:
    """Time every alternative `runs` times, in turn; first once unmeasured if `warm_up`."""
    wall: dict[str, list[float]] = {name: [] for name in alternatives}
    cpu: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(runs + warm_up):
        for name, run in alternatives.items():
            gc.collect()
            started, used = time.perf_counter(), time.process_time()
            run()
            if number >= warm_up:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
    return {
        name: Timed(
            statistics.median(wall[name]), statistics.median(cpu[name]), min(wall[name]), runs
        )
        for name in alternatives
    }


def milliseconds(timed: Timed) -> dict[str, float]:
    """Return a timing as a record shows it."""
    values = {key: round(1e3 * value, 4) for key, value in asdict(timed).items() if key != "runs"}
    return {f"{key}_ms": value for key, value in values.items()}


def write_record(name: str, rows: list[dict[str, object]], **settings: object) -> None:
    """Print the rows, and write them with the machine's description to out/bench/NAME.json."""
    record = {
        "benchmark": name,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "settings": settings,
        "rows": rows,
    }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{name}  {json.dumps(settings)}\n")
    for row in rows:
        sys.stdout.write("  " + "  ".join(f"{key}={_short(row[key])}" for key in row) + "\n")


def _processor() -> str:
    """Return the processor's name as Linux has it, else what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
