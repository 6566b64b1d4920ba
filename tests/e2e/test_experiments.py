"""`collabedit experiment` from a file to tables, on a tiny model; killed half-way and gone on."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w

from tests.support.processes import PROGRAM, WAIT_SECONDS, Outcome, environment, run_command
from tests.support.tiny_models import build_tiny_model

# Many processes that import torch on few and busy cores.
pytestmark = pytest.mark.timeout(900)

PARITY = {"first_layer_error": 1e-9, "layer_error": 1e-7}
METHODS = ["task-arithmetic", "collabedit-parallel", "collabedit-sequential", "centralised"]
LONG = 600.0


def experiment(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  any TOML
    """An experiment on the project's own facts."""
    return {
        "version": 1,
        "name": "tiny",
        "title": "A tiny one",
        "model": {"name": "tiny", "directory": "model", "dtype": "float64"},
        "covariance": {"tokens": 512, "window": 32},
        "editors": [
            {"editor": "memit", "layers": [1, 2], "covariance_weight": 30.0, "target_steps": 3}
        ],
        "grids": [{"methods": METHODS, "parties": [3], "edits_per_party": [1]}],
        "measures": {"perplexity": False},
        "acceptance": {**PARITY, "score_gap": 1e-6},
        "figures": [{"kind": "bars"}],
        **changes,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("experiments")
    build_tiny_model("llama", place / "model")
    return place


def write(place: Path, **changes: Any) -> Path:  # noqa: ANN401  any TOML
    path = place / f"{changes.get('name', 'tiny')}.toml"
    path.write_text(tomli_w.dumps(experiment(**changes)))
    return path


def run(file: Path, out: Path, *more: object) -> Outcome:
    cache = file.parent / "cache"
    options = ("--out", out, "--cache", cache, "--workers", 1, "--threads", 1, *more)
    return run_command("experiment", "run", file, *options, timeout=LONG)


def values(out: Path, metric: str) -> dict[str, float]:
    rows = pd.read_parquet(out / "results.parquet")
    chosen = rows[(rows["metric"] == metric) & (rows["part"] == "all")]
    return {
        f"{row['method']} {row['policy']} {row['after_round']}": row["value"]
        for _, row in chosen.iterrows()
    }


@pytest.mark.slow
def test_every_kind_of_cell_ends_in_one_table(place: Path, tmp_path: Path) -> None:
    common = {"methods": ["collabedit-sequential", "centralised"], "parties": [3]}
    file = write(
        place,
        grids=[
            {"methods": METHODS, "parties": [3], "edits_per_party": [1]},
            {**common, "edits_per_party": [1], "rounds": [2], "memory": [1]},
            {
                **common,
                "edits_per_party": [2],
                "overlap": [0.5],
                "conflict": [0.5],
                "policy": ["none", "keep", "majority", "drop", "augment"],
            },
            # Nothing is left to apply.
            {**common, "edits_per_party": [1], "conflict": [1.0], "policy": ["drop"]},
        ],
        figures=[{"kind": kind} for kind in ("curve", "forgetting", "overlap", "conflict", "bars")],
    )
    out = tmp_path / "out"
    done = run(file, out)
    assert done.code == 0, done.err
    first, worst = values(out, "error_first_layer"), values(out, "error_worst_layer")
    assert first["collabedit-parallel none 1"] < 1e-9
    assert worst["collabedit-sequential none 2"] < 1e-7
    assert first["task-arithmetic none 1"] > 1e-3
    # Sessions that count equal the trustee who knows who has what.
    unique = values(out, "error_unique_worst_layer")
    for policy in ("keep", "majority", "drop", "augment"):
        assert unique[f"collabedit-sequential {policy} 1"] < 1e-7
    assert unique["collabedit-sequential none 1"] > 1e-3
    scores = values(out, "score")
    assert scores["collabedit-sequential none 2"] == scores["centralised none 2"]
    for name in ("curve", "forgetting", "overlap", "conflict", "bars"):
        assert (out / f"tiny-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"tiny-{name}.svg").read_text().startswith("<?xml")
    report = (out / "report.md").read_text()
    assert "| every layer against centralised |" in report
    assert "one seed, 95 % intervals over edits" in report
    assert len(pd.read_csv(out / "results.csv")) == len(pd.read_parquet(out / "results.parquet"))
    for kept in (out / "cells").iterdir():
        assert "Eiffel" not in kept.read_text(), "results hold no text of an edit"


@pytest.mark.slow
def test_a_killed_run_goes_on_and_a_changed_file_runs_what_changed(
    place: Path, tmp_path: Path
) -> None:
    seeds = list(range(6))
    grid = {"methods": ["collabedit-sequential"], "parties": [3], "edits_per_party": [1]}
    rest: dict[str, Any] = {"name": "killed", "acceptance": PARITY, "figures": []}
    file = write(place, grids=[{**grid, "seeds": seeds}], **rest)
    out = tmp_path / "out"
    options = ("--out", out, "--cache", place / "cache", "--workers", 1, "--threads", 1)
    process = subprocess.Popen(
        [*PROGRAM, *map(str, ("experiment", "run", file, *options))],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        before = await_results(out / "cells", 2)
    finally:
        # With its workers: nothing of it is left to finish anything.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = stamps(out / "cells")
    assert 2 <= len(before) < len(seeds)
    again = run(file, out)
    assert again.code == 0, again.err
    assert f"{len(seeds)} cells, {len(seeds) - len(before)} to run" in again.err
    after = stamps(out / "cells")
    assert len(after) == len(seeds)
    assert before.items() <= after.items(), "a finished cell was written again"
    changed = write(place, grids=[{**grid, "seeds": [0, 1, 7]}], **rest)
    third = run(changed, out)
    assert third.code == 0, third.err
    assert "3 cells, 1 to run" in third.err
    assert after.items() <= stamps(out / "cells").items()
    rows = pd.read_parquet(out / "results.parquet")
    assert set(rows["seed"]) == {0, 1, 7}, "the table is of the file as it is now"


def await_results(folder: Path, count: int) -> dict[str, int]:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = stamps(folder)
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {count} results in {folder}")


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


@pytest.mark.slow
def test_a_failed_cell_is_reported_and_the_others_are_kept(place: Path, tmp_path: Path) -> None:
    # A threshold that cuts no null space: alphaedit refuses, memit does not mind.
    editors = [
        *experiment()["editors"],
        {"editor": "alphaedit", "layers": [1], "nullspace_threshold": 1e-30, "target_steps": 2},
    ]
    grid = {"methods": ["centralised"], "parties": [3], "edits_per_party": [1]}
    file = write(place, name="failing", editors=editors, grids=[grid], acceptance={})
    out = tmp_path / "out"
    failed = run(file, out)
    assert failed.code == 10, failed.err
    assert "1 cells have no result, first centralised, alphaedit" in failed.lines[-1]
    assert "InputError" in failed.lines[-1]
    assert set(pd.read_parquet(out / "results.parquet")["editor"]) == {"memit"}
    assert "Cells without a result" in (out / "report.md").read_text()
    again = run_command("experiment", "report", out)
    assert again.code == 10
    assert len(list((out / "cells").iterdir())) == 2


@pytest.mark.slow
def test_a_missed_bound_is_exit_code_7_and_a_report_can_be_made_again(
    place: Path, tmp_path: Path
) -> None:
    grid = {"methods": ["collabedit-parallel"], "parties": [3], "edits_per_party": [1]}
    file = write(place, name="missing", grids=[grid], acceptance={"layer_error": 1e-30}, figures=[])
    out = tmp_path / "out"
    missed = run(file, out)
    assert missed.code == 7, missed.err
    assert "every layer against centralised" in missed.lines[-1]
    (out / "report.md").unlink()
    assert run_command("experiment", "report", out).code == 7
    assert "| NO |" in (out / "report.md").read_text()
    other = write(place, name="other")
    refused = run(other, out)
    assert refused.code == 2
    assert "holds experiment missing" in refused.lines[-1]


@pytest.mark.slow
def test_a_dry_run_needs_a_configuration_and_no_weights(tmp_path: Path) -> None:
    model = {
        "name": "tiny",
        "config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48}
        | {"num_hidden_layers": 6, "num_attention_heads": 4},
    }
    file = write(tmp_path, model=model)
    shown = run_command("experiment", "check", file)
    assert "4 cells" in shown.ok()
    assert "collabedit-sequential, memit, 3x1, seed 0" in shown.out
    small = [{"methods": METHODS, "parties": [3], "edits_per_party": [21]}]
    refused = run_command("experiment", "check", write(tmp_path, model=model, grids=small))
    assert refused.code == 2
    assert "needs 63 different facts" in refused.lines[-1]
    assert run_command("experiment", "report", tmp_path).code == 2


SMALL = Path(__file__).parents[2] / "experiments" / "small"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["headline", "overlap"])
def test_the_small_experiments_hold_their_bounds_on_a_real_model(name: str, tmp_path: Path) -> None:
    """Downloads the demo's model, 93 MB. `make experiments` runs the other files, too."""
    out = tmp_path / name
    done = run_command("experiment", "run", SMALL / f"{name}.toml", "--out", out, timeout=1700)
    assert done.code == 0, done.err
    assert (out / "report.md").exists()
    cells = [json.loads(path.read_text()) for path in (out / "cells").iterdir()]
    assert all(cell["failure"] is None for cell in cells)
