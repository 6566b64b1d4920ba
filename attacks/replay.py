"""Replay: an aggregator that uses what parties sent in one session in a later one.

It would isolate a party, or count it twice, if anything of an earlier session over the same edits
stood for itself in the later one. Tried are every kind of statement, in what the aggregator relays
to others and handed in at the aggregator, a whole upload in the place of the later one, and sums of
uploads of both sessions. A statement is bound to its session by the context in its signature (SPEC
3.1), an upload by masks of fresh keys and by the root that its party signed.

Relaying needs the aggregator's own key only, so what is refused is refused by the parties
themselves; the honest aggregator's machine refuses the same of a party, or of whoever stole a
party's place on the network.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import Attempt, Attempts
from collabedit.attacks.registry import Entry
from collabedit.attacks.stage import MESSAGES, Moment, Stage, name_of
from collabedit.attacks.views import AggregatorView
from collabedit.crypto.ring import RingArray, add_into, subtract_from
from collabedit.errors import MalformedMessageError
from collabedit.exchange import plan_encoding
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, decode_packet
from collabedit.recording import Delivery
from collabedit.simulation import Outcome
from collabedit.threat_model import Adversary

_FIRST = TaskIndex(0)
_NEAR = 8.0
"""Times the root mean square of the honest sum. A sum with a party twice stays below, one with a
mask left in it is uniform over the ring, whose headroom is far larger."""

_Statements: TypeAlias = dict[tuple[PartyId, int], m.Packet]


@dataclass(frozen=True, slots=True)
class Replay:
    """Whether anything of an earlier session is taken in a later one.

    Attributes:
        target: whose statements and upload are replayed.
    """

    target: PartyId = field(default=PartyId(1))
    name: str = "replay"
    adversary: Adversary = Adversary.MALICIOUS_AGGREGATOR

    def run(self, stage: Stage, prior: Prior) -> Attempts:
        """Run two sessions and a third with the first one's upload in it, and try everything."""
        del prior
        earlier = stage.play(0).outcome
        said = _statements(earlier)
        later = stage.play(1, tries=lambda moment: self._tries(stage, said, moment))
        attempts = [*later.attempts(), self._upload(stage, earlier)]
        attempts += self._sums(stage.plan, earlier, later.outcome)
        return Attempts(self.name, tuple(attempts))

    def _tries(
        self, stage: Stage, said: _Statements, moment: Moment
    ) -> Iterable[tuple[str, m.Packet]]:
        envelope = moment.envelope
        if moment.receiver == AGGREGATOR:
            old = said.get((envelope.sender, envelope.kind))
            if envelope.sender == self.target and old is not None:
                yield f"{moment.message} handed in again", old
            return
        if moment.receiver == self.target:
            return
        message: Any = decode_body(envelope.kind, envelope.body)
        for part in fields(message):
            listed = getattr(message, part.name)
            if not isinstance(listed, tuple):
                continue
            mixed = tuple(self._earlier(said, each) for each in listed)
            if mixed != listed:
                lie = stage.sign(replace(message, **{part.name: mixed}), envelope.context)
                kind = MESSAGES[listed[0].kind]
                yield f"{kind} relayed again", m.Packet(lie, moment.packet.attachments)

    def _earlier(self, said: _Statements, envelope: m.Envelope) -> m.Envelope:
        old = said.get((envelope.sender, envelope.kind))
        return envelope if envelope.sender != self.target or old is None else old.envelope

    def _upload(self, stage: Stage, earlier: Outcome) -> Attempt:
        """Exchange the whole upload of the target on its way, as who holds its connection can."""
        frames = iter([d for d in earlier.transcript if self._is_frame(d)])
        label = "upload in the place of the later one"

        def swap(delivery: Delivery) -> Delivery:
            return (
                replace(delivery, data=next(frames).data) if self._is_frame(delivery) else delivery
            )

        outcome = stage.play(2, sends=swap).outcome
        survivors = outcome.records[0].survivors if outcome.records else frozenset()
        if self.target in survivors:
            return Attempt(label, succeeded=True, outcome="taken")
        reasons = {name_of(error) for who, error in outcome.refusals if who == AGGREGATOR}
        return Attempt(label, succeeded=False, outcome=", ".join(sorted(reasons)))

    def _is_frame(self, delivery: Delivery) -> bool:
        return (delivery.kind, delivery.sender, delivery.task) == ("frame", self.target, _FIRST)

    def _sums(self, plan: Plan, earlier: Outcome, later: Outcome) -> Iterable[Attempt]:
        """Open the later session's masks with the earlier upload in the sum."""
        first, second = AggregatorView.of(plan, earlier), AggregatorView.of(plan, later)
        old, new = first.uploads[_FIRST][self.target], second.uploads[_FIRST][self.target]
        honest = second.sums[_FIRST]
        twice, instead = honest.copy(), honest.copy()
        add_into(twice, old)
        add_into(instead, old)
        subtract_from(instead, new)
        for label, total in (
            ("earlier upload added to the later sum", twice),
            ("earlier upload summed in the place of the later one", instead),
        ):
            near = _size(plan, total) <= _NEAR * _size(plan, honest)
            yield Attempt(label, succeeded=near, outcome="opened" if near else "masked")


def _statements(outcome: Outcome) -> _Statements:
    found: _Statements = {}
    for delivery in outcome.transcript:
        if delivery.kind == "packet" and delivery.sender != AGGREGATOR and delivery.task == _FIRST:
            try:
                packet = decode_packet(delivery.data)
            except MalformedMessageError:
                continue
            found[delivery.sender, packet.envelope.kind] = packet
    return found


def _size(plan: Plan, vector: RingArray) -> float:
    # Without the padded elements behind the statistics, which nobody but parties can read.
    reals = plan_encoding(plan).decode(vector[: plan.statistics_length(_FIRST)])
    return float(np.sqrt(np.mean(reals**2)))


ENTRY = Entry(
    name="replay",
    asks="Is anything that a party sent in one session taken in another?",
    adversary=Adversary.MALICIOUS_AGGREGATOR,
    view=Stage,
    make=Replay,
    source="Bonawitz et al. 2017 (CCS), section 6, on an active server; Dolev and Yao 1983",
    departs="every kind of statement of the deployed protocol, and sums of both sessions' uploads",
    headline="success",
    needs=(),
)
