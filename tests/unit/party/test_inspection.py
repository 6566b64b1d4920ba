"""What the check of a file of edits finds, and that it never quotes an edit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import PlanError
from collabedit.party.edits import Edit, load_edits
from collabedit.party.inspection import (
    KINDS,
    Finding,
    Severity,
    inspect_count,
    inspect_texts,
    read_file,
)
from tests.support.federations import build_federation

GOOD = Edit(case_id="a", prompt="The capital of {} is", subject="Zendia", target_new="Quux")


def found(*edits: Edit) -> list[tuple[str, int | None]]:
    return [(each.kind, each.record) for each in inspect_texts(list(enumerate(edits, start=1)))]


def changed(**fields: Any) -> Edit:  # noqa: ANN401  # any field of an edit
    return replace(GOOD, **fields)


def test_a_good_edit_has_no_finding() -> None:
    assert found(GOOD) == []
    other = changed(case_id="b", subject="Ruritania")
    accented = changed(case_id="c", subject="Łódź", target_new="São Paulo")
    assert found(GOOD, other, accented) == []


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (changed(subject="Zendia", prompt="{} is Zendia, and"), "subject-twice"),
        (changed(target_true="QUUX "), "target-known"),
        (changed(subject="Zen\u200bdia"), "invisible"),
        (changed(target_new="\u202eQuux"), "invisible"),
        (changed(target_new="Qu\ufffdx"), "damaged"),
        (changed(prompt="The capital of {}\u00e2\u20ac\u2122s state is"), "damaged"),
        (changed(subject="Zoe\u0308"), "not-normalised"),
        (changed(prompt="The  capital of {} is"), "odd-spacing"),
        (changed(prompt="The\u00a0capital of {} is"), "odd-spacing"),
        (changed(prompt="The capital\nof {} is"), "odd-spacing"),
        (changed(target_new="Qu\ud800x"), "not-unicode"),
    ],
)
def test_one_edit(edit: Edit, kind: str) -> None:
    assert kind in [name for name, _ in found(edit)]


@pytest.mark.parametrize("subject", ["Zend", "endia"])
def test_a_part_of_a_word_is_no_second_subject(subject: str) -> None:
    assert found(changed(subject=subject, prompt="{} of Zendia is")) == []


def test_copies_and_conflicts_name_the_earlier_record() -> None:
    same = changed(case_id="b", target_new="QUUX", prompt="the capital of  {} is")
    other = changed(case_id="c", target_new="Xyzzy")
    findings = list(inspect_texts([(1, GOOD), (4, same), (7, other)]))
    assert [(each.kind, each.record, each.detail) for each in findings if each.record != 1] == [
        ("duplicate", 4, "says the same as record 1"),
        ("conflict", 7, "asks for another object than record 1"),
        ("odd-spacing", 4, "field prompt"),
    ]


def test_a_relation_s_id_decides_before_its_prompt() -> None:
    first = changed(relation="P36")
    second = changed(case_id="b", relation="P36", prompt="{} has the capital", target_new="Xyz")
    assert found(first, second) == [("conflict", 2)]
    assert found(first, replace(second, relation="P37")) == []


def test_names_that_occur_twice() -> None:
    assert found(GOOD, changed(subject="Ruritania")) == [("repeated-name", 1), ("repeated-name", 2)]


def test_the_plan_s_limit_is_the_party_s_own_or_the_largest() -> None:
    plan = build_federation(3).plan
    name = plan.federation.parties[0].name
    allowed = plan.federation.parties[0].max_edits
    most = max(party.max_edits for party in plan.federation.parties)
    assert list(inspect_count(allowed, plan, name)) == []
    assert [each.kind for each in inspect_count(allowed + 1, plan, name)] == ["too-many"]
    assert list(inspect_count(most, plan, None)) == []
    assert [each.kind for each in inspect_count(most + 1, plan, None)] == ["too-many"]
    with pytest.raises(PlanError):
        list(inspect_count(1, plan, "nobody"))


def test_malformed_records_are_findings_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    good = {"prompt": "Zendia has", "subject": "Zendia", "target_new": "Quux"}
    path.write_text(json.dumps([good, {**good, "subject": "Elsewhere"}, 3, good]))
    edits, findings = read_file(path)
    assert [number for number, _ in edits] == [1, 4]
    assert findings == (
        Finding("malformed", 2, None, "field 'subject': does not occur in 'prompt'"),
        Finding("malformed", 3, None, "is not an object"),
    )


LETTERS = "ab \u200b\u00a0e\u0308\u00eb{}.\ud800\ufffd"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(LETTERS, max_size=6), st.text("ab\u00eb", min_size=1, max_size=2)),
        min_size=1,
        max_size=6,
    )
)
def test_a_file_without_errors_loads_and_one_with_malformed_records_does_not(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("files") / "edits.json"
    path.write_text(
        json.dumps(
            [
                {"prompt": f"{text} {subject}", "subject": subject, "target_new": text}
                for text, subject in rows
            ]
        )
    )
    edits, findings = read_file(path)
    assert len(edits) + len(findings) == len(rows)
    if not findings:
        assert load_edits(path) == tuple(edit for _, edit in edits)
    for finding in inspect_texts(edits):
        assert finding.kind in KINDS
        assert 1 <= (finding.record or 0) <= len(rows)
        assert json.loads(json.dumps(finding.to_dict()))["severity"] in set(Severity)


CANARY = "Kanarienvogel"


@settings(max_examples=100, deadline=None)
@given(
    st.text(LETTERS, max_size=5), st.text(LETTERS, max_size=5), st.sampled_from([CANARY, "Quux"])
)
def test_no_finding_quotes_an_edit(before: str, after: str, target: str) -> None:
    edit = Edit(
        case_id="1",
        prompt=f"{before.replace('{}', '')}{CANARY} {{}}",
        subject=f"{CANARY}{after}",
        target_new=f"{target}{after}",
        target_true=CANARY,
    )
    pair = [(1, edit), (2, replace(edit, target_new=f"{target}x"))]
    for finding in inspect_texts(pair):
        assert CANARY not in json.dumps(finding.to_dict())
        assert CANARY not in repr(finding)
