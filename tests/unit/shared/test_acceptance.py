"""What a party holds an update against, and which plans ask for a vote."""

import json
import math
import tomllib
from dataclasses import replace
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from collabedit.acceptance import (
    EFFICACY,
    NEIGHBOURHOOD_DROP,
    PERPLEXITY_RATIO,
    Acceptance,
    Assessment,
    Measures,
    Vote,
    describe,
    judge,
)
from collabedit.errors import PlanError
from collabedit.ids import TaskIndex
from collabedit.plan import Plan, parse_plan
from tests.support.federations import build_federation

ASKED = Acceptance(votes=4, efficacy=0.75, neighbourhood_drop=0.1, perplexity_ratio=1.1)
BEFORE = Measures(efficacy=0.0, neighbourhood=0.9, perplexity=40.0)
GOOD = Measures(efficacy=0.75, neighbourhood=0.8, perplexity=44.0)


@pytest.mark.parametrize(
    ("after", "vote"),
    [
        (GOOD, Vote.ACCEPT),
        (Measures(1.0, 1.0, 1.0), Vote.ACCEPT),
        (replace(GOOD, efficacy=0.74), Vote.OWN_EDITS),
        (replace(GOOD, neighbourhood=0.79), Vote.NEIGHBOURHOOD),
        (replace(GOOD, perplexity=44.01), Vote.PERPLEXITY),
        # Of several the first, in the order of SPEC 4.7(h).
        (Measures(0.0, 0.0, 1e9), Vote.OWN_EDITS),
        (Measures(1.0, 0.0, 1e9), Vote.NEIGHBOURHOOD),
        # What a party has nothing for does not count against an update.
        (replace(GOOD, efficacy=None), Vote.ACCEPT),
        (replace(GOOD, neighbourhood=None), Vote.ACCEPT),
        # A broken model does.
        (replace(GOOD, perplexity=math.inf), Vote.PERPLEXITY),
        (replace(GOOD, perplexity=math.nan), Vote.PERPLEXITY),
        (replace(GOOD, efficacy=math.nan), Vote.OWN_EDITS),
        (replace(GOOD, neighbourhood=math.nan), Vote.NEIGHBOURHOOD),
    ],
)
def test_a_vote_names_the_first_bound_that_does_not_hold(after: Measures, vote: Vote) -> None:
    assert judge(ASKED, BEFORE, after) is vote


SHARES = st.none() | st.floats(0, 1)
ALL = st.builds(Measures, SHARES, SHARES, st.floats(1, allow_nan=False))


@given(before=ALL, after=ALL, better=ALL)
def test_nothing_that_is_better_is_rejected_for_it(
    before: Measures, after: Measures, better: Measures
) -> None:
    """If an update is accepted, so is one that is at least as good in everything."""
    if judge(ASKED, before, after) is not Vote.ACCEPT:
        return
    improved = Measures(
        None if after.efficacy is None else max(after.efficacy, better.efficacy or 0.0),
        None
        if after.neighbourhood is None
        else max(after.neighbourhood, better.neighbourhood or 0.0),
        min(after.perplexity, better.perplexity),
    )
    assert judge(ASKED, before, improved) is Vote.ACCEPT


def test_the_numbers_of_votes_never_change() -> None:
    assert {vote.word: vote.value for vote in Vote} == {
        "none": 0,
        "accept": 1,
        "own-edits": 2,
        "neighbourhood": 3,
        "perplexity": 4,
        "unusable": 5,
    }


def test_no_measure_shows_in_a_repr() -> None:
    assessment = Assessment(Vote.ACCEPT, Measures(0.123, 0.456, 789.0), Measures(0.1, 0.2, 0.3))
    assert not any(digit in repr(assessment).replace("ACCEPT: 1", "") for digit in "0123456789")


def test_a_report_is_json_also_of_a_broken_model() -> None:
    shown = describe(Assessment(Vote.PERPLEXITY, BEFORE, replace(GOOD, perplexity=math.inf)))
    assert json.loads(json.dumps(shown, allow_nan=False)) == {
        "vote": "perplexity",
        "before": {"efficacy": 0.0, "neighbourhood": 0.9, "perplexity": 40.0},
        "after": {"efficacy": 0.75, "neighbourhood": 0.8, "perplexity": None},
    }
    assert "after" not in describe(Assessment(Vote.UNUSABLE, BEFORE, None))


# The plan's section.

PLAN = build_federation(5, layers=2, votes=4).plan


def parse(**changes: object) -> Plan:
    values: dict[str, Any] = tomllib.loads(PLAN.to_toml())
    values["acceptance"] |= changes
    values["acceptance"] = {k: v for k, v in values["acceptance"].items() if v is not ...}
    return parse_plan(tomli_w.dumps(values), source="plan.toml")


def test_the_section_is_part_of_the_digest() -> None:
    assert parse() == PLAN
    others = [
        build_federation(5, layers=2).plan,
        parse(votes=5),
        parse(efficacy=0.5),
        parse(neighbourhood_drop=0.2),
        parse(perplexity_ratio=2.0),
    ]
    assert len({plan.digest for plan in (PLAN, *others)}) == 6
    # A whole number for a real is the same plan.
    assert parse(efficacy=1).digest == parse(efficacy=1.0).digest


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"votes": 3}, "plan", "acceptance.votes 3, must be 4 (the threshold) to 5"),
        ({"votes": 6}, "plan", "acceptance.votes 6, must be 4 (the threshold) to 5"),
        ({"votes": 4.0}, "acceptance.votes", "integer"),
        ({"votes": ...}, "acceptance.votes", "required"),
        ({"efficacy": 1.01}, "acceptance.efficacy", "less than or equal to 1"),
        ({"efficacy": -0.1}, "acceptance.efficacy", "greater than or equal to 0"),
        ({"neighbourhood_drop": 2.0}, "acceptance.neighbourhood_drop", "less than or equal to 1"),
        ({"perplexity_ratio": 0.9}, "acceptance.perplexity_ratio", "greater than or equal to 1"),
        ({"perplexity_ratio": math.inf}, "acceptance.perplexity_ratio", "finite"),
        ({"perplexity_ratio": ...}, "acceptance.perplexity_ratio", "required"),
        ({"veto": True}, "acceptance.veto", "not permitted"),
    ],
)
def test_a_section_that_does_not_hold_together_is_named(
    changes: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(PlanError) as caught:
        parse(**changes)
    assert str(caught.value).startswith(f"plan.toml: {field}: ")
    assert says in str(caught.value)


def test_a_plan_without_the_section_asks_for_no_vote() -> None:
    plain = build_federation(5, layers=2).plan
    assert not any(plain.is_voted(TaskIndex(task)) for task in range(3))
    assert "acceptance" not in plain.to_toml()
    assert [PLAN.is_voted(TaskIndex(task)) for task in range(3)] == [False, True, False]


def test_the_only_task_of_a_parallel_plan_is_voted_on() -> None:
    plan = build_federation(5, layers=2, votes=4, schedule='"parallel"').plan
    assert plan.is_voted(TaskIndex(0))


def test_the_proposed_bounds_make_a_valid_section() -> None:
    Acceptance(
        votes=4,
        efficacy=EFFICACY,
        neighbourhood_drop=NEIGHBOURHOOD_DROP,
        perplexity_ratio=PERPLEXITY_RATIO,
    )
