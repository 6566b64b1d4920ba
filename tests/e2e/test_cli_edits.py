"""`edits check`: tables and JSON for people and programs, and nothing of the edits in either."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Federation, Outcome, run_here

INPUT, ACCEPTANCE = 2, 7
CANARY = "Kanarienvogel"
GOOD = {"prompt": f"{CANARY} sings in", "subject": CANARY, "target_new": "Rome"}
COPY = {**GOOD, "case_id": "copy"}
CONFLICT = {**GOOD, "case_id": "other", "target_new": "Paris"}
MALFORMED = {**GOOD, "case_id": "bad", "subject": f"{CANARY}s"}


def check(tmp_path: Path, records: object, *options: object) -> Outcome:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps(records))
    return run_here("edits", "check", path, *options)


def test_a_clean_file(tmp_path: Path, federation: Federation) -> None:
    outcome = check(tmp_path, [GOOD], "--strict", "--model", federation.model)
    outcome.ok()
    assert outcome.lines == [f"{tmp_path / 'edits.json'}: 1 records, 0 errors, 0 warnings"]


def test_the_edits_of_a_federation_are_clean(federation: Federation) -> None:
    for party in federation.parties:
        run_here(
            *("edits", "check", federation.member(party).edits, "--name", party, "--strict"),
            *("--model", federation.model, "--plan", federation.plan_file),
        ).ok()


def test_warnings_fail_on_request_only(tmp_path: Path) -> None:
    outcome = check(tmp_path, [GOOD, COPY])
    outcome.ok()
    assert "duplicate" in outcome.err
    assert outcome.lines[-1].endswith("2 records, 0 errors, 1 warnings")
    outcome = check(tmp_path, [GOOD, COPY], "--strict")
    assert outcome.code == ACCEPTANCE
    assert "1 warnings, and --strict allows none" in outcome.lines[-1]


@pytest.mark.parametrize("as_json", [False, True])
def test_errors_end_with_the_code_of_bad_input_and_quote_nothing(
    as_json: bool, tmp_path: Path, federation: Federation
) -> None:
    options = ["--json"] if as_json else []
    outcome = check(
        tmp_path, [GOOD, COPY, CONFLICT, MALFORMED], *options, "--model", federation.model
    )
    assert outcome.code == INPUT
    assert "record 3: conflict: asks for another object than record 1" in outcome.lines[-1]
    assert "1 more errors" in outcome.lines[-1]
    assert CANARY not in outcome.err + outcome.out
    if not as_json:
        assert outcome.out == ""
        return
    report: dict[str, Any] = json.loads(outcome.out)
    assert (report["records"], report["errors"], report["warnings"]) == (4, 2, 1)
    assert [(each["record"], each["kind"]) for each in report["findings"]] == [
        *((3, "conflict"), (4, "malformed"), (2, "duplicate"))
    ]
    assert all(each["advice"] and each["detail"] for each in report["findings"])


def test_texts_are_shown_on_request(tmp_path: Path) -> None:
    outcome = check(tmp_path, [GOOD, COPY], "--show-texts")
    outcome.ok()
    assert CANARY in outcome.err


def test_a_plan_limits_the_number(tmp_path: Path, federation: Federation) -> None:
    records = [{**GOOD, "prompt": f"{CANARY} number {n} sings in", "case_id": n} for n in range(9)]
    party = federation.plan.federation.parties[1]
    outcome = check(tmp_path, records, "--plan", federation.plan_file, "--name", party.name)
    assert outcome.code == INPUT
    said = f"too-many: 9 edits, the plan allows {party.name} {party.max_edits}"
    assert said in outcome.lines[-1]


def test_columns_are_kept_for_other_commands(tmp_path: Path, federation: Federation) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("question,entity,answer\nFrance is in,France,Rome\n")
    columns = ("--columns", "prompt=question,subject=entity,target_new=answer")
    run_here("edits", "check", path, *columns, "--save-columns").ok()
    run_here("edits", "check", path).ok()
    run_here("evaluate", "--model", federation.model, "--edits", path, "--json").ok()


def test_a_probe_asks_the_model(tmp_path: Path, federation: Federation) -> None:
    plan = ("--plan", federation.plan_file, "--model", federation.model)
    outcome = check(tmp_path, [GOOD], *plan, "--probe", "--json")
    assert json.loads(outcome.ok())["errors"] == 0
    assert "asking the model" in outcome.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "party-1"], "--name has no meaning without --plan"),
        (["--probe"], "--probe has no meaning without --model"),
        (["--save-columns"], "--save-columns has no meaning without --columns"),
        (["--previous", "x"], "--previous has no meaning without --probe"),
        (["--columns", "prompt"], "must be FIELD=COLUMN"),
        (["--model", "no/such-model"], "HF_HUB_OFFLINE is set, and the local cache has no such"),
    ],
)
def test_options_that_make_no_sense(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = check(tmp_path, [GOOD], *options)
    assert outcome.code == INPUT
    assert said in outcome.lines[-1]
