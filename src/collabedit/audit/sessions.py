"""One session of an audit: the deployed state machines, with real keys and residuals of the model.

Everything that is drawn follows from what the session is, so an audit that is repeated has the same
sessions to the bit (ADR 0022). A session that edits the first layer alone is what a whole one is in
its first task: residuals are those that all of the plan's layers would share.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from collabedit.attacks.truth import Fact, Truth
from collabedit.audit.defences import DEFENCES, Defence, DefenceSettings
from collabedit.audit.pool import most_edits
from collabedit.audit.schema import Setting
from collabedit.crypto.ring import RingArray
from collabedit.crypto.rng import ReplayableRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import NumericError, SessionAbortedError
from collabedit.experiments.cache import Cache
from collabedit.experiments.cell import Bench
from collabedit.experiments.protocol import edited_by
from collabedit.experiments.schema import EditorSettings
from collabedit.federation import Coordinator, Party
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party.editing.camouflage import camouflage_layers
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import (
    ModelEditor,
    edited_layers,
    key_maps,
    target_settings,
)
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.proposal import propose_plan
from collabedit.party.editing.targets import Targets
from collabedit.party.edits import Edit, edits_digest
from collabedit.party.items import edit_items
from collabedit.party.states import TaskSetup
from collabedit.plan import Plan
from collabedit.proto.messages import Context
from collabedit.simulation import Faults, Outcome, Simulation
from collabedit.sketch import LowRankUpdate, Matrix

_LOST_ROUND = "r3"
"""The party that the second session does without is gone before its upload."""


@dataclass(frozen=True, slots=True)
class Maker:
    """What sessions of one audit have in common.

    Attributes:
        bench: model, covariance and cache.
        editor: how edits are made.
        defences: sizes.
    """

    bench: Bench
    editor: EditorSettings
    defences: DefenceSettings


@dataclass(frozen=True, slots=True)
class SessionTask:
    """A session that is to be run, as it travels to a worker.

    Attributes:
        maker: of the audit.
        setting: which session.
        plan_id: determines plan and identities; the same for a session and its repetition.
        id: determines everything else that is drawn.
        shares: numbers of the candidates that each party edits.
        edits: these candidates, by number.
        decoys: for camouflage, of other subjects.
    """

    maker: Maker
    setting: Setting
    plan_id: str
    id: str
    shares: tuple[tuple[int, ...], ...] = field(repr=False)
    edits: Mapping[int, Edit] = field(repr=False)
    decoys: tuple[Edit, ...] = field(default=(), repr=False)

    @property
    def defence(self) -> Defence:
        """Under which it runs."""
        return DEFENCES[self.setting.defence]


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the parties of one task know.

    Attributes:
        context: of the task.
        group_secret: of those that have one.
        encoded: what each party encoded, before masks: [elements].
    """

    context: Context
    group_secret: bytes | None = field(repr=False)
    encoded: Mapping[PartyId, RingArray] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Session:
    """A session with everything that any view is cut from. No attack is handed one.

    Attributes:
        task: what was run; its `edits` are the truth.
        plan: public.
        outcome: of the state machines; without the parties' states.
        secrets: by task.
        released: the published update by layer, in mapped coordinates.
        vectors: by name, of the first layer: `keys` [d', n] and `residuals` [d_out, n], of the
            parties in order.
        again: the repetition, for views of two sessions.
    """

    task: SessionTask
    plan: Plan
    outcome: Outcome = field(repr=False)
    secrets: Mapping[TaskIndex, Secrets] = field(repr=False)
    released: Mapping[LayerIndex, LowRankUpdate] = field(repr=False)
    vectors: Mapping[str, Matrix] = field(repr=False)
    again: "Session | None" = field(default=None, repr=False)

    @property
    def setting(self) -> Setting:
        """Which session it is."""
        return self.task.setting

    @property
    def identities(self) -> Mapping[PartyId, SigningKey]:
        """Private keys of all ends, for adversaries that act."""
        return identities_of(self.task)

    def statistics(self) -> dict[PartyId, tuple[Matrix, Matrix]]:
        """Return K̃ [d', n] and R [d_out, n] of each party, of the first layer, without covers.

        For adversaries that act: with `plan` and `identities` further sessions can be run.
        """
        found, start = {}, 0
        for party, numbers in zip(self.plan.party_ids, self.task.shares, strict=True):
            own = slice(start, start + len(numbers))
            found[party] = (self.vectors["keys"][:, own], self.vectors["residuals"][:, own])
            start += len(numbers)
        return found

    def truth(self, candidates: int, *, parties: frozenset[PartyId] | None = None) -> Truth:
        """State what was really there; for scoring alone.

        Args:
            candidates: how many there are to choose from.
            parties: whose edits count; None counts all.
        """
        shares = dict(zip(self.plan.party_ids, self.task.shares, strict=True))
        kept = {p: numbers for p, numbers in shares.items() if parties is None or p in parties}
        facts = {
            number: Fact(edit.subject, edit.prompt, edit.target_new, edit.target_true or "")
            for numbers in kept.values()
            for number in numbers
            for edit in [self.task.edits[number]]
        }
        counts = {f"edits of {self.plan.party_name(p)}": len(own) for p, own in kept.items()}
        return Truth(candidates, kept, facts, self.vectors, counts)


