"""The command line with `--backend ckks`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from collabedit.plan import load_plan
from tests.e2e.test_cli import INPUT, assert_refused, plan_new, simulate, words
from tests.support.processes import Federation, Outcome, environment, run_here

__all__ = ["simulate"]


def test_a_new_plan_with_ciphertexts(federation: Federation, tmp_path: Path) -> None:
    out, masked = tmp_path / "plan.toml", tmp_path / "masked.toml"
    run_here(*plan_new(federation, out=out), "--backend", "ckks").ok()
    run_here(*plan_new(federation, out=masked)).ok()
    plan = load_plan(out)
    assert plan.is_encrypted
    assert plan.aggregation.magnitude_bound > 32768
    assert plan.aggregation.fractional_bits > 30
    assert load_plan(masked).aggregation.backend == "masked"
    shown = words(run_here("plan", "show", out).err)
    assert "the aggregator and any one party together read every upload" in shown


def test_a_window_is_the_patience_of_every_round(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, window=1.5), "--backend", "ckks").ok()
    timing = load_plan(out).timing.model_dump()
    assert set(timing.values()) == {5400.0}
    refused = run_here(*plan_new(federation, out=tmp_path / "other.toml", window=200))
    assert refused.code == INPUT
    assert "less than or equal to 168" in refused.err


def test_what_ciphertexts_do_not_go_with_is_refused(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    opened = run_here(
        *plan_new(federation, out=out, min_edits=None), "--open-sums", "--backend", "ckks"
    )
    assert_refused(opened, INPUT, "add [closed], or use masked")
    other = run_here(*plan_new(federation, out=out), "--backend", "bfv")
    assert_refused(other, INPUT, "--backend bfv: must be one of masked, ckks")
    counted = run_here(*plan_new(federation, out=out), "--backend", "ckks", "--overlap", "keep")
    assert_refused(counted, INPUT, "goes neither with privacy nor with overlap")
    assert not out.exists()


def test_simulate_with_a_dropout(simulate: Callable[..., Outcome]) -> None:
    report = json.loads(simulate("--backend", "ckks", "--crash", "1:r3").ok())
    assert report["aborted"] is None
    others = ["party-2", "party-3", "party-4", "party-5"]
    assert [task["survivors"] for task in report["tasks"]] == [others, others]
    assert report["before"] != report["after"]


def test_simulate_without_an_opener_says_so(simulate: Callable[..., Outcome]) -> None:
    outcome = simulate("--backend", "ckks", "--crash", "1:r5")
    assert outcome.code == 5
    assert "OPENER_GONE" in outcome.err
    assert "party 1 alone may open the sum" in " ".join(outcome.err.split())


def test_without_the_extra_a_party_is_told_before_anything_is_sent(
    federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out), "--backend", "ckks").ok()
    # As if TenSEAL were not installed: a module that is None cannot be imported.
    program = (
        "import sys; sys.modules['tenseal'] = None; from collabedit import cli; "
        "sys.argv[0] = 'collabedit'; cli.main()"
    )
    arguments = federation.join_options("party-1", work=tmp_path / "work", port=1, plan=out)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == INPUT
    assert "the CKKS backend needs TenSEAL: pip install 'collabedit[ckks]'" in words(done.stderr)
    assert not (tmp_path / "work").exists()
