"""`collabedit audit` from a file to a report, on a tiny model; killed half-way and gone on."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from collabedit.audit.results import AuditReport
from tests.e2e.test_experiments import await_results, stamps
from tests.support.guessing import finds_everything, is_near
from tests.support.processes import PROGRAM, Outcome, environment, run_command, run_here
from tests.support.tiny_models import build_tiny_model
from tests.unit.attacks.test_registry import install

# Each starts many processes that import torch, on few and busy cores; tests/unit/audit is fast.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = 600.0

FOREIGN = '''
"""An attack of another package: whoever comes first in the list."""

from dataclasses import dataclass

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import AggregatorView, first_layer
from collabedit.threat_model import Adversary


@dataclass(frozen=True)
class First:
    name: str = "first-come"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        count = prior.mapped_keys[first_layer(view.plan)].shape[1]
        return Finding(self.name, (None,), -np.arange(float(count))[None])


ENTRY = Entry(
    name="first-come",
    asks="Who comes first?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=First,
    source="none",
    departs="in nothing",
    headline="recall@n",
)
'''


def audit(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  any TOML
    """An audit on the project's own facts."""
    return {
        "version": 1,
        "name": "tiny",
        "title": "A tiny one",
        "model": {"name": "tiny", "directory": "model", "dtype": "float64"},
        "covariance": {"tokens": 512, "window": 32},
        "editor": {"layers": [1, 2], "covariance_weight": 30.0, "target_steps": 2},
        "pool": {"candidates": 60, "members": 12},
        "grids": [
            {
                "attacks": ["attribution", "differencing", "sum-span", "update-span"],
                "defences": ["plaintext", "masked", "closed"],
                "parties": [3],
                "edits": [6],
                "seeds": [1, 2],
            }
        ],
        **changes,
    }


def write(place: Path, **changes: Any) -> Path:  # noqa: ANN401  any TOML
    path = place / f"{changes.get('name', 'tiny')}.toml"
    path.write_text(tomli_w.dumps(audit(**changes)))
    return path


def run(file: Path, out: Path, *more: object) -> Outcome:
    cache = file.parent / "cache"
    options = ("--out", out, "--cache", cache, "--workers", 1, "--threads", 1, *more)
    return run_command("audit", "run", "--config", file, *options, timeout=LONG)


def report_of(out: Path) -> AuditReport:
    return AuditReport.model_validate_json((out / "report.json").read_bytes(), strict=False)


def reported_again(done: Path, copy: Path) -> Path:
    """Make the report of a copy of a folder anew: it has the same bytes."""
    shutil.copytree(done, copy)
    (copy / "report.json").unlink()
    assert "recipient: leaks" in run_here("audit", "report", copy).ok()
    assert (copy / "report.json").read_bytes() == (done / "report.json").read_bytes()
    return copy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("audits")
    build_tiny_model("llama", place / "model")
    return place


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    """The folder of an audit that ran. Read only."""
    file = write(place, utility={"measure": True})
    ended = run(file, place / "out")
    assert ended.code == 0, ended.err
    return place / "out"


def test_a_report_has_the_matrix_verdicts_and_what_was_left_out(done: Path) -> None:
    report = report_of(done)
    rows = {(row.attack, row.defence): row for row in report.rows}
    assert rows["sum-span", "masked"].metrics[0].value == 1.0
    assert rows["sum-span", "masked"].severity == "leaks"
    assert not finds_everything(rows["sum-span", "closed"])
    assert rows["attribution", "plaintext"].metrics[0].name == "attribution"
    assert rows["attribution", "plaintext"].metrics[0].value == 1.0
    curve = rows["update-span", "closed"].curve
    assert curve is not None
    assert set(curve.true_positive) == {1.0}
    assert {row.draws for row in report.rows} == {2}
    assert {row.saturation for row in report.rows} == {6 / 32}
    areas = [metric for row in report.rows for metric in row.metrics if metric.name == "auc"]
    assert {metric.method for metric in areas} == {"bootstrap"}
    assert all(metric.low <= metric.value <= metric.high for metric in areas)
    refuted = rows["update-span", "closed"].epsilon
    assert refuted is not None
    # Twice six of twelve: all pairs are guessed about, and rightly.
    assert (refuted.pairs, refuted.guesses, refuted.right) == (12, 12, 12)
    assert refuted.value == pytest.approx(0.82, abs=0.01)
    verdicts = {each.adversary: each for each in report.verdicts}
    assert verdicts["recipient"].severity == "leaks"
    assert report.rows[verdicts["recipient"].evidence[0]].attack == "update-span"
    assert verdicts["network"].severity == "not-tested"
    assert any(
        text.startswith("differencing on plaintext, masked, closed: a plan of 3 parties")
        for text in report.not_tested
    )
    assert {each.defence for each in report.utility} == {"plaintext", "masked", "closed"}
    assert all(each.efficacy is not None for each in report.utility)
    assert report.comparisons == len(report.rows)
    assert set(report.digests) >= {"configuration", "model", "candidates", "covariance"}


