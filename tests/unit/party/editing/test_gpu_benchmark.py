"""The benchmark for GPUs on the CPU, as most machines that run these tests have no other device."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[4]
RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import timing
from pathlib import Path
timing.OUTPUT = Path(sys.argv.pop(1))
import bench_gpu
bench_gpu.main()
"""


def record(out: Path, *options: str) -> dict[str, object]:
    command = [sys.executable, "-c", RUN, str(ROOT / "benchmarks"), str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=120)
    found: dict[str, object] = json.loads((out / "gpu.json").read_text())
    return found


def test_it_runs_on_the_cpu(tiny_directory: Callable[[str], Path], tmp_path: Path) -> None:
    options = ["--device", "cpu", "--layers", "1-2", "--size", "64", "--keys", "128"]
    options += ["--windows", "2", "--runs", "1", "--autocast", "bfloat16"]
    found = record(tmp_path, "--model", str(tiny_directory("llama")), *options)
    assert found["settings"]["ran"] is True  # type: ignore[index]
    rows = {row["what"]: row for row in found["rows"]}  # type: ignore[attr-defined]
    assert rows["targets, autocast bfloat16"]["edits_per_second"] > 0
    assert rows["second moments"]["tokens_per_second"] > 0
    assert rows["square product, float64"]["share_of_roofline"] == 1
    assert rows["K K^T, float32"]["gigaflop_per_second"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_it_says_that_it_did_not_run(tmp_path: Path) -> None:
    found = record(tmp_path)
    assert found["rows"] == []
    assert found["settings"] == {
        "ran": False,
        "why": "no CUDA device here, or a torch without CUDA",
    }
