"""Sessions that count overlap first, on the deployed machines, against counting in plain text."""

from pathlib import Path

import numpy as np
import pytest

from collabedit.crypto.graph import plan_neighbourhood
from collabedit.errors import NumericError
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.overlap import Policy
from collabedit.simulation import Faults
from tests.support.overlaps import COUNTING, Overlapping, facts_pair, overlapping

ONE = PartyId(1)
LAYER = LayerIndex(0)

FACTS = {
    1: ["ada lives rome", "bob eats figs", "cid owns cat"],
    2: ["ada lives rome", "dan rides bus", "cid owns dog"],
    3: ["ada lives rome", "eva sings alto", "cid owns dog"],
    4: ["fay reads poe", "bob eats nuts", "cid owns cow"],
    5: ["gus likes tea", "eva sings alto", "hal runs far"],
}
"""Copies: ada 3, eva 2, cid's dog 2. Conflicts: bob 1:1, cid 1:2:1. The rest is nobody else's."""

KEPT: dict[Policy, list[str]] = {
    "majority": [
        *("ada lives rome", "dan rides bus", "eva sings alto"),
        *("fay reads poe", "gus likes tea", "hal runs far"),
    ],
    "keep": sorted({fact for own in FACTS.values() for fact in own}),
}
KEPT["drop"] = KEPT["majority"]


def relative_error(overlap: Overlapping, facts: list[str]) -> float:
    want = overlap.centralised(facts)
    got = overlap.updates[LAYER].dense()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("policy", ["majority", "drop", "keep"])
def test_the_union_is_edited_once(policy: Policy, tmp_path: Path) -> None:
    overlap = overlapping(FACTS, policy, edits_each=3)
    outcome = overlap.run(tmp_path)
    assert outcome.aborted is None
    assert not outcome.refusals
    told = {
        party: [(d.claims, d.copies) for d in decisions]
        for party, decisions in outcome.decisions.items()
    }
    assert told == overlap.counts(range(1, 6))
    kept = {
        fact
        for party, decisions in outcome.decisions.items()
        for fact, decision in zip(overlap.facts[party], decisions, strict=True)
        if decision.is_kept
    }
    assert kept == set(KEPT[policy])
    assert relative_error(overlap, KEPT[policy]) < 1e-8


MAJORITY = {
    1: ["bob eats figs", "ann runs far"],
    2: ["bob eats figs", "cid owns cat"],
    3: ["bob eats nuts", "cid owns cat"],
}
"""Figs against nuts 2:1."""


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("majority", ["bob eats figs", "ann runs far", "cid owns cat"]),
        ("drop", ["ann runs far", "cid owns cat"]),
        ("augment", ["bob eats figs", "bob eats nuts", "ann runs far", "cid owns cat"]),
    ],
)
def test_a_majority_wins_where_the_policy_lets_it(
    policy: Policy, kept: list[str], tmp_path: Path
) -> None:
    overlap = overlapping(MAJORITY, policy, edits_each=3, paraphrases=5)
    outcome = overlap.run(tmp_path)
    assert relative_error(overlap, kept) < 1e-8
    added = {party: [d.added for d in told] for party, told in outcome.decisions.items()}
    one = 1 if policy == "augment" else 0  # as far as three edits leave room
    assert added == {1: [one, 0], 2: [one, 0], 3: [0, 0]}


def test_edits_that_one_party_holds_twice_are_copies_too(tmp_path: Path) -> None:
    facts = {1: ["ada lives rome"] * 2, 2: ["ada lives rome"], 3: ["bob eats figs"]}
    overlap = overlapping(facts, edits_each=2)
    outcome = overlap.run(tmp_path)
    assert [d.copies for d in outcome.decisions[ONE]] == [3, 3]
    assert relative_error(overlap, ["ada lives rome", "bob eats figs"]) < 1e-8


def test_nothing_is_edited_if_everything_is_dropped(tmp_path: Path) -> None:
    facts = {1: ["ada lives rome"], 2: ["ada lives bonn"], 3: ["ada lives oslo"]}
    overlap = overlapping(facts, "drop")
    outcome = overlap.run(tmp_path)
    assert outcome.aborted is None
    assert overlap.updates[LAYER].rank == 0


def test_a_party_without_edits_counts_none(tmp_path: Path) -> None:
    overlap = overlapping({1: ["ada lives rome"], 2: [], 3: ["ada lives rome"]})
    outcome = overlap.run(tmp_path)
    assert outcome.decisions[PartyId(2)] == ()
    assert [d.copies for d in outcome.decisions[ONE]] == [2]
    assert relative_error(overlap, ["ada lives rome"]) < 1e-8


