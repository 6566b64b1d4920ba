"""`plan new` and `plan show` about closed sums."""

from pathlib import Path

import pytest

from collabedit.closed import PROPOSED_DECOY_BOUND, PROPOSED_MIN_EDITS, Closed
from collabedit.plan import load_plan
from tests.e2e.test_cli import INPUT, assert_refused, plan_new, words
from tests.support.processes import Federation, run_here


def test_sums_are_closed_unless_a_plan_opens_them(federation: Federation, tmp_path: Path) -> None:
    closed, opened = tmp_path / "closed.toml", tmp_path / "open.toml"
    run_here(*plan_new(federation, out=closed)).ok()
    run_here(*plan_new(federation, out=opened, min_edits=None), "--open-sums").ok()
    assert load_plan(closed).closed == Closed()
    assert load_plan(opened).closed is None
    assert "checked by 4 secret vectors to 0.0001" in words(run_here("plan", "show", closed).err)
    assert "its merge is not checked" in words(run_here("plan", "show", opened).err)


def test_every_option_reaches_the_plan(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    options: dict[str, object] = {"check_columns": 2, "check_tolerance": 0.001}
    options |= {"cover_edits": 3, "min_edits": 5}
    run_here(*plan_new(federation, out=out, **options)).ok()
    plan = load_plan(out)
    assert plan.closed == Closed.model_validate(options)
    edits = plan.max_edits(plan.party_ids)
    assert plan.aggregation.capacity == edits + 3 * len(plan.party_ids) + 8
    shown = words(run_here("plan", "show", out).err)
    assert "3 cover edits each, at least 5 edits together" in shown


def test_keys_of_one_length_bring_decoys_along(federation: Federation, tmp_path: Path) -> None:
    out, other = tmp_path / "plan.toml", tmp_path / "other.toml"
    run_here(*plan_new(federation, out=out), "--equal-lengths").ok()
    plan = load_plan(out)
    assert plan.closed == Closed(decoy_bound=PROPOSED_DECOY_BOUND)
    assert plan.editing.key_length is not None
    shown = words(run_here("plan", "show", out).err)
    assert "residuals hidden to 0.01" in shown
    assert f"of length {plan.editing.key_length:.4g}" in shown
    options = {"decoy_bound": 0.5, "length_units": 8}
    run_here(*plan_new(federation, out=other, **options), "--equal-lengths").ok()
    assert load_plan(other).closed == Closed(decoy_bound=0.5)
    assert load_plan(other).editing.key_length == pytest.approx(2 * plan.editing.key_length)


def test_units_of_a_length_need_keys_of_one(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    refused = run_here(*plan_new(federation, out=out, length_units=3))
    assert_refused(refused, INPUT, "--length-units: needs --equal-lengths")


def test_keys_of_one_length_need_no_closed_sums(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, min_edits=None), "--open-sums", "--equal-lengths").ok()
    assert load_plan(out).closed is None
    assert load_plan(out).editing.key_length is not None


@pytest.mark.parametrize(
    "option", ["check_columns", "check_tolerance", "cover_edits", "min_edits", "decoy_bound"]
)
def test_options_of_closed_sums_mean_nothing_for_open_ones(
    option: str, federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    asked = plan_new(federation, out=out, **{"min_edits": None, option: 1})
    refused = run_here(*asked, "--open-sums")
    flag = option.replace("_", "-")
    assert_refused(refused, INPUT, f"--{flag} has no meaning with --open-sums")
    assert not out.exists()


def test_few_edits_are_refused_unless_their_author_accepts_it(
    federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    edits = federation.plan.max_edits(federation.plan.party_ids)
    assert edits < PROPOSED_MIN_EDITS
    refused = run_here(*plan_new(federation, out=out, min_edits=None))
    said = f"the parties may bring {edits} edits together"
    assert_refused(refused, INPUT, said, "accept it with --min-edits 0")
    too_many = run_here(*plan_new(federation, out=out, min_edits=edits + 1))
    assert_refused(too_many, INPUT, f"closed.min_edits {edits + 1}: the parties may bring {edits}")
    assert not out.exists()


def test_a_new_plan_asks_for_enough_edits(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    more = [
        f"{part[: part.rindex(':')]}:10" if part.startswith("--party=") else part
        for part in plan_new(federation, out=out, min_edits=None)
    ]
    run_here(*more).ok()
    closed = load_plan(out).closed
    assert closed == Closed(min_edits=PROPOSED_MIN_EDITS)
