"""What the command line does about votes: plans, simulations, and the text that a party brings."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cli import INPUT, PROTOCOL, assert_refused, join_party, plan_new
from tests.support.processes import Federation, Outcome, own_edits, run_here


def test_a_new_plan_asks_for_a_vote_if_it_is_told_to(
    federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out), "--acceptance").ok()
    # As many as the threshold, and the proposed bounds.
    assert tomllib.loads(out.read_text())["acceptance"] == {
        "votes": 3,
        "efficacy": 0.75,
        "neighbourhood_drop": 0.1,
        "perplexity_ratio": 1.1,
    }
    shown = run_here("plan", "show", out)
    assert "3 must accept: 0.75 of own edits hold" in " ".join(shown.err.split())


def test_a_bound_alone_asks_for_a_vote_too(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, perplexity_ratio=3)).ok()
    assert tomllib.loads(out.read_text())["acceptance"]["perplexity_ratio"] == 3.0


def test_a_plan_without_it_asks_for_none(federation: Federation) -> None:
    assert "acceptance" not in tomllib.loads(federation.plan_file.read_text())
    rows = run_here("plan", "show", federation.plan_file).err.splitlines()
    assert any("vote" in row and "none" in row for row in rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"votes": 2}, "acceptance.votes 2, must be 3 (the threshold) to 3"),
        ({"votes": 4}, "acceptance.votes 4"),
        ({"efficacy": 1.5}, "efficacy"),
        ({"neighbourhood_drop": -0.5}, "neighbourhood_drop"),
        ({"perplexity_ratio": 0.5}, "perplexity_ratio"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(
    changes: dict[str, object], said: str, federation: Federation, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    assert_refused(run_here(*plan_new(federation, out=out, **changes)), INPUT, said)
    assert not out.exists()


def simulate(federation: Federation, tmp_path: Path, *flags: object) -> Outcome:
    files = []
    for party in range(1, 4):
        path = tmp_path / f"edits-{party}.json"
        path.write_text(json.dumps(own_edits(party, 1)))
        files.append(f"--edits={path}")
    return run_here(
        *("simulate", "--model", federation.model, "--covariance", federation.covariance),
        *("--covariance-weight", 20, *files, *flags),
    )


def test_a_simulated_federation_votes(federation: Federation, tmp_path: Path) -> None:
    lenient = ("--efficacy", 0, "--neighbourhood-drop", 1, "--perplexity-ratio", 1000)
    report: dict[str, Any] = json.loads(simulate(federation, tmp_path, *lenient).ok())
    assert report["votes"] == dict.fromkeys(("party-1", "party-2", "party-3"), "accept")
    assert report["aborted"] is None
    assert len(report["tasks"]) == 2


def test_a_simulated_federation_rejects(federation: Federation, tmp_path: Path) -> None:
    # Nothing may change at all, which no edit can keep to.
    strict = ("--efficacy", 1, "--neighbourhood-drop", 0, "--perplexity-ratio", 1)
    outcome = simulate(federation, tmp_path, *strict)
    assert outcome.code == PROTOCOL
    report = json.loads(outcome.out)
    assert report["aborted"] == "UPDATE_REJECTED"
    assert report["after"] is None
    assert len(report["votes"]) == 3
    assert set(report["votes"].values()) != {"accept"}
    assert len(report["tasks"]) == 1
    assert outcome.lines[-1].startswith("error: UPDATE_REJECTED: ")


def test_a_text_where_nobody_votes_is_refused(
    federation: Federation, tmp_path: Path, silent_port: int
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Nobody will read this.")
    outcome = join_party(federation, tmp_path / "work", silent_port, assessment_text=text)
    assert_refused(outcome, INPUT, "--assessment-text", "asks for no vote")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_text_that_cannot_be_read_is_refused_before_any_call(
    content: bytes | None, federation: Federation, tmp_path: Path, silent_port: int
) -> None:
    plan, text = tmp_path / "plan.toml", tmp_path / "text.txt"
    run_here(*plan_new(federation, out=plan), "--acceptance").ok()
    if content is not None:
        text.write_bytes(content)
    outcome = join_party(
        federation, tmp_path / "work", silent_port, plan=plan, assessment_text=text
    )
    assert_refused(outcome, INPUT, text)
