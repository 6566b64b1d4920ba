"""Model inconsistency: parties are handed different models or parameters, to isolate one of them.

An aggregator that gives everybody but its target a model on which their contributions vanish opens
a sum that is the target's alone, whatever masks do (Pasquini, Francati, Ateniese 2022). Here the
plan pins weights, test matrix, covariance, templates and all other settings; its digest is in every
signature, in the masks' transcript, and is what a party asks to join under. Tried is to put a party
that holds another plan into one sum with the others.

`bound=False` is the undefended control: nothing binds the model, the others compute zero keys on
theirs, and a session of the deployed machines opens the target's statistics.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from collabedit.aggregator.admission import NO_CHAIN, NO_SESSION, admit
from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import Attempt, Attempts
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import gram_sketch, range_basis
from collabedit.attacks.stage import Moment, Stage, refusal_of
from collabedit.attacks.views import AggregatorView, first_layer, layer_of
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import task as party_task
from collabedit.party.closing import Statistics
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, decode_packet
from collabedit.proto.envelope import sign_message
from collabedit.simulation import Outcome
from collabedit.threat_model import Adversary

_FIRST = TaskIndex(0)


def _turned(text: str) -> str:
    """Return another hex string of the same length: another digest or seed."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


Change = Callable[[dict[str, Any]], None]


def _weights(plan: dict[str, Any]) -> None:
    plan["model"]["weights"] = _turned(plan["model"]["weights"])


def _omega(plan: dict[str, Any]) -> None:
    plan["aggregation"]["test_matrix_seed"] = _turned(plan["aggregation"]["test_matrix_seed"])


def _templates(plan: dict[str, Any]) -> None:
    plan["editing"]["context_templates"] = [*plan["editing"]["context_templates"], "It is said: {}"]


def _bounds(plan: dict[str, Any]) -> None:
    plan["bounds"]["key_energy"] *= 2


CHANGES: Mapping[str, Change] = {
    "other weights": _weights,
    "another test matrix": _omega,
    "other templates": _templates,
    "other bounds": _bounds,
}
"""What the target is handed instead."""


