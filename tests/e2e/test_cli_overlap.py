"""What the command line does about overlap: plans, simulations, the question to the operator."""

import io
import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from collabedit.cli import review as review_module
from collabedit.cli.review import overlap_review, overlap_table
from collabedit.errors import DeclinedError, StorageError
from collabedit.party.decisions import Decision
from tests.e2e.test_cli import INPUT, assert_refused, plan_new
from tests.support.processes import Federation, Outcome, own_edits, record, run_here

DECISIONS = (
    Decision("alone", copies=1, claims=1, is_kept=True),
    Decision("shared", copies=3, claims=3, is_kept=True),
    Decision("lost", copies=1, claims=3, is_kept=False),
    Decision("won", copies=2, claims=3, is_kept=True, added=2),
)


def test_a_new_plan_counts_if_it_is_told_to(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, overlap="majority", false_positive=1e-8)).ok()
    overlap = tomllib.loads(out.read_text())["overlap"]
    assert (overlap["policy"], overlap["false_positive"]) == ("majority", 1e-8)
    assert "paraphrases" not in overlap
    shown = run_here("plan", "show", out)
    assert f"majority; 2 tables of {overlap['rows']} x {overlap['width']}" in shown.err
    assert "in 3 sums" in shown.err


def test_augment_states_its_paraphrases(federation: Federation, tmp_path: Path) -> None:
    for given, wanted in ((None, 2), (5, 5)):
        out = tmp_path / f"plan-{wanted}.toml"
        run_here(*plan_new(federation, out=out, overlap="augment", paraphrases=given)).ok()
        assert tomllib.loads(out.read_text())["overlap"]["paraphrases"] == wanted
    assert "up to 5 paraphrases" in run_here("plan", "show", out).err


def test_a_plan_without_it_says_so(federation: Federation) -> None:
    shown = run_here("plan", "show", federation.plan_file)
    assert "not counted" in shown.err
    assert "in 2 sums" in shown.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overlap": "vote"}, ["--overlap vote", "majority, drop, keep, augment"]),
        ({"false_positive": 0.1}, ["need --overlap"]),
        ({"paraphrases": 2}, ["need --overlap"]),
        ({"overlap": "keep", "paraphrases": 2}, ["--paraphrases", "--overlap keep"]),
        ({"overlap": "keep", "false_positive": 0}, ["false positive 0", "between 0 and 1"]),
        ({"overlap": "keep", "false_positive": "nan"}, ["between 0 and 1"]),
    ],
)
def test_options_that_make_no_sense_are_refused(
    federation: Federation, tmp_path: Path, changes: dict[str, object], said: list[str]
) -> None:
    out = tmp_path / "plan.toml"
    assert_refused(run_here(*plan_new(federation, out=out, **changes)), INPUT, *said)
    assert not out.exists()


def simulate(federation: Federation, tmp_path: Path, *flags: object) -> Outcome:
    """Five parties: a fact of two, a topic that is contested two against one."""
    shared = record(900, "Oslo", "{} is the home of", "Zed", "Bob")
    first = record(901, "Quito", "The river of {} is", "long", "short")
    second = record(902, "Quito", "The river of {} is", "wide", "short")
    first["paraphrase_prompts"] = ["They say that Quito has a river that is"]
    more: dict[int, list[dict[str, Any]]] = {
        1: [shared, first],
        2: [shared],
        3: [first],
        4: [second],
        5: [],
    }
    files = []
    for party in range(1, 6):
        path = tmp_path / f"edits-{party}.json"
        path.write_text(json.dumps([*own_edits(party, 1), *more[party]]))
        files.append(f"--edits={path}")
    return run_here(
        *("simulate", "--model", federation.model, "--covariance", federation.covariance),
        *("--covariance-weight", 20, *files, *flags),
    )


@pytest.mark.parametrize(
    ("policy", "kept", "added"),
    [("majority", {"901": True, "902": False}, 0), ("augment", {"901": True, "902": True}, 1)],
)
def test_simulate_reports_what_every_party_is_told(
    federation: Federation, tmp_path: Path, policy: str, kept: dict[str, bool], added: int
) -> None:
    report: dict[str, Any] = json.loads(simulate(federation, tmp_path, "--overlap", policy).ok())
    assert report["aborted"] is None
    assert [task["layers"] for task in report["tasks"]] == [[], [1], [3]]
    told = {edit["case_id"]: edit for own in report["decisions"].values() for edit in own}
    assert told["900"]["copies"] == 2
    assert told["900"]["weight"] == 0.5
    assert {case: told[case]["kept"] for case in kept} == kept
    assert (told["901"]["copies"], told["901"]["claims"]) == (2, 3)
    assert told["901"]["added_paraphrases"] == added
    assert report["before"] != report["after"]


def test_a_party_that_falls_silent_in_counting_is_not_counted(
    federation: Federation, tmp_path: Path
) -> None:
    flags = ("--overlap", "majority", "--crash", "2:r3:0")
    report: dict[str, Any] = json.loads(simulate(federation, tmp_path, *flags).ok())
    assert set(report["decisions"]) == {"party-1", "party-3", "party-4", "party-5"}
    shared = next(e for e in report["decisions"]["party-1"] if e["case_id"] == "900")
    assert shared["copies"] == 1


# The question.


def test_the_table_has_one_line_for_each_edit_that_is_not_ones_own_alone() -> None:
    shown = io.StringIO()
    Console(file=shown, width=120).print(overlap_table(DECISIONS))
    text = shown.getvalue()
    assert "alone" not in text
    rows = [line.split() for line in text.splitlines() if "│" in line]
    assert ["│", "lost", "│", "1", "│", "2", "│", "leave", "out", "│", "0", "│", "0", "│"] in rows
    assert ["│", "won", "│", "2", "│", "1", "│", "keep", "│", "1/2", "│", "2", "│"] in rows


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("n\n", False), ("", False)])
def test_the_operator_is_asked_and_silence_is_no(
    answer: str, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    path = tmp_path / "overlap.json"
    review = overlap_review(path, ask=True)
    if goes_on:
        review(DECISIONS)
    else:
        with pytest.raises(DeclinedError, match="nothing was applied"):
            review(DECISIONS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listed = json.loads(path.read_text())["edits"]
    assert [edit["case_id"] for edit in listed] == ["alone", "shared", "lost", "won"]


def test_nobody_is_asked_without_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_module, "_confirmed", lambda: pytest.fail("asked"))
    path = tmp_path / "overlap.json"
    path.write_text("of an earlier session")
    overlap_review(path, ask=False)(DECISIONS)
    assert json.loads(path.read_text())["edits"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_report_that_cannot_be_written_stops_before_anything_depends_on_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(StorageError, match=r"overlap\.json"):
        overlap_review(tmp_path / "missing" / "overlap.json", ask=False)(DECISIONS)
