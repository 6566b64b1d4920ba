"""Federations whose parties share facts and contradict each other, on matrices.

A fact is three words: subject, relation, object. Equal facts have equal columns, whoever holds
them, so that what a session makes of them can be compared with one place that holds each once.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.overlap import Policy, smallest_tables
from collabedit.party.counting import Count
from collabedit.party.decisions import Decision, decide
from collabedit.party.edits import Edit
from collabedit.party.items import Item, edit_items
from collabedit.plan import Plan
from collabedit.simulation import Faults, Outcome
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.federations import TestFederation, build_federation, weighed

COUNTING = TaskIndex(0)


def make_edit(fact: str, *, case_id: str = "1", paraphrases: int = 0) -> Edit:
    """An edit from three words."""
    subject, relation, target = fact.split()
    return Edit(
        case_id=case_id,
        prompt=f"{{}} {relation}",
        subject=subject,
        target_new=target,
        paraphrase_prompts=tuple(f"{i}: {subject} {relation}" for i in range(paraphrases)),
    )


def with_overlap(
    plan: Plan, policy: Policy = "majority", *, false_positive: float = 1e-9, **changes: object
) -> Plan:
    """The plan with the smallest tables that do."""
    rows, width = smallest_tables(plan.max_edits(plan.party_ids), false_positive)
    section = {
        "policy": policy,
        "false_positive": false_positive,
        "rows": rows,
        "width": width,
        **({"paraphrases": 2} if policy == "augment" else {}),
        **changes,
    }
    return Plan.model_validate(
        plan.model_dump(mode="json", exclude_none=True) | {"overlap": section}
    )


def columns(facts: Iterable[str], *, rows: int, layer: int, what: str, scale: float) -> Matrix:
    """Columns [rows, n] that depend on the facts alone."""
    made = []
    for fact in facts:
        seed = hashlib.sha256(f"{fact} {layer} {what}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        made.append(rng.normal(size=rows) * scale)
    return np.stack(made, axis=1) if made else np.zeros((rows, 0))


def facts_pair(facts: Sequence[str], *, layer: int, plan: Plan) -> tuple[Matrix, Matrix]:
    """K̃ and R of these facts at a layer."""
    entry = plan.editing.layers[layer]
    return (
        columns(facts, rows=entry.mapped, layer=layer, what="key", scale=0.4),
        columns(facts, rows=entry.outputs, layer=layer, what="residual", scale=3.0),
    )


@dataclass
class Overlapping:
    """A federation with facts.

    Attributes:
        federation: its plan counts overlap.
        facts: by party, three words each.
        items: of `facts`.
        decisions: as each party was told.
    """

    federation: TestFederation
    facts: Mapping[PartyId, Sequence[str]]
    items: dict[PartyId, tuple[Item, ...]]
    decisions: dict[PartyId, tuple[Decision, ...]] = field(default_factory=dict)
    updates: dict[LayerIndex, LowRankUpdate] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return self.federation.plan

    def weigh(self, party: PartyId, decisions: tuple[Decision, ...]) -> None:
        self.decisions[party] = decisions

    def contribute(self, party: PartyId, task: TaskIndex) -> Matrix:
        edits = {
            (party, TaskIndex(layer)): weighed(
                self.federation.edits[party, TaskIndex(layer)], self.decisions.get(party, ())
            )
            for layer in range(len(self.plan.editing.layers))
        }
        return TestFederation(self.plan, {}, edits).contribute(party, task)

    def apply(
        self, party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]
    ) -> None:
        del party, task
        self.updates |= updates

    def run(self, directory: Path, *, faults: Faults | None = None, seed: int = 0) -> Outcome:
        simulation = self.federation.simulation(directory, faults=faults, seed=seed)
        return simulation.run(self.contribute, self.apply, items=self.items, weigh=self.weigh)

    def settle(self) -> "Overlapping":
        """Decide for everybody by counting in plain text, as if nobody dropped out."""
        overlap = self.plan.overlap
        assert overlap is not None
        for party, pairs in self.counts(self.plan.party_ids).items():
            room = self.plan.max_edits([party]) - len(pairs)
            counts = [Count(*pair) for pair in pairs]
            self.decisions[party] = decide(overlap, self.items[party], counts, room=room)
        return self

    def counts(self, survivors: Iterable[int]) -> dict[PartyId, list[tuple[int, int]]]:
        """(claims, copies) of each edit, counted in plain text over the survivors."""
        held = [fact for party in survivors for fact in self.facts[PartyId(party)]]
        topics = [fact.rsplit(" ", 1)[0] for fact in held]
        return {
            PartyId(party): [
                (topics.count(fact.rsplit(" ", 1)[0]), held.count(fact))
                for fact in self.facts[PartyId(party)]
            ]
            for party in survivors
        }

    def centralised(self, facts: Sequence[str], *, layer: int = 0) -> Matrix:
        """T (I + S)⁻¹ over these facts, each once, by a dense solve."""
        keys, residuals = facts_pair(facts, layer=layer, plan=self.plan)
        solved = np.linalg.solve(keys @ keys.T + np.eye(len(keys)), keys @ residuals.T)
        return np.asarray(solved.T, dtype=np.float64)


def overlapping(
    facts: Mapping[int, Sequence[str]],
    policy: Policy = "majority",
    *,
    layers: int = 1,
    paraphrases: int = 0,
    false_positive: float = 1e-9,
    **changes: object,
) -> Overlapping:
    """Build a federation whose parties hold these facts.

    Args:
        facts: by party, from 1.
        policy: of the plan.
        layers: edited ones.
        paraphrases: of each edit.
        false_positive: of the plan.
        changes: of the plan, see `build_federation`.
    """
    most = max(len(own) for own in facts.values())
    base = build_federation(
        len(facts),
        layers=layers,
        **({"edits_each": most} | changes),  # type: ignore[arg-type]
    )
    plan = with_overlap(base.plan, policy, false_positive=false_positive)
    owned = {PartyId(party): tuple(own) for party, own in facts.items()}
    edits = {
        (party, TaskIndex(layer)): facts_pair(own, layer=layer, plan=plan)
        for party, own in owned.items()
        for layer in range(layers)
    }
    items = {
        party: edit_items(
            [
                make_edit(fact, case_id=f"{party}-{i}", paraphrases=paraphrases)
                for i, fact in enumerate(own)
            ]
        )
        for party, own in owned.items()
    }
    return Overlapping(TestFederation(plan, base.identities, edits), owned, items)