@dataclass(frozen=True, slots=True)
class ModelInconsistency:
    """Whether a party with another model or plan gets into one sum with the others.

    Attributes:
        target: who is to be isolated.
        bound: False is the undefended control.
    """

    target: PartyId = field(default=PartyId(1))
    bound: bool = True
    name: str = "model-inconsistency"
    adversary: Adversary = Adversary.MALICIOUS_AGGREGATOR

    def run(self, stage: Stage, prior: Prior) -> Attempts:
        """Try every change, at every machine that could take it; or run the control."""
        del prior
        if not self.bound:
            return Attempts(self.name, (self._isolated(stage),))
        attempts: list[Attempt] = []
        for number, (what, change) in enumerate(CHANGES.items()):
            other = changed(stage.plan, change)
            attempts.append(self._joins(stage, what, other))
            played = stage.play(number, tries=partial(self._tries, stage, what, other))
            attempts += played.attempts()
            attempts += self._shown(stage, what, other, played.outcome)
        return Attempts(self.name, tuple(attempts))

    def isolate(self, stage: Stage) -> AggregatorView:
        """Run the control, and return what the aggregator has of it."""

        def edits(party: PartyId, task: TaskIndex) -> Statistics:
            honest = stage.edits(party, task)
            if party == self.target:
                return honest
            return [(np.zeros_like(keys), residuals) for keys, residuals in honest]

        return AggregatorView.of(stage.plan, stage.play(0, edits=edits).outcome)

    def _isolated(self, stage: Stage) -> Attempt:
        view = self.isolate(stage)
        plan, label = stage.plan, "others compute on a model without keys"
        layer = first_layer(plan)
        task, _, _ = layer_of(plan, layer)
        if self.target not in view.survivors.get(task, frozenset()):
            return Attempt(label, succeeded=False, outcome="no sum was opened")
        found = gram_sketch(plan, layer, view.sums[task], parties=len(view.survivors[task]))
        rank = range_basis(found.gram, noise=found.noise).shape[1]
        # Cover edits are added by everybody's own software, whatever the model is.
        alone = rank <= plan.max_edits([self.target]) + len(plan.party_ids) * plan.cover_edits
        outcome = f"the sum of {len(view.survivors[task])} parties has rank {rank}"
        return Attempt(label, succeeded=alone, outcome=outcome)

    def _joins(self, stage: Stage, what: str, other: Plan) -> Attempt:
        nowhere = m.Context(other.digest, NO_SESSION, _FIRST, NO_CHAIN)
        key = stage.identities[self.target]
        join = sign_message(m.Join(), context=nowhere, sender=self.target, key=key)
        said = refusal_of(lambda: admit(stage.plan, m.Packet(join)))
        label = f"{what}: the target joins the others' session"
        return Attempt(label, succeeded=said is None, outcome=said or "admitted")

    def _tries(
        self, stage: Stage, what: str, other: Plan, moment: Moment
    ) -> Iterable[tuple[str, m.Packet]]:
        """Mix both plans wherever keys are agreed on: what comes later is masked under them."""
        envelope = moment.envelope
        if envelope.context.task != _FIRST:
            return
        begun = stage.begin(self.target, other, envelope.context.session_id)
        (said,) = begun.outbound
        if moment.receiver == AGGREGATOR:
            if moment.message == "Advertise" and envelope.sender == self.target:
                yield f"{what}: the target's keys handed in", said
            return
        message = decode_body(envelope.kind, envelope.body)
        if not isinstance(message, m.Roster):
            return
        if moment.receiver != self.target:
            mixed = _with(message, said.envelope)
            lie = m.Packet(stage.sign(mixed, envelope.context))
            yield f"{what}: the target's keys shown to the others", lie

    def _shown(self, stage: Stage, what: str, other: Plan, session: Outcome) -> Iterable[Attempt]:
        """Show the target, under the plan that it was handed, the others' keys, or none."""
        roster = _roster(session)
        begun = stage.begin(self.target, other, roster.advertisements[0].context.session_id)
        (said,) = begun.outbound
        for how, lie in (
            ("the others' keys shown to the target", _with(roster, said.envelope)),
            ("the target left alone", m.Roster((said.envelope,))),
        ):
            packet = m.Packet(stage.sign(lie, said.envelope.context))
            refused = refusal_of(partial(party_task.receive, begun.state, packet))
            yield Attempt(f"{what}: {how}", succeeded=refused is None, outcome=refused or "taken")


def changed(plan: Plan, change: Change) -> Plan:
    """Return the plan that the target is handed."""
    values = plan.model_dump(mode="json", exclude_none=True)
    change(values)
    return Plan.model_validate(values)


def _with(roster: m.Roster, envelope: m.Envelope) -> m.Roster:
    others = [each for each in roster.advertisements if each.sender != envelope.sender]
    return m.Roster(tuple(sorted([*others, envelope], key=lambda each: each.sender)))


def _roster(session: Outcome) -> m.Roster:
    for delivery in session.transcript:
        if delivery.kind == "packet" and delivery.sender == AGGREGATOR:
            envelope = decode_packet(delivery.data).envelope
            message = decode_body(envelope.kind, envelope.body)
            if isinstance(message, m.Roster):
                return message
    raise ValueError("the session had no roster")


ENTRY = Entry(
    name="model-inconsistency",
    asks="Can one party be isolated by handing the others another model?",
    adversary=Adversary.MALICIOUS_AGGREGATOR,
    view=Stage,
    make=ModelInconsistency,
    source="Pasquini, Francati, Ateniese 2022 (CCS), arXiv 2111.07380",
    departs="keys of zero instead of gradients that dead units suppress; plans are handed out",
    headline="success",
    needs=(),
)
