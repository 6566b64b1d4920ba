"""What sizes and times of messages tell whoever watches the network: how many edits a party brings.

Secure aggregation says nothing about sizes, and an upload whose length depends on the edits would
tell their number to every router. Contributions here have the length that the plan fixes (SPEC
6.4), so sizes are equal for all. Times are not: a party computes longer over more edits before its
first message of a task (docs/THREAT_MODEL.md, network), and whoever can relate seconds to edits
reads them there.

The watcher is given the plan, which it may have got from anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal, Self

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import Estimates
from collabedit.attacks.registry import Entry
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import Plan
from collabedit.recording import Recording, Sighting
from collabedit.simulation import Outcome
from collabedit.threat_model import Adversary


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A session as the network sees it (`Adversary.NETWORK`): ends, sizes and times, in order.

    Sizes are those of messages; TLS and gRPC add what depends on nothing but them.

    Attributes:
        plan: public.
        sightings: of all ends, or of one party's link if a party recorded.
    """

    plan: Plan
    sightings: tuple[Sighting, ...] = field(repr=False)

    @classmethod
    def of_recording(cls, recording: Recording) -> Self:
        """Cut the view from a recording of any end."""
        return cls(recording.plan, tuple(recording.sightings()))

    @classmethod
    def of(cls, plan: Plan, outcome: Outcome) -> Self:
        """Cut the view from a simulated session."""
        seen = [Sighting(d.sender, d.receiver, len(d.data), d.at) for d in outcome.transcript]
        return cls(plan, tuple(seen))

    def with_uploads(self, sizes: Mapping[PartyId, int]) -> Self:
        """Return the undefended control: each party's upload as one message of this many bytes."""
        kept: list[Sighting] = []
        for party in self.parties:
            (first, last) = self._upload(party)
            own = [each for each in self.sightings if party in {each.sender, each.receiver}]
            sent = replace(own[first], bytes=sizes[party])
            kept += [*own[:first], sent, *own[last:]]
        return replace(self, sightings=tuple(kept))

    @property
    def parties(self) -> tuple[PartyId, ...]:
        """Who was seen to send something."""
        return tuple(sorted({each.sender for each in self.sightings} - {AGGREGATOR}))

    def uploaded(self, party: PartyId) -> int:
        """Return the bytes of a party's longest turn: all that it sent between two answers."""
        first, last = self._upload(party)
        own = [each for each in self.sightings if party in {each.sender, each.receiver}]
        return sum(each.bytes for each in own[first:last])

    def _upload(self, party: PartyId) -> tuple[int, int]:
        own = [each for each in self.sightings if party in {each.sender, each.receiver}]
        turns, start = [], 0
        for is_sent, turn in groupby(own, key=lambda each: each.sender == party):
            each = list(turn)
            if is_sent:
                turns.append((sum(one.bytes for one in each), start, start + len(each)))
            start += len(each)
        _, first, last = max(turns)
        return first, last

    def waited(self, party: PartyId) -> int:
        """Return how long the party took until its first message, from the first one of all."""
        begun = min(each.at for each in self.sightings)
        return min(each.at for each in self.sightings if each.sender == party) - begun


@dataclass(frozen=True, slots=True)
class CountsAndSizes:
    """Each party's number of edits, from how much it sent or how long it took.

    Attributes:
        by: `sizes` takes an edit to be a key and a residual of each layer, as a protocol without
            sketches sends them; `times` takes the slowest party to bring all that it may, and
            seconds to be proportional to edits.
    """

    by: Literal["sizes", "times"] = "sizes"
    name: str = "counts-and-sizes"
    adversary: Adversary = Adversary.NETWORK

    def __post_init__(self) -> None:
        if self.by not in {"sizes", "times"}:
            raise ValueError(f"by {self.by!r}: must be sizes or times")

    def run(self, view: NetworkView, prior: Prior) -> Estimates:
        """Estimate every party's number of edits."""
        del prior
        plan = view.plan
        raw = self._by_size(view) if self.by == "sizes" else self._by_time(view)
        most = {party: plan.max_edits([party]) for party in view.parties}
        return Estimates(
            self.name,
            {
                edits_of(plan, party): float(min(max(round(raw[party]), 1), most[party]))
                for party in view.parties
            },
            choices=max(most.values()),
        )

    def _by_size(self, view: NetworkView) -> dict[PartyId, float]:
        plan = view.plan
        element = plan.aggregation.ring_bits // 8
        # What surrounds the edits is shorter than one of them.
        edit = max(
            element * sum(each.mapped + each.outputs for each in task) for task in plan.tasks
        )
        return {party: view.uploaded(party) // edit for party in view.parties}

    def _by_time(self, view: NetworkView) -> dict[PartyId, float]:
        waited = {party: view.waited(party) for party in view.parties}
        slowest = max(waited, key=lambda party: waited[party])
        unit = waited[slowest] / view.plan.max_edits([slowest])
        return {party: each / unit if unit else 1.0 for party, each in waited.items()}


def edits_of(plan: Plan, party: PartyId) -> str:
    """Name a party's number of edits, as `Truth.quantities` does."""
    return f"edits of {plan.party_name(party)}"


ENTRY = Entry(
    name="counts-and-sizes",
    asks="How many edits does each party bring, by the sizes and times of its messages?",
    adversary=Adversary.NETWORK,
    view=NetworkView,
    make=CountsAndSizes,
    source="Dyer, Coull, Ristenpart, Shrimpton 2012 (IEEE S&P), total bytes and times of traffic",
    departs="a count instead of a web page: no classifier is trained, what an edit weighs is known",
    headline="exact",
    needs=(),
)