def test_neither_the_report_nor_results_hold_a_text_of_an_edit_or_a_path(
    done: Path, place: Path
) -> None:
    for kept in (done / "report.json", done / "run.json", *(done / "cells").iterdir()):
        text = kept.read_text()
        assert "Eiffel" not in text
        assert str(place) not in text
    sessions = list((place / "cache" / "audit" / "sessions").iterdir())
    assert sessions
    assert all(path.stat().st_mode & 0o077 == 0 for path in sessions)


def test_the_same_audit_elsewhere_gives_the_same_bytes(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done.parent / "model", tmp_path / "model")
    again = run(write(tmp_path, utility={"measure": True}), tmp_path / "elsewhere")
    assert again.code == 0, again.err
    assert (tmp_path / "elsewhere" / "report.json").read_bytes() == (
        done / "report.json"
    ).read_bytes()


def test_a_report_is_made_again_and_held_against_bounds(done: Path, tmp_path: Path) -> None:
    copy = reported_again(done, tmp_path / "out")
    holds = run_here("audit", "check", copy, "--max", "recall@n:honest-aggregator=0.9")
    assert holds.code == 0, holds.err
    missed = run_here("audit", "check", copy, "--max", "recall@n:recipient=0.9")
    assert missed.code == 7
    assert "recall@n:recipient is 1 (update-span on closed, 3 parties" in missed.lines[-1]
    unmeasured = run_here("audit", "check", copy, "--max", "auc:network=0.9")
    assert unmeasured.code == 7
    assert "no row on a deployed defence measures it" in unmeasured.lines[-1]
    for wrong in ("auc", "auc:nobody=1", "auc:recipient=much", "auc:recipient"):
        refused = run_here("audit", "check", copy, "--max", wrong)
        assert refused.code == 2, wrong
        assert wrong in refused.lines[-1]
    assert "no bounds" in run_here("audit", "check", copy).lines[-1]
    assert run_here("audit", "report", tmp_path).code == 2


def test_a_dry_run_lists_cells_and_loads_nothing(tmp_path: Path) -> None:
    shown = run_here("audit", "run", "--config", write(tmp_path), "--dry-run")
    assert "18 cells" in shown.ok()
    assert "left out: differencing on masked: a plan of 3 parties" in shown.out
    refused = run_here("audit", "run", "--config", write(tmp_path), "--only", "guess")
    assert refused.code == 2
    assert "attack guess is not installed" in refused.lines[-1]


def test_a_package_that_cannot_be_loaded_holds_up_who_asks_for_it_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken", {"rude": "broken:ENTRY"}, "raise RuntimeError('gone')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    listed = run_command("audit", "list")
    assert listed.code == 2
    assert "package broken: its attack rude cannot be loaded: gone" in listed.err
    assert "sum-span" in listed.out
    cells = {"defences": ["closed"], "parties": [3], "edits": [6]}
    named = write(place, name="named", grids=[{"attacks": ["sum-span"], **cells}])
    assert run(named, tmp_path / "out", "--dry-run").code == 0
    everything = write(place, name="everything", grids=[{"attacks": ["*"], **cells}])
    refused = run(everything, tmp_path / "out", "--dry-run")
    assert refused.code == 2
    assert "package broken" in refused.err