def run_session(task: SessionTask) -> Session:
    """Run a session; the model is unedited again afterwards.

    Raises:
        SessionAbortedError: it ended early, before any sum was opened.
        NumericError: a party's numbers are beyond the plan's bounds.
        InputError: what `propose_plan` refuses.
    """
    model = task.maker.bench.load()
    covariance = task.maker.bench.second_moments(task.maker.editor)
    whole = propose(task, model, covariance)
    plan = whole if task.setting.scope == "all" else first_layer_plan(whole)
    maps = key_maps(whole, covariance)
    editors = _editors(task, whole, model, maps)
    edits_layers = sum(bool(layers) for layers in plan.tasks)
    watch = _Watch(plan)
    shown: list[tuple[Matrix, Matrix]] = []

    def contribute(party: PartyId, index: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        statistics = editors[party].statistics(plan.tasks[index])
        if len(shown) < len(plan.party_ids):
            shown.append(statistics[0])
        return statistics

    def apply(party: PartyId, _: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        # All parties hold the same weights, so one copy stands for all, and is edited once.
        if party == plan.party_ids[0] and edits_layers > 1:
            editors[party].apply(updates)

    try:
        with tempfile.TemporaryDirectory(prefix="collabedit-") as spool:
            simulation = Simulation(
                plan,
                identities=identities_of(task),
                directory=Path(spool),
                randomness={
                    end: drawing(task.id, f"end {end}") for end in (AGGREGATOR, *plan.party_ids)
                },
                faults=_faults(task, plan),
                encoded=watch,
            )
            outcome = simulation.run(
                contribute,
                apply,
                items={party: edit_items(editor.edits) for party, editor in editors.items()},
                weigh=lambda party, decisions: editors[party].weigh(decisions),
            )
    finally:
        for editor in editors.values():
            editor.rollback()
    _check(task, plan, outcome)
    return Session(
        task=task,
        plan=plan,
        # States hold keys that no view needs.
        outcome=replace(outcome, party_states={}),
        secrets=watch.secrets(),
        released=_released(task, model, maps, plan, outcome),
        vectors={
            "keys": np.concatenate([keys for keys, _ in shown], axis=1),
            "residuals": np.concatenate([wanted for _, wanted in shown], axis=1),
        },
    )


def _check(task: SessionTask, plan: Plan, outcome: Outcome) -> None:
    """Refuse a session without sums; one that ended behind an opening is one to attack.

    A repetition may: the parties left bring fewer edits than the plan's `closed.min_edits`.
    """
    if len(outcome.sums) >= (1 if task.setting.again else len(plan.tasks)):
        return
    if outcome.refusals:
        raise outcome.refusals[0][1]
    if outcome.aborted is not None:
        raise SessionAbortedError(outcome.aborted.reason, outcome.aborted.detail)
    raise NumericError("a session opened too few sums")


def propose(task: SessionTask, model: EditableModel, covariance: Covariance | None) -> Plan:
    """Write the plan of a session, with all of the editor's layers."""
    editor, setting, defence = task.maker.editor, task.setting, task.defence
    identities = identities_of(task)

    def public(end: int) -> str:
        return identities[PartyId(end)].verify_key.to_bytes().hex()

    most = most_edits(setting)
    return propose_plan(
        model,
        covariance,
        name="audit",
        model_name="audit",
        parties=[
            Party(name=f"party-{party}", identity=public(party), max_edits=most)
            for party in range(1, setting.parties + 1)
        ],
        aggregator=Coordinator(name="aggregator", identity=public(AGGREGATOR)),
        layers=edited_by(editor, model),
        randomness=drawing(task.plan_id, "plan"),
        editor=editor.editor,
        covariance_weight=editor.covariance_weight,
        nullspace_threshold=editor.nullspace_threshold,
        l2=editor.l2,
        shift=editor.shift,
        target_steps=editor.target_steps,
        statistics=defence.statistics,
        backend=defence.backend,
        closed=defence.closed(task.maker.defences, edits=setting.edits),
        length_units=defence.length_units(task.maker.defences),
        overlap=defence.overlap,
    )


def first_layer_plan(plan: Plan) -> Plan:
    """Return a plan with the first of its layers alone."""
    values = plan.model_dump(mode="json", exclude_none=True)
    values["editing"]["layers"] = values["editing"]["layers"][:1]
    return Plan.model_validate(values)


def identities_of(task: SessionTask) -> Mapping[PartyId, SigningKey]:
    """Make the keys of all ends, the aggregator's under 0."""
    return {
        PartyId(end): SigningKey.generate(drawing(task.plan_id, f"identity {end}"))
        for end in range(task.setting.parties + 1)
    }


def drawing(name: str, context: str) -> ReplayableRandomness:
    """Return what draws the same each time that an audit is repeated.

    Args:
        name: of a session.
        context: what is drawn for; another one for each use.
    """
    seed = hashlib.sha256(f"collabedit/v1/audit\n{name}".encode()).digest()
    return ReplayableRandomness(seed, context.encode())


def _faults(task: SessionTask, plan: Plan) -> Faults | None:
    if not task.setting.again:
        return None
    return Faults(crash_before={plan.party_ids[-1]: _LOST_ROUND})


def _editors(
    task: SessionTask, plan: Plan, model: EditableModel, maps: Mapping[int, KeyMap]
) -> dict[PartyId, ModelEditor]:
    shares = [[task.edits[number] for number in numbers] for numbers in task.shares]
    held = list(dict.fromkeys(edit for own in shares for edit in own))
    found = targets_of(task.maker.bench, plan, model, held)
    column = {edit: place for place, edit in enumerate(held)}
    editors = {}
    for party, edits in zip(plan.party_ids, shares, strict=True):
        values = found.values[:, [column[edit] for edit in edits]]
        own = Targets(values, edits_digest(edits), found.settings_digest)
        editors[party] = ModelEditor(plan, model, edits, own, maps)
    return editors


def targets_of(bench: Bench, plan: Plan, model: EditableModel, edits: Sequence[Edit]) -> Targets:
    """Read targets from the cache, searching for those that are not there."""
    return Cache(bench.cache).targets(
        model,
        edits,
        layer=edited_layers(plan.editing)[-1],
        templates=plan.editing.context_templates,
        settings=target_settings(plan.editing),
    )


def _released(
    task: SessionTask,
    model: EditableModel,
    maps: Mapping[int, KeyMap],
    plan: Plan,
    outcome: Outcome,
) -> dict[LayerIndex, LowRankUpdate]:
    """Return what is published, in mapped coordinates."""
    updates = {layer: each for task in outcome.updates.values() for layer, each in task.items()}
    camouflage = task.defence.camouflage(task.maker.defences)
    if camouflage is None:
        return updates
    hidden = camouflage_layers(
        model,
        {
            layer: LowRankUpdate(update.left, maps[layer].unmap_rows(update.right))
            for layer, update in updates.items()
        },
        task.decoys,
        maps=maps,
        templates=plan.editing.context_templates,
        camouflage=camouflage,
        randomness=drawing(task.id, "camouflage"),
    )
    return {
        layer: LowRankUpdate(update.left, maps[layer].remap_rows(update.right))
        for layer, update in hidden.items()
    }


class _Watch:
    """Keeps what parties encode, and the group secrets."""

    def __init__(self, plan: Plan) -> None:
        self._found: dict[TaskIndex, Secrets] = {}
        self._vectors: dict[TaskIndex, dict[PartyId, RingArray]] = {
            TaskIndex(index): {} for index in range(len(plan.tasks))
        }

    def __call__(self, setup: TaskSetup, vector: RingArray, secret: bytes | None) -> None:
        task = setup.context.task
        self._vectors[task][setup.me] = vector.copy()
        self._found[task] = Secrets(setup.context, secret, self._vectors[task])

    def secrets(self) -> dict[TaskIndex, Secrets]:
        """Return what was seen, by task."""
        return self._found
