"""The command line with `--backend ckks`."""

from pathlib import Path

from collabedit.plan import load_plan
from tests.e2e.test_cli import INPUT, assert_refused, plan_new, words
from tests.support.processes import Federation, run_here


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
