"""What the model satisfies already is told by its distance from the target, and left alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.errors import NumericError
from collabedit.exchange import contribution_vector
from collabedit.ids import PartyId, TaskIndex
from collabedit.memory import Memory
from collabedit.party.editing.editor import ModelEditor
from collabedit.party.editing.keys import current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.selection import distances, select_edits
from collabedit.party.editing.targets import (
    Targets,
    TargetSettings,
    compute_targets,
    load_targets,
)
from collabedit.party.edits import Edit, edits_digest
from tests.support.editors import TinyFederation, tiny_federation

LAYER = 2
SETTINGS = TargetSettings(learning_rate=0.5, steps=4, clamp_factor=0.75, weight_decay=0.5)


def targets_of(
    model: EditableModel, edits: Sequence[Edit], settings: TargetSettings = SETTINGS
) -> Targets:
    return compute_targets(model, edits, layer=LAYER, templates=("{}",), settings=settings)


def test_the_distance_is_that_of_target_and_output(
    model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    targets = targets_of(model, edits)
    found = distances(model, edits, targets, LAYER)
    outputs = current_outputs(model, edits, LAYER)
    for column, distance in enumerate(found.tolist()):
        wanted, now = targets.values[:, column].numpy(), outputs[:, column].numpy()
        assert distance == pytest.approx(
            np.linalg.norm(wanted - now) / np.linalg.norm(wanted), rel=1e-12
        )
    assert float(found.min()) > 0.05


def test_a_search_that_has_nothing_to_do_leaves_no_distance(
    model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    targets = targets_of(model, edits, replace(SETTINGS, stop_loss=1e9))
    assert float(distances(model, edits, targets, LAYER).max()) < 1e-12


def test_edits_are_divided_at_the_threshold(model: EditableModel, edits: tuple[Edit, ...]) -> None:
    values = [0.2, 0.05, 0.1, 0.3][: len(edits)]
    targets = replace(targets_of(model, edits), distances=torch.tensor(values, dtype=torch.float64))
    chosen = select_edits(edits, targets, 0.1)
    kept = [index for index, value in enumerate(values) if value > 0.1]
    assert chosen.edits == tuple(edits[index] for index in kept)
    assert set(chosen.held) == set(edits) - set(chosen.edits)
    assert torch.equal(chosen.targets.values, targets.values[:, kept])
    assert chosen.targets.edits_digest == edits_digest(chosen.edits)
    everything = select_edits(edits, targets, None)
    assert everything.edits == edits
    assert everything.held == ()


def test_the_distances_are_kept_with_the_targets(
    model: EditableModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    plain = targets_of(model, edits)
    measured = replace(plain, distances=distances(model, edits, plain, LAYER))
    for targets in (plain, measured):
        targets.save(tmp_path / "targets.safetensors")
        again = load_targets(
            tmp_path / "targets.safetensors",
            edits_digest=plain.edits_digest,
            settings_digest=plain.settings_digest,
        )
        if targets.distances is None:
            assert again.distances is None
        else:
            assert again.distances is not None
            assert torch.equal(again.distances, targets.distances)


def test_targets_without_distances_or_with_nonsense_are_refused(
    model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    targets = targets_of(model, edits)
    with pytest.raises(ValueError, match="without a distance"):
        select_edits(edits, targets, 0.1)
    zero = replace(targets, values=torch.zeros_like(targets.values))
    with pytest.raises(NumericError, match="not finite"):
        distances(model, edits, zero, LAYER)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    return tiny_federation(tmp_path_factory.mktemp("tiny"), model_type="gpt2", layers=(1, 2))


def test_a_party_whose_edits_are_all_satisfied_still_contributes(
    federation: TinyFederation,
) -> None:
    memory = Memory(weight=2.0, max_edits=3)
    plan = federation.plan("memit", memory=memory)
    share, model = federation.shares[PartyId(1)], federation.models[PartyId(1)]
    layer = plan.editing.layers[-1].index
    targets = replace(share.targets, distances=distances(model, share.edits, share.targets, layer))
    chosen = select_edits(share.edits, targets, 0.999)
    assert len(chosen.held) == len(share.edits)
    maps = federation.editors(plan)[PartyId(1)].maps
    for past in ((), chosen.held):
        editor = ModelEditor(plan, model, chosen.edits, chosen.targets, maps, past=past)
        ((keys, residuals),) = editor.statistics(plan.tasks[0])
        assert keys.shape[1] == len(past)
        assert residuals.shape[1] == 0
        vector = contribution_vector(plan, TaskIndex(0), [(keys, residuals)])
        assert bool(vector.any()) is bool(past)


def test_more_past_edits_than_the_plan_allows_make_no_editor(federation: TinyFederation) -> None:
    plan = federation.plan("memit", memory=Memory(weight=1.0, max_edits=1))
    share = federation.shares[PartyId(1)]
    with pytest.raises(ValueError, match="3 past edits, the plan's memory allows 1"):
        ModelEditor(
            plan,
            federation.models[PartyId(1)],
            share.edits,
            share.targets,
            federation.editors(plan)[PartyId(1)].maps,
            past=share.edits,
        )
