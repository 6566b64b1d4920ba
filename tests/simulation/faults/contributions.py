"""Federations with tiny vectors in which every party can be counted."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from collabedit.crypto.ring import RingArray, add_into, to_bytes
from collabedit.crypto.signing import SigningKey
from collabedit.exchange import contribution_vector, plan_encoding
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.counting import Count, Digests
from collabedit.party.items import Item, edit_items, items_to_bytes
from collabedit.plan import Plan
from tests.support.federations import build_federation
from tests.support.overlaps import make_edit, with_overlap

MAPPED = 4
OUTPUTS = 2
BASE = 16
"""More than any number of times that a party can be in a sum by mistake."""


@dataclass(frozen=True)
class Countable:
    """A plan, its keys, and what everybody contributes, encoded."""

    plan: Plan
    identities: dict[PartyId, SigningKey]
    encoded: dict[tuple[PartyId, TaskIndex], RingArray]
    items: dict[PartyId, tuple[Item, ...]]

    def brought(self, party: PartyId, task: TaskIndex) -> bytes:
        """What a party's journal keeps of its contribution."""
        if self.plan.counting(task) is not None:
            return items_to_bytes(self.items[party])
        return bytes(to_bytes(self.encoded[party, task]))

    def digests(self, parties: Iterable[PartyId]) -> list[Digests]:
        """Topics and facts of these parties."""
        return [(item.topic, item.fact) for party in parties for item in self.items[party]]

    def counts(self, party: PartyId, parties: Iterable[PartyId]) -> tuple[Count, ...]:
        """What the tables of `parties` say of a party's edits, counted in plain text."""
        everything = self.digests(parties)
        topics, facts = [topic for topic, _ in everything], [fact for _, fact in everything]
        return tuple(
            Count(topics.count(topic), facts.count(fact)) for topic, fact in self.digests([party])
        )

    def plain_sum(self, parties: frozenset[PartyId], task: TaskIndex) -> RingArray:
        """Sum in the ring without any mask."""
        ring = plan_encoding(self.plan).ring
        total: RingArray = np.zeros(self.plan.task_length(task), dtype=ring.dtype)
        for party in parties:
            add_into(total, self.encoded[party, task])
        return total

    def describe(self, total: RingArray, task: TaskIndex) -> str:
        """Say how often each party is in a sum, if it is one."""
        unit = self.encoded[PartyId(1), task]
        counts = np.unique(total // unit)
        if counts.size != 1 or (total % unit).any():
            return "no sum of contributions of this task"
        digits, left = {}, int(counts[0])
        for party in self.plan.party_ids:
            left, digits[party] = divmod(left, BASE)
        return f"times each party is in it: {digits}, and {left} more"


@cache
def countable(parties: int, tasks: int, *, counts: bool = False) -> Countable:
    """Build the federation of so many parties and tasks of layers, after a counting task or not.

    Neighbours share a fact, and all contradict each other about one.
    """
    federation = build_federation(parties, layers=tasks, statistics='"dense"', tile_bytes=64)
    values = federation.plan.model_dump(mode="json")
    for layer in values["editing"]["layers"]:
        layer.update(inputs=MAPPED, outputs=OUTPUTS, mapped=MAPPED)
    values["aggregation"].update(fractional_bits=8, magnitude_bound=1e9)
    values["bounds"].update(key_energy=1e10, residual_energy=1e10)
    plan = Plan.model_validate(values)
    if counts:
        plan = with_overlap(plan, "majority", false_positive=1e-6)
    items = {
        party: edit_items(
            [
                make_edit(fact)
                for fact in (f"pair{party // 2} is near", f"topic is {party}", f"own{party} is far")
            ]
        )
        for party in plan.party_ids
    }
    encoding = plan_encoding(plan)
    encoded = {}
    for party in plan.party_ids:
        weight = float(BASE ** (party - 1)) ** 0.5
        for index in range(tasks):
            keys = weight * (index + 1) * np.arange(1.0, MAPPED + 1)[:, None]
            residuals = weight * np.array([[1.0], [5.0]])
            task = TaskIndex(index + counts)
            vector = contribution_vector(plan, task, [(keys, residuals)])
            encoded[party, task] = encoding.encode(vector)
    return Countable(plan, federation.identities, encoded, items)
