"""The table of lies is what the tests declare, and a row stands for a refusal that was seen."""

from pathlib import Path

import pytest

from collabedit.errors import AbortReason, MalformedMessageError
from collabedit.ids import AGGREGATOR
from collabedit.proto.statements import RefusalError
from tests.audit.lie_table import (
    DOCUMENT,
    MINIMUM_ROWS,
    NOT_LIES,
    ROLES,
    ROUNDS,
    Declared,
    Lie,
    Outcomes,
    declared_lies,
    document,
    missing_reasons,
    rows,
)
from tests.support.lies import OBSERVED, Refusal, name_of

DECLARED = declared_lies()
LIE = Lie(role="party", round="r1", lie="seals junk", refused_by="INVALID_SEAL")
TEST = Declared("tests/test_x.py::test_y", (LIE,))


def report(outcome: str = "passed", observed: str = "INVALID_SEAL") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=f"{TEST.node}[case]",
        location=("", 0, ""),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when="call",
        user_properties=[(OBSERVED, (LIE.lie, observed))],
    )


def test_the_document_is_the_one_that_the_tests_declare() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(DECLARED), "run `make lie-table`"


def test_there_are_enough_lies_and_every_reason_has_one() -> None:
    assert len(rows(DECLARED, Outcomes())) >= MINIMUM_ROWS
    assert not missing_reasons(DECLARED), "mark the test that provokes it, or add it to NOT_LIES"
    given = {lie.refused_by for test in DECLARED for lie in test.lies}
    assert not given & {reason.name for reason in NOT_LIES}


@pytest.mark.parametrize("declared", DECLARED, ids=lambda test: test.node.split("::")[1])
def test_every_mark_can_be_read(declared: Declared) -> None:
    for lie in declared.lies:
        assert lie.role in ROLES
        assert lie.round in ROUNDS
        assert "|" not in lie.lie
        assert lie.refused_by in AbortReason.__members__ or lie.refused_by.endswith(
            ("Error", "_DENIED")
        )


def test_a_reason_without_a_lie_is_missed() -> None:
    others = [test for test in DECLARED if all(x.refused_by != "ROSTER_FORK" for x in test.lies)]
    assert missing_reasons(others) == [*missing_reasons(DECLARED), "ROSTER_FORK"]


def test_a_row_needs_a_refusal_that_was_seen() -> None:
    outcomes = Outcomes()
    assert [row["ok"] for row in rows([TEST], outcomes)] == [False]
    outcomes.pytest_runtest_logreport(report(observed="INVALID_SHARE"))
    assert [row["ok"] for row in rows([TEST], outcomes)] == [False]
    outcomes.pytest_runtest_logreport(report())
    assert [row["ok"] for row in rows([TEST], outcomes)] == [True]
    outcomes.pytest_runtest_logreport(report("failed"))
    assert [row["ok"] for row in rows([TEST], outcomes)] == [False]


def test_a_refusal_for_another_reason_than_declared_fails_the_test(
    request: pytest.FixtureRequest,
) -> None:
    refusal = Refusal(request.node, lie="x", refused_by="INVALID_SEAL")
    refusal(AbortReason.INVALID_SEAL, "INVALID_SEAL")
    for other in (AbortReason.INVALID_SHARE, MalformedMessageError("x"), "PERMISSION_DENIED"):
        with pytest.raises(AssertionError):
            refusal(other)
    with pytest.raises(AssertionError, match="nothing refused"):
        refusal()


def test_a_refusal_is_named_by_its_reason_if_it_has_one() -> None:
    refused = RefusalError(AbortReason.ROSTER_FORK, "x", culprit=AGGREGATOR)
    assert name_of(refused) == name_of(AbortReason.ROSTER_FORK) == "ROSTER_FORK"
    assert name_of(MalformedMessageError("x")) == "MalformedMessageError"


def test_marks_are_read_from_parameters_too(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    mark = 'pytest.mark.lie(role="party", lie="x", round="r1", refused_by="INVALID_SEAL")'
    (tmp_path / "tests" / "test_a.py").write_text(
        f"@{mark}\ndef test_one() -> None: ...\n"
        f'@pytest.mark.parametrize("a", [pytest.param(1, marks={mark})])\n'
        "def test_two(a: int) -> None: ...\n"
        "def test_three() -> None: ...\n"
    )
    assert [test.node for test in declared_lies(tmp_path)] == [
        "tests/test_a.py::test_one",
        "tests/test_a.py::test_two",
    ]
