"""Federations with tiny vectors in which every party can be counted."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from collabedit.crypto.ring import RingArray, add_into, to_bytes
from collabedit.crypto.signing import SigningKey
from collabedit.exchange import contribution_vector, plan_encoding
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.closing import Statistics, statistics_to_bytes
from collabedit.party.counting import Count, Digests
from collabedit.party.items import Item, edit_items, items_to_bytes
from collabedit.plan import Plan
from collabedit.sketch import Matrix
from tests.simulation.faults.ops import Sums
from tests.support.federations import TestFederation, build_federation, encrypted_federation
from tests.support.overlaps import make_edit, with_overlap

MAPPED = 4
OUTPUTS = 2
CLOSED_MAPPED = 8
CLOSED_OUTPUTS = 4
BASE = 16
"""More than any number of times that a party can be in a sum by mistake."""


@dataclass(frozen=True)
class Countable:
    """A plan, its keys, and what everybody contributes.

    Attributes:
        encoded: with open sums, by party and task.
        statistics: with closed sums: K̃ and R of each layer.
    """

    plan: Plan
    identities: dict[PartyId, SigningKey]
    encoded: Mapping[tuple[PartyId, TaskIndex], RingArray]
    statistics: Mapping[tuple[PartyId, TaskIndex], Statistics]
    items: dict[PartyId, tuple[Item, ...]]

    def brought(self, party: PartyId, task: TaskIndex) -> bytes:
        """What a party's journal keeps of its contribution."""
        if self.plan.counting(task) is not None:
            return items_to_bytes(self.items[party])
        if self.plan.is_closed(task):
            return statistics_to_bytes(self.statistics[party, task])
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

    def centralised(self, parties: frozenset[PartyId], task: TaskIndex) -> Matrix:
        """T (ρI + S)⁻¹ over these parties' edits of a closed task, by a dense solve."""
        pairs = [self.statistics[party, task][0] for party in sorted(parties)]
        keys = np.concatenate([keys for keys, _ in pairs], axis=1)
        residuals = np.concatenate([residuals for _, residuals in pairs], axis=1)
        ridge = self.plan.editing.ridge * np.eye(len(keys))
        return np.linalg.solve(keys @ keys.T + ridge, keys @ residuals.T).T

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


def count_in(total: RingArray, vectors: Mapping[PartyId, RingArray]) -> str:
    """Say how often each of these vectors is in a sum, if none is more than twice."""
    for times in itertools.product(range(3), repeat=len(vectors)):
        parts = zip(times, vectors.values(), strict=True)
        if np.array_equal(total, sum((n * vector for n, vector in parts), np.zeros_like(total))):
            return f"times each party is in it: {dict(zip(vectors, times, strict=True))}"
    return "no sum of contributions of this task"


@cache
def countable(parties: int, tasks: int, *, counts: bool = False, sums: Sums = "open") -> Countable:
    """Build the federation of so many parties and tasks of layers, after a counting task or not.

    Neighbours share a fact, and all contradict each other about one.
    """
    federation = _federation(parties, tasks, sums)
    plan = federation.plan if sums != "open" else _unbounded(federation.plan)
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
    own = [
        (party, TaskIndex(index), TaskIndex(index + counts))
        for party in plan.party_ids
        for index in range(tasks)
    ]
    if sums == "open":
        encoded = {(party, task): _weighed(plan, party, task, index) for party, index, task in own}
        return Countable(plan, federation.identities, encoded, {}, items)
    statistics = {(party, task): [federation.edits[party, index]] for party, index, task in own}
    return Countable(plan, federation.identities, {}, statistics, items)


def _federation(parties: int, tasks: int, sums: Sums) -> TestFederation:
    if sums == "open":
        return build_federation(parties, layers=tasks, statistics='"dense"', tile_bytes=64)
    if sums == "closed":
        return build_federation(
            parties,
            layers=tasks,
            mapped=CLOSED_MAPPED,
            outputs=CLOSED_OUTPUTS,
            statistics='"dense"',
            tile_bytes=256,
            closed="check_columns = 2",
        )
    # One chunk in nine tiles, and opened integers in two.
    return encrypted_federation(parties, layers=tasks, statistics='"dense"', check_columns=2)


def _unbounded(plan: Plan) -> Plan:
    """Give a plan layers and bounds for contributions that grow by powers of `BASE`."""
    values = plan.model_dump(mode="json")
    for layer in values["editing"]["layers"]:
        layer.update(inputs=MAPPED, outputs=OUTPUTS, mapped=MAPPED)
    values["aggregation"].update(fractional_bits=8, magnitude_bound=1e9)
    values["bounds"].update(key_energy=1e10, residual_energy=1e10)
    return Plan.model_validate(values)


def _weighed(plan: Plan, party: PartyId, task: TaskIndex, index: TaskIndex) -> RingArray:
    """The vector of a task, times `BASE` to the power of the party's place."""
    weight = float(BASE ** (party - 1)) ** 0.5
    keys = weight * (index + 1) * np.arange(1.0, MAPPED + 1)[:, None]
    residuals = weight * np.array([[1.0], [5.0]])
    return plan_encoding(plan).encode(contribution_vector(plan, task, [(keys, residuals)]))
