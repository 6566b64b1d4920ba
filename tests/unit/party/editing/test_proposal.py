"""The bounds that a new plan proposes: wide enough for real edits, and derived from the model."""

import numpy as np
import pytest
import torch

from collabedit.crypto.graph import plan_neighbourhood
from collabedit.crypto.signing import SigningKey
from collabedit.errors import InputError
from collabedit.exchange import contribution_vector
from collabedit.ids import TaskIndex
from collabedit.party.editing.covariance import Covariance, second_moments
from collabedit.party.editing.editor import ModelEditor, key_maps, target_settings
from collabedit.party.editing.keys import current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.proposal import KEY_FACTOR, RESIDUAL_FACTOR, propose_plan
from collabedit.party.editing.targets import compute_targets
from collabedit.party.edits import Edit
from collabedit.plan import Coordinator, Party, Plan
from tests.support.randomness import InsecureTestRandomness

LAYERS = (1, 2)


def moments(model: EditableModel) -> Covariance:
    windows = torch.randint(0, 60, (64, 16), generator=torch.Generator().manual_seed(0))
    return second_moments(model, windows, LAYERS, provenance={"source": "random tokens"})


def propose(
    model: EditableModel, covariance: Covariance, *, weight: float = 50.0, parties: int = 3
) -> Plan:
    keys = [
        SigningKey.from_seed(bytes([i]) * 32).verify_key.to_bytes().hex()
        for i in range(parties + 1)
    ]
    return propose_plan(
        model,
        covariance,
        name="test",
        model_name="tiny",
        parties=[Party(name=f"party-{i}", identity=keys[i], max_edits=4) for i in range(parties)],
        aggregator=Coordinator(name="aggregator", identity=keys[parties]),
        layers=LAYERS,
        randomness=InsecureTestRandomness(0),
        covariance_weight=weight,
        target_steps=3,
    )


def test_real_edits_are_well_within_the_proposed_bounds(
    model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    covariance = moments(model)
    plan = propose(model, covariance)
    targets = compute_targets(
        model,
        edits,
        layer=LAYERS[-1],
        templates=plan.editing.context_templates,
        settings=target_settings(plan.editing),
    )
    editor = ModelEditor(plan, model, edits, targets, key_maps(plan, covariance))
    for task, layers in enumerate(plan.tasks):
        statistics = editor.statistics(layers)
        contribution_vector(plan, TaskIndex(task), statistics)
        for keys, residuals in statistics:
            assert (np.linalg.norm(keys, axis=0) ** 2).max() < plan.bounds.key_energy
            assert (np.linalg.norm(residuals, axis=0) ** 2).max() < plan.bounds.residual_energy


def test_the_bounds_follow_covariance_weight_and_clamp(
    model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    covariance = moments(model)
    plan = propose(model, covariance)
    mapped = plan.editing.layers[0].mapped
    assert plan.bounds.key_energy == pytest.approx(KEY_FACTOR * mapped / 50.0)
    assert propose(model, covariance, weight=100.0).bounds.key_energy == pytest.approx(
        plan.bounds.key_energy / 2
    )
    norms = current_outputs(model, edits, LAYERS[-1]).norm(dim=0)
    cap = np.sqrt(plan.bounds.residual_energy)
    clamp = plan.editing.targets.clamp_factor
    # The clamp of every one of these edits is below, by about the documented factor.
    assert cap > clamp * float(norms.max())
    assert cap < 4 * RESIDUAL_FACTOR * clamp * float(norms.max())


@pytest.mark.parametrize(("parties", "corruptions"), [(32, None), (33, 6), (100, 20)])
def test_a_large_federation_gets_a_bound_on_collusion_and_a_sparse_graph(
    parties: int, corruptions: int | None, model: EditableModel
) -> None:
    plan = propose(model, moments(model), parties=parties)
    assert plan.federation.corruptions == corruptions
    full = plan_neighbourhood(plan, parties).degree == parties - 1
    assert full == (corruptions is None)


def test_no_plan_is_made_from_the_covariance_of_other_weights(model: EditableModel) -> None:
    covariance = moments(model)
    with torch.no_grad():
        model.weight(1)[0, 0] += 1e-9
    with pytest.raises(InputError, match="covariance is of another model: gathered on weights"):
        propose(model, covariance)