def test_an_attack_of_another_package_is_in_the_list_and_in_the_matrix(
    place: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del done  # its cache has the sessions
    install(tmp_path, "waiting", {"first-come": "waiting:ENTRY"}, FOREIGN)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    listed = run_command("audit", "list").ok()
    line = next(line for line in listed.splitlines() if "first-come" in line)
    assert "honest-aggregator" in line
    assert "waiting" in line
    grid = {"attacks": ["first-come"], "defences": ["closed"], "parties": [3], "edits": [6]}
    ended = run(write(place, name="foreign", grids=[grid]), tmp_path / "out")
    assert ended.code == 0, ended.err
    report = report_of(tmp_path / "out")
    assert [(row.attack, row.metrics[0].name) for row in report.rows] == [
        ("first-come", "recall@n")
    ]
    assert [(card.name, card.package) for card in report.attacks] == [("first-come", "waiting")]


def test_an_attack_that_fails_is_named_and_the_others_are_reported(
    place: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del done
    broken = FOREIGN.replace("count = prior", "raise KeyError('secret')\n        count = prior")
    install(tmp_path, "waiting", {"first-come": "waiting:ENTRY"}, broken)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    grid = {
        "attacks": ["first-come", "sum-span"],
        "defences": ["closed"],
        "parties": [3],
        "edits": [6],
    }
    ended = run(write(place, name="failing", grids=[grid]), tmp_path / "out")
    assert ended.code == 10
    assert "first-come on closed, 3 parties, 6 edits, seed 0: KeyError" in ended.lines[-1]
    rows = {row.attack: row for row in report_of(tmp_path / "out").rows}
    assert rows["first-come"].severity == "not-tested"
    assert rows["first-come"].failures[0].startswith("1 draw: KeyError")
    assert "secret" not in (tmp_path / "out" / "report.json").read_text()
    assert rows["sum-span"].metrics


def test_a_killed_audit_goes_on(place: Path, tmp_path: Path) -> None:
    seeds = list(range(10, 18))
    grid = {"attacks": ["sum-span", "update-span"], "defences": ["masked"], "parties": [3]}
    file = write(place, name="killed", grids=[{**grid, "edits": [6], "seeds": seeds}])
    out = tmp_path / "out"
    options = ("--out", out, "--cache", place / "cache", "--workers", 1, "--threads", 1)
    process = subprocess.Popen(
        [*PROGRAM, *map(str, ("audit", "run", "--config", file, *options))],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_results(out / "cells", 2)
    finally:
        # With its workers: nothing of it is left to finish anything.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = stamps(out / "cells")
    assert 2 <= len(before) < 2 * len(seeds)
    unfinished = run_here("audit", "report", out)
    assert unfinished.code == 10
    assert "not run yet" in unfinished.lines[-1]
    again = run(file, out)
    assert again.code == 0, again.err
    assert f"16 cells, {16 - len(before)} to run" in again.err
    after = stamps(out / "cells")
    assert before.items() <= after.items(), "a finished cell was written again"
    assert {row.draws for row in report_of(out).rows} == {len(seeds)}


FEWER = """
[[grids]]
attacks = ["attribution", "sum-span"]
defences = ["plaintext", "masked", "closed"]
parties = [3]
edits = [30]
seeds = [1, 2]

[[grids]]
attacks = ["counts-and-sizes", "model-inconsistency", "poisoning", "replay", "update-span"]
defences = ["closed"]
parties = [3]
edits = [30]
seeds = [1]

[[grids]]
attacks = ["differencing"]
defences = ["masked"]
parties = [4]
edits = [30]
seeds = [1]

"""
"""What the documents claim of the demo audit, without what takes minutes."""


def test_an_audit_says_of_a_real_model_what_the_documents_say(tmp_path: Path) -> None:
    """Downloads the demo's model, 93 MB, unless it is in the cache."""
    demo = (Path(__file__).parents[2] / "audits" / "demo.toml").read_text()
    head, rest = demo[: demo.index("# What the aggregator")], demo[demo.index("[defences]") :]
    # A few steps of the search give residuals of some size; what follows is about keys.
    assert "target_steps = 20" in head
    head = head.replace("target_steps = 20", "target_steps = 4")
    head += '[covariance]\nsource = "python-docs"\n\n'  # is there; writing a text takes minutes
    file, out = tmp_path / "fewer.toml", tmp_path / "out"
    file.write_text(head + FEWER + rest[: rest.index("[attacks.")])
    ended = run_command("audit", "run", "--config", file, "--out", out, timeout=900)
    assert ended.code == 0, ended.err
    report = report_of(out)
    values = {
        (row.attack, row.defence, metric.name): metric
        for row in report.rows
        for metric in row.metrics
    }
    assert values["update-span", "closed", "recall@n"].value >= 0.9
    assert values["sum-span", "masked", "recall@n"].value >= 0.95
    assert is_near(values["sum-span", "closed", "auc"], 0.5)
    assert values["attribution", "plaintext", "attribution"].value == 1.0
    assert is_near(values["attribution", "masked", "attribution"], 1 / 3)
    pair = next(row for row in report.rows if row.attack == "differencing")
    assert pair.metrics[0].value == 1.0
    assert "ledger refuses" in pair.details[0]
    severities = {row.attack: row.severity for row in report.rows if row.defence == "closed"}
    assert severities["replay"] == severities["model-inconsistency"] == "refused"
    assert severities["poisoning"] == "leaks"
    assert severities["counts-and-sizes"] != "leaks"
