"""What each policy makes of copies and conflicts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabedit.errors import JournalError
from collabedit.ids import PartyId
from collabedit.overlap import Overlap, Policy
from collabedit.party.counting import Count
from collabedit.party.decisions import Decision, decide
from collabedit.party.items import Item
from collabedit.party.overlap import OwnEdits
from tests.support.federations import build_federation
from tests.support.overlaps import with_overlap


def overlap(policy: Policy) -> Overlap:
    paraphrases = 2 if policy == "augment" else None
    return Overlap(policy=policy, false_positive=0.5, rows=4, width=100, paraphrases=paraphrases)


def one(policy: Policy, claims: int, copies: int, *, room: int = 9) -> Decision:
    item = Item("7", bytes(32), bytes(32), paraphrases=3)
    (decision,) = decide(overlap(policy), [item], [Count(claims, copies)], room=room)
    return decision


@pytest.mark.parametrize("policy", ["majority", "drop", "keep", "augment"])
def test_an_edit_without_conflict_is_kept_and_weighs_its_share(policy: Policy) -> None:
    for copies in (1, 2, 5):
        decision = one(policy, copies, copies)
        assert (decision.is_kept, decision.added) == (True, 0)
        assert decision.weight == 1 / copies
        assert not decision.is_conflict


@pytest.mark.parametrize(
    ("policy", "claims", "copies", "kept", "added"),
    [
        ("majority", 3, 2, True, 0),
        ("majority", 2, 1, False, 0),
        ("majority", 4, 2, False, 0),
        ("majority", 3, 1, False, 0),
        ("drop", 3, 2, False, 0),
        ("keep", 3, 1, True, 0),
        ("augment", 3, 2, True, 2),
        ("augment", 4, 2, True, 0),
        ("augment", 3, 1, True, 0),
    ],
)
def test_conflicts_go_by_the_policy(
    policy: Policy, claims: int, copies: int, kept: bool, added: int
) -> None:
    decision = one(policy, claims, copies)
    assert decision.is_conflict
    assert (decision.is_kept, decision.added) == (kept, added)


def test_paraphrases_are_added_as_far_as_there_is_room() -> None:
    items = [
        Item(str(i), bytes(32), bytes(32), paraphrases=have) for i, have in enumerate((1, 3, 3))
    ]
    counts = [Count(3, 2)] * 3
    added = [d.added for d in decide(overlap("augment"), items, counts, room=4)]
    assert added == [1, 2, 1]
    assert [d.added for d in decide(overlap("augment"), items, counts, room=0)] == [0, 0, 0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_copies_weigh_one_together_and_at_most_one_side_has_a_majority(sides: list[int]) -> None:
    """Sides of a topic by how many hold them."""
    claims = sum(sides)
    decisions = [one("majority", claims, copies) for copies in sides]
    for copies, decision in zip(sides, decisions, strict=True):
        assert sum([decision.weight] * copies) == pytest.approx(1)
    assert sum(decision.is_kept for decision in decisions) <= 1
    if 2 * max(sides) > claims:
        assert any(decision.is_kept for decision in decisions)


def test_the_report_has_names_and_numbers_only() -> None:
    text = json.dumps(one("augment", 3, 2).to_dict())
    assert json.loads(text) == {
        "case_id": "7",
        "copies": 2,
        "claims": 3,
        "conflict": True,
        "kept": True,
        "weight": 0.5,
        "added_paraphrases": 2,
    }
    assert one("majority", 2, 1).to_dict()["weight"] == 0.0


def test_counts_of_other_edits_are_no_decisions() -> None:
    with pytest.raises(ValueError, match="argument"):
        decide(overlap("keep"), [Item("1", bytes(32), bytes(32))], [], room=0)


def test_re_assertions_take_room_from_paraphrases_and_are_told_apart_from_past_edits() -> None:
    plan = with_overlap(build_federation(3).plan, "augment")
    me, room = PartyId(1), plan.max_edits([PartyId(1)])
    edit = Item("7", bytes(32), bytes(32), paraphrases=9)
    other = Item("8", bytes([1]) * 32, bytes(32))
    counts = [Count(3, 2), Count(4, 0)]
    for reasserted in (0, room - 2, room - 1):
        own = OwnEdits(plan, me, [edit], past=[other], reasserted=[other] * reasserted)
        told = [*counts, *(Count(number, 0) for number in range(reasserted))]
        (decision,) = own.decide(told)
        assert decision.added == min(2, room - 1 - reasserted)
        assert own.past_claims(told) == (4,)
        assert own.reasserted_claims(told) == tuple(range(reasserted))
        with pytest.raises(JournalError, match="were counted in this session"):
            own.decide(told[:-1])
