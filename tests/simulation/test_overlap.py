"""Sessions that count overlap first, on the deployed machines, against counting in plain text."""

from pathlib import Path

import numpy as np
import pytest

from collabedit.ids import LayerIndex, PartyId
from collabedit.overlap import Policy
from tests.support.overlaps import Overlapping, overlapping

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
