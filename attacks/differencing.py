"""Differencing: one party's contribution as the difference of two sums.

Two ways to the second sum. An aggregator that opened the same edits twice, with sets of survivors
that differ in one party, subtracts one opened sum from the other: parties' statistics on the
unedited model are the same in both sessions, so the difference is that party's encoded contribution
exactly, every mask notwithstanding. This is why a plan must not be repeated with other parties on
the same edits (docs/THREAT_MODEL.md). And an aggregator that colludes with all survivors but one
subtracts what these know of themselves; no protocol for sums prevents this (Bonawitz et al. 2017,
CCS, definition of the ideal functionality), the floor on parties and thresholds only makes it
expensive. With fewer colluders the same subtraction leaves the sum over the others.

In a sequential schedule this holds for the first task: keys of later ones depend on the update
below, which differs between the sessions.
"""

from dataclasses import dataclass, field

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import vector_scores
from collabedit.attacks.views import ColludingView, SessionPair, first_layer, layer_of
from collabedit.crypto.ring import RingArray, subtract_from
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.threat_model import Adversary


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is left of a sum after a subtraction.

    Attributes:
        parties: whose contributions it is the sum of.
        vector: [elements] of the plan's ring, unmasked.
    """

    parties: frozenset[PartyId]
    vector: RingArray = field(repr=False)


def subtract_sessions(pair: SessionPair, task: TaskIndex) -> Remainder:
    """Subtract the opened sum of the smaller set of survivors from that of the larger.

    Raises:
        ValueError: the plans differ, or neither set contains the other, or they are equal: the
            difference is then no sum of contributions.
    """
    first, second = pair.first, pair.second
    if first.plan.digest != second.plan.digest:
        raise ValueError("the sessions have different plans")
    larger, smaller = first, second
    if first.survivors[task] < second.survivors[task]:
        larger, smaller = second, first
    if not smaller.survivors[task] < larger.survivors[task]:
        raise ValueError("no set of survivors is a proper part of the other")
    vector = larger.sums[task].copy()
    subtract_from(vector, smaller.sums[task])
    return Remainder(larger.survivors[task] - smaller.survivors[task], vector)


def subtract_own(view: ColludingView, task: TaskIndex) -> Remainder:
    """Take the colluding survivors' own contributions off the opened sum."""
    survivors = view.aggregator.survivors[task]
    vector = view.aggregator.sums[task].copy()
    colluding = survivors & view.own[task].keys()
    for party in colluding:
        subtract_from(vector, view.own[task][party])
    return Remainder(survivors - colluding, vector)


def _finding(
    name: str, plan: Plan, layer: LayerIndex, remainder: Remainder, prior: Prior
) -> Finding:
    scores = vector_scores(
        plan,
        layer,
        remainder.vector,
        prior.mapped_keys[layer],
        parties=len(remainder.parties),
    )
    about = min(remainder.parties) if len(remainder.parties) == 1 else None
    return Finding(name, (about,), scores[None])


@dataclass(frozen=True, slots=True)
class Differencing:
    """Membership in what two sessions differ by.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "differencing"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: SessionPair, prior: Prior) -> Finding:
        """Score the candidates against the difference: one row, about the party if it is one."""
        plan = view.first.plan
        layer = first_layer(plan) if self.layer is None else self.layer
        task, _, _ = layer_of(plan, layer)
        return _finding(self.name, plan, layer, subtract_sessions(view, task), prior)


@dataclass(frozen=True, slots=True)
class Collusion:
    """Membership in what the colluding parties did not contribute.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "collusion"
    adversary: Adversary = Adversary.COLLUDING

    def run(self, view: ColludingView, prior: Prior) -> Finding:
        """Score the candidates against the rest: one row, about the party if only one is left."""
        plan = view.aggregator.plan
        layer = first_layer(plan) if self.layer is None else self.layer
        task, _, _ = layer_of(plan, layer)
        return _finding(self.name, plan, layer, subtract_own(view, task), prior)


DIFFERENCING = Entry(
    name="differencing",
    asks="What did one party add, by two sums of sessions that differ in it?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=SessionPair,
    make=Differencing,
    source="folklore; Bonawitz et al. 2017 (CCS), the ideal functionality",
    departs="followed by the span test",
    headline="auc",
)


COLLUSION = Entry(
    name="collusion",
    asks="What did the parties edit that do not collude with the aggregator?",
    adversary=Adversary.COLLUDING,
    view=ColludingView,
    make=Collusion,
    source="Bonawitz et al. 2017 (CCS), the ideal functionality",
    departs="followed by the span test",
    headline="auc",
)