def test_more_edits_than_the_plan_allows_are_not_counted(tmp_path: Path) -> None:
    overlap = overlapping(FACTS, edits_each=2)
    outcome = overlap.run(tmp_path)
    assert {party for party, _ in outcome.refusals} == set(range(1, 6))
    assert all(isinstance(error, NumericError) for _, error in outcome.refusals)
    assert {delivery.sender for delivery in outcome.transcript} == {AGGREGATOR}


@pytest.mark.parametrize("round_name", ["r0", "r1", "r2", "r3", "r4", "r5", "r6"])
def test_a_dropout_of_any_round_of_counting(round_name: str, tmp_path: Path) -> None:
    """Party 3 of 5 (threshold 4) falls silent; from r4 on it is in the counts, and never after."""
    overlap = overlapping(FACTS)
    outcome = overlap.run(tmp_path, faults=Faults(crash_before={PartyId(3): round_name}))
    assert outcome.aborted is None
    rest = [1, 2, 4, 5]
    counted = [1, 2, 3, 4, 5] if round_name in {"r4", "r5", "r6"} else rest
    told = {
        party: [(d.claims, d.copies) for d in decisions]
        for party, decisions in outcome.decisions.items()
    }
    want = overlap.counts(counted)
    assert told == {party: want[PartyId(party)] for party in rest}
    assert outcome.records[1].survivors == {PartyId(party) for party in rest}


def test_facts_of_a_party_that_vanishes_after_counting_weigh_less_than_one(tmp_path: Path) -> None:
    """LIMITATIONS: whom the counts name as a holder must stay, or its share is missing."""
    facts = {party: [f"ann knows {party}"] for party in (2, 3, 4)}
    facts |= {1: ["ada lives rome"], 5: ["ada lives rome"]}
    overlap = overlapping(facts, "keep")
    faults = Faults(crash_before={PartyId(5): "r0"}, crash_task=TaskIndex(1))
    outcome = overlap.run(tmp_path, faults=faults)
    assert outcome.records[1].survivors == {1, 2, 3, 4}
    kept = [facts[party][0] for party in (1, 2, 3, 4)]
    assert relative_error(overlap, kept) > 1e-3
    keys, residuals = facts_pair(kept, layer=0, plan=overlap.plan)
    roots = np.sqrt([0.5, 1, 1, 1])
    keys, residuals = keys * roots, residuals * roots
    want = np.linalg.solve(keys @ keys.T + np.eye(len(keys)), keys @ residuals.T).T
    got = overlap.updates[LAYER].dense()
    assert np.linalg.norm(got - want) < 1e-8 * np.linalg.norm(want)


def test_a_lossy_network_changes_no_count(tmp_path: Path) -> None:
    overlap = overlapping(FACTS, layers=2)
    outcome = overlap.run(tmp_path, faults=Faults(duplicate=0.2, delay=5), seed=3)
    assert outcome.aborted is None
    assert [record.task for record in outcome.records] == [0, 1, 2]
    assert relative_error(overlap, KEPT["majority"]) < 1e-8


def test_a_sparse_federation_counts_in_the_full_graph(tmp_path: Path) -> None:
    """36 parties in a plan with `corruptions`: masks are sparse in all tasks but the first."""
    facts = {party: [f"subject{party % 12} has {party % 2}"] for party in range(1, 37)}
    overlap = overlapping(facts, "keep", corruptions=7)
    plan = overlap.plan
    assert plan_neighbourhood(plan, 36, task=COUNTING).degree == 35
    assert plan_neighbourhood(plan, 36, task=TaskIndex(1)).degree < 35
    gone = {PartyId(3 * i): f"r{i % 4}" for i in range(1, 12)}
    outcome = overlap.run(tmp_path, faults=Faults(crash_before=gone))
    assert outcome.aborted is None
    rest = [party for party in range(1, 37) if party not in gone]
    want = overlap.counts(rest)
    told = {
        party: [(d.claims, d.copies) for d in decisions]
        for party, decisions in outcome.decisions.items()
    }
    assert told == want
    assert max(copies for ((_, copies),) in want.values()) == 3
    assert relative_error(overlap, sorted({facts[party][0] for party in rest})) < 1e-8


def test_the_aggregator_sees_other_sums_each_time(tmp_path: Path) -> None:
    """The same edits twice: what is opened has nothing in common, while the counts are equal."""
    first, second = overlapping(FACTS), overlapping(FACTS)
    one = first.run(tmp_path / "one", seed=1)
    two = second.run(tmp_path / "two", seed=2)
    assert first.decisions == second.decisions
    same = one.sums[COUNTING] == two.sums[COUNTING]
    assert not same.any()
