"""One session of the real protocol in this process: plan, keys, state machines, masked sums.

Each party is the deployed state machine with an identity of its own and a `ModelEditor` over its
own edits. All share one model in memory, as `collabedit simulate` does: every party holds the same
weights at every moment, so one copy stands for all.
"""

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.demo.methods import Share, Updates
from collabedit.experiments.schema import Cell, EditorSettings
from collabedit.federation import Coordinator, Party
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.memory import Memory
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import ModelEditor, key_maps
from collabedit.party.editing.hyperparameters import defaults_for
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.proposal import PARAPHRASES, OverlapWish, propose_plan
from collabedit.party.items import edit_items
from collabedit.plan import Plan
from collabedit.simulation import Simulation
from collabedit.sketch import LowRankUpdate, Matrix

Identities = Mapping[PartyId, SigningKey]
"""Of every party, and of the aggregator under 0."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a session gave.

    Attributes:
        updates: dense ΔW by layer.
        uploaded: bytes that each party sent.
        seconds: of the session, targets not counted.
    """

    updates: Updates = field(repr=False)
    uploaded: tuple[int, ...]
    seconds: float


def new_identities(parties: int) -> Identities:
    """Make keys for one session; they are thrown away with it."""
    randomness = SystemRandomness()
    return {PartyId(i): SigningKey.generate(randomness) for i in range(parties + 1)}


def room(cell: Cell) -> int:
    """Return how many requests an edit may become: paraphrases are added to those that win."""
    return 1 + PARAPHRASES if cell.policy == "augment" else 1


def edited_by(editor: EditorSettings, model: EditableModel) -> tuple[int, ...]:
    """Return the layers to edit: the file's, else those published for the architecture."""
    published = defaults_for(model.architecture, editor.editor).layers(model.n_layers)
    return published if editor.layers is None else editor.layers


def session_plan(
    cell: Cell,
    model: EditableModel,
    covariance: Covariance | None,
    *,
    identities: Identities,
    edits: Sequence[int],
    past: int = 0,
) -> Plan:
    """Write the plan of one session of a cell.

    Args:
        cell: editor, schedule and seed.
        model: as it is before the session.
        covariance: of the unedited model; None for an editor without.
        identities: of all ends.
        edits: of each party, how many.
        past: edits of earlier rounds that a party brings; 0 for none, and without memory.

    Raises:
        InputError: what `propose_plan` refuses.
    """
    editor = cell.editor

    def public(party: int) -> str:
        return identities[PartyId(party)].verify_key.to_bytes().hex()

    plan = propose_plan(
        model,
        covariance,
        name="experiment",
        model_name="experiment",
        parties=[
            Party(name=f"party-{party}", identity=public(party), max_edits=room(cell) * count)
            for party, count in enumerate(edits, 1)
        ],
        aggregator=Coordinator(name="aggregator", identity=public(AGGREGATOR)),
        layers=edited_by(editor, model),
        randomness=SystemRandomness(),
        editor=editor.editor,
        covariance_weight=editor.covariance_weight,
        nullspace_threshold=editor.nullspace_threshold,
        l2=editor.l2,
        shift=editor.shift,
        schedule=cell.schedule,
        target_steps=editor.target_steps,
        memory=Memory(weight=cell.memory, max_edits=past) if past else None,
        overlap=None if cell.policy == "none" else OverlapWish(cell.policy),
    )
    return _with_seed(plan, cell.seed)


def _with_seed(plan: Plan, seed: int) -> Plan:
    """Fix Ω, the only draw that an update depends on: a cell run again gives the same bits.

    In a deployment nobody may foresee Ω (SPEC 6.2); there the plan's author draws it.
    """
    values = plan.model_dump(mode="json", exclude_none=True)
    drawn = hashlib.sha256(f"collabedit experiment {seed}".encode()).hexdigest()
    values["aggregation"]["test_matrix_seed"] = drawn
    return Plan.model_validate(values)


def run_session(
    plan: Plan,
    identities: Identities,
    model: EditableModel,
    covariance: Covariance | None,
    shares: Sequence[Share],
) -> Session:
    """Run a session; the model is unedited again afterwards.

    Args:
        plan: of the session.
        identities: the plan's.
        model: as before the session.
        covariance: the plan's.
        shares: edits and targets by party.

    Raises:
        SessionAbortedError: the session ended early.
        NumericError: a party's numbers are beyond the plan's bounds.
    """
    maps = key_maps(plan, covariance)
    editors = {
        party: ModelEditor(plan, model, share.edits, share.targets, maps, past=share.past)
        for party, share in zip(plan.party_ids, shares, strict=True)
    }
    items = {party: edit_items(share.edits) for party, share in zip(editors, shares, strict=True)}
    first = plan.party_ids[0]

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return editors[party].statistics(plan.tasks[task])

    def apply(
        party: PartyId, _task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]
    ) -> None:
        # Every party is told; the one copy of the weights is edited once.
        if party == first:
            editors[party].apply(updates)

    began = time.perf_counter()
    randomness = SystemRandomness()
    try:
        with tempfile.TemporaryDirectory(prefix="collabedit-") as spool:
            simulation = Simulation(
                plan,
                identities=identities,
                directory=Path(spool),
                randomness=dict.fromkeys(identities, randomness),
                keep_transcript=False,
            )
            outcome = simulation.run(
                contribute,
                apply,
                items=items,
                weigh=lambda party, decisions: editors[party].weigh(decisions),
            )
        simulation.coordinator.raise_if_aborted()
        updates = {int(layer): update.dense() for layer, update in editors[first].updates.items()}
    finally:
        for editor in editors.values():
            editor.rollback()
    return Session(
        updates=updates,
        uploaded=tuple(outcome.bytes_sent[party] for party in plan.party_ids),
        seconds=time.perf_counter() - began,
    )
