"""Several sessions after each other: what a memory is for, and that it equals one trustee's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.demo.methods import Share, edit_alone
from collabedit.editing import EditorName
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.memory import Memory
from collabedit.party.editing.apply import apply_update
from collabedit.party.editing.editor import ModelEditor, key_maps
from collabedit.party.editing.keys import compute_keys, current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from collabedit.simulation import Simulation
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.editors import EDITORS, TinyFederation, tiny_federation
from tests.support.randomness import InsecureTestRandomness

ROUNDS, EACH = 3, 2


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    torch.set_num_threads(1)
    return tiny_federation(
        tmp_path_factory.mktemp("tiny"),
        edits_each=ROUNDS * EACH,
        model_type="gpt2",
        layers=(1, 2),
    )


def dealt(federation: TinyFederation, seed: int) -> list[dict[PartyId, Share]]:
    """Each party's edits in another order for each seed, cut into rounds."""
    rounds: list[dict[PartyId, Share]] = [{} for _ in range(ROUNDS)]
    for party, share in federation.shares.items():
        order = np.random.default_rng([seed, party]).permutation(len(share.edits))
        for number in range(ROUNDS):
            own = order[number * EACH : (number + 1) * EACH].tolist()
            targets = replace(share.targets, values=share.targets.values[:, own])
            rounds[number][party] = Share(tuple(share.edits[index] for index in own), targets)
    return rounds


def run_round(
    federation: TinyFederation, plan: Plan, shares: Mapping[PartyId, Share], directory: Path
) -> dict[PartyId, ModelEditor]:
    """One session over the parties' models as they are, which stay edited."""
    maps = key_maps(plan, federation.moments(plan))
    editors = {
        party: ModelEditor(
            plan, federation.models[party], share.edits, share.targets, maps, past=share.past
        )
        for party, share in shares.items()
    }

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return editors[party].statistics(plan.tasks[task])

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        editors[party].apply(updates)

    simulation = Simulation(
        plan,
        identities=federation.identities,
        directory=directory,
        randomness={p: InsecureTestRandomness(p) for p in (AGGREGATOR, *plan.party_ids)},
    )
    outcome = simulation.run(contribute, apply)
    simulation.coordinator.raise_if_aborted()
    assert not outcome.refusals
    return editors


def run_rounds(
    federation: TinyFederation, plan: Plan, rounds: Sequence[Mapping[PartyId, Share]], tmp: Path
) -> list[dict[PartyId, ModelEditor]]:
    """All rounds after each other; with a memory each brings the edits of those before."""
    done: list[dict[PartyId, ModelEditor]] = []
    for number, shares in enumerate(rounds):
        past = {
            party: tuple(edit for earlier in rounds[:number] for edit in earlier[party].edits)
            for party in shares
        }
        brought = {
            party: replace(share, past=past[party] if plan.memory is not None else ())
            for party, share in shares.items()
        }
        done.append(run_round(federation, plan, brought, tmp / f"round-{number}"))
    return done


def take_back(rounds: Sequence[Mapping[PartyId, ModelEditor]]) -> None:
    for editors in reversed(rounds):
        for editor in editors.values():
            editor.rollback()


def moved(model: EditableModel, first: Sequence[tuple[Edit, torch.Tensor]], layer: int) -> float:
    """How far the first round's edits are from where that round left them."""
    edits = [edit for edit, _ in first]
    left = torch.stack([output for _, output in first], dim=1)
    return float((current_outputs(model, edits, layer) - left).norm())


@pytest.mark.parametrize("seed", range(5))
def test_a_memory_keeps_earlier_edits_where_they_were(
    seed: int, federation: TinyFederation, tmp_path: Path
) -> None:
    layer = federation.layers[-1]
    drift = {}
    for memory in (None, Memory(weight=30.0, max_edits=ROUNDS * EACH)):
        plan = federation.plan("memit", memory=memory)
        rounds = dealt(federation, seed)
        directory = tmp_path / ("with" if memory else "without")
        model = federation.models[PartyId(1)]
        first = run_rounds(federation, plan, rounds[:1], directory / "first")
        edits = [edit for share in rounds[0].values() for edit in share.edits]
        outputs = current_outputs(model, edits, layer)
        take_back(first)
        done = run_rounds(federation, plan, rounds, directory / "all")
        drift[memory is not None] = moved(model, list(zip(edits, outputs.T, strict=True)), layer)
        take_back(done)
    assert drift[True] < 0.5 * drift[False]


@pytest.mark.parametrize("editor", EDITORS)
def test_three_sessions_with_memory_equal_one_trustee_s(
    editor: EditorName, federation: TinyFederation, tmp_path: Path
) -> None:
    plan = federation.plan(editor, memory=Memory(weight=4.0, max_edits=ROUNDS * EACH))
    rounds = dealt(federation, 7)
    before = federation.models[PartyId(1)].weights_digest()
    done = run_rounds(federation, plan, rounds, tmp_path)
    undos = []
    for number, shares in enumerate(rounds):
        past = {
            party: tuple(edit for earlier in rounds[:number] for edit in earlier[party].edits)
            for party in shares
        }
        central = [replace(share, past=past[party]) for party, share in shares.items()]
        want = edit_alone(plan, federation.central, federation.moments(plan), central)
        for layer, update in want.items():
            for own in done[number].values():
                got = own.updates[LayerIndex(layer)].dense()
                assert np.linalg.norm(got - update) < 1e-8 * np.linalg.norm(update)
            undos.append(
                apply_update(federation.central, layer, LowRankUpdate(np.eye(len(update)), update))
            )
    for undo in reversed(undos):
        undo.restore()
    # Taking one session back leaves the earlier ones as they were.
    take_back(done[2:])
    assert federation.models[PartyId(1)].weights_digest() != before
    take_back(done[:2])
    assert federation.models[PartyId(1)].weights_digest() == before


def test_the_first_layer_opens_the_same_past_keys_again(
    federation: TinyFederation, tmp_path: Path
) -> None:
    """No update reaches below the first edited layer: what a memory tells, session by session."""
    plan = federation.plan("memit", memory=Memory(weight=1.0, max_edits=EACH))
    rounds = dealt(federation, 1)
    model, edits = federation.models[PartyId(1)], rounds[0][PartyId(1)].edits
    templates = plan.editing.context_templates
    first, last = federation.layers[0], federation.layers[-1]
    before = {layer: compute_keys(model, edits, layer, templates) for layer in (first, last)}
    done = run_rounds(federation, plan, rounds[:1], tmp_path)
    after = {layer: compute_keys(model, edits, layer, templates) for layer in (first, last)}
    take_back(done)
    assert torch.equal(after[first], before[first])
    assert not torch.allclose(after[last], before[last], rtol=1e-6)
