"""What the command line does about differential privacy: plans with noise, shown and checked."""

from pathlib import Path

import pytest

from collabedit.plan import load_plan
from tests.e2e.test_cli import INPUT, assert_refused, plan_new, words
from tests.support.processes import Federation, run_here

pytest.importorskip("dp_accounting")


@pytest.mark.parametrize("unit", [None, "edit", "party"])
def test_a_new_plan_has_the_noise_that_was_asked_for(
    unit: str | None, federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    wish = {"epsilon": 2, "delta": 1e-7, "privacy_unit": unit}
    asked = plan_new(federation, out=out, min_edits=None, **wish)
    digest = run_here(*asked, "--open-sums").ok()
    plan = load_plan(out)
    assert plan.privacy is not None
    assert (plan.privacy.epsilon, plan.privacy.delta) == (2.0, 1e-7)
    assert plan.privacy.unit == unit or (unit is None and plan.privacy.unit == "edit")
    # Of three parties with threshold 3 one may collude.
    assert plan.privacy.honest == 2
    shown = words(run_here("plan", "show", out).err)
    assert "ε = 2 at δ = 1e-07 for" in shown
    assert ("all edits of one party" in shown) == (unit == "party")
    checked = run_here("plan", "check", out)
    assert checked.ok() == digest
    # Accounted, not copied: a little below what was asked for.
    found = float(words(checked.err).split("gives epsilon ")[1].split()[0])
    assert 1.99 < found <= 2.0


def test_a_plan_that_claims_more_than_its_noise_gives_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, min_edits=None, epsilon=2), "--open-sums").ok()
    text = out.read_text()
    assert "epsilon = 2.0" in text
    out.write_text(text.replace("epsilon = 2.0", "epsilon = 1.0"))
    assert_refused(run_here("plan", "check", out), INPUT, "the plan claims 1: ask its author")


def test_a_plan_without_it_says_that_there_is_no_noise(federation: Federation) -> None:
    assert "none: no noise is added" in words(run_here("plan", "show", federation.plan_file).err)


def test_noise_and_closed_sums_are_refused(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    said = "privacy cannot go with closed sums"
    assert_refused(run_here(*plan_new(federation, out=out, epsilon=2)), INPUT, said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"delta": 1e-6}, "need --epsilon"),
        ({"privacy_unit": "party"}, "need --epsilon"),
        ({"epsilon": 1, "privacy_unit": "word"}, "--privacy-unit word: must be one of edit, party"),
        ({"epsilon": 0}, "epsilon: Input should be greater"),
        ({"epsilon": -1}, "no noise gives epsilon -1"),
        ({"epsilon": 1, "delta": 0.5}, "delta"),
        ({"epsilon": 1, "honest": 4}, "a sum is sure to have 3 parties"),
        ({"epsilon": 1, "votes": 3}, "privacy cannot go with overlap or acceptance"),
    ],
)
def test_noise_that_makes_no_sense_is_refused(
    changes: dict[str, object], said: str, federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    assert_refused(
        run_here(*plan_new(federation, out=out, min_edits=None, **changes), "--open-sums"),
        INPUT,
        said,
    )
    assert not out.exists()
