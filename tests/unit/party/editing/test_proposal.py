"""The bounds that a new plan proposes: wide enough for real edits, and derived from the model."""

from typing import Any

import numpy as np
import pytest
import torch

from collabedit.bounds import KEY_FACTOR
from collabedit.closed import Closed
from collabedit.crypto.graph import plan_neighbourhood
from collabedit.crypto.signing import SigningKey
from collabedit.editing import EditorName
from collabedit.errors import InputError
from collabedit.exchange import contribution_vector
from collabedit.federation import Coordinator, Party
from collabedit.ids import TaskIndex
from collabedit.party.editing.covariance import Covariance, second_moments
from collabedit.party.editing.editor import ModelEditor, key_maps, target_settings
from collabedit.party.editing.keys import current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.proposal import RESIDUAL_FACTOR, propose_plan
from collabedit.party.editing.targets import compute_targets
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from tests.support.editors import EDITORS, middle_eigenvalue, own_parameters
from tests.support.randomness import InsecureTestRandomness
from tests.unit.party.editing.conftest import LoadTiny

LAYERS = (1, 2)


def moments(model: EditableModel) -> Covariance:
    windows = torch.randint(0, 60, (64, 16), generator=torch.Generator().manual_seed(0))
    return second_moments(model, windows, LAYERS, provenance={"source": "random tokens"})


def propose(
    model: EditableModel,
    covariance: Covariance | None,
    *,
    editor: EditorName = "memit",
    parties: int = 3,
    **parameters: Any,  # noqa: ANN401  as `propose_plan` takes them
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
        editor=editor,
        target_steps=3,
        **parameters,
    )


@pytest.mark.parametrize("editor", EDITORS)
def test_real_edits_are_well_within_the_proposed_bounds(
    editor: EditorName, model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    covariance = None if editor == "ridge" else moments(model)
    own: dict[str, Any] = {} if covariance is None else own_parameters(editor, covariance.matrices)
    plan = propose(model, covariance, editor=editor, **own)
    targets = compute_targets(
        model,
        edits,
        layer=LAYERS[-1],
        templates=plan.editing.context_templates,
        settings=target_settings(plan.editing),
    )
    party = ModelEditor(plan, model, edits, targets, key_maps(plan, covariance))
    for task, layers in enumerate(plan.tasks):
        statistics = party.statistics(layers)
        contribution_vector(plan, TaskIndex(task), statistics)
        for keys, residuals in statistics:
            assert (np.linalg.norm(keys, axis=0) ** 2).max() < plan.bounds.key_energy
            assert (np.linalg.norm(residuals, axis=0) ** 2).max() < plan.bounds.residual_energy


def test_the_bounds_follow_covariance_weight_and_clamp(
    model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    covariance = moments(model)
    plan = propose(model, covariance, covariance_weight=50.0)
    mapped = plan.editing.layers[0].mapped
    assert plan.bounds.key_energy == pytest.approx(KEY_FACTOR * mapped / 50.0)
    assert propose(model, covariance, covariance_weight=100.0).bounds.key_energy == pytest.approx(
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
    plan = propose(model, moments(model), parties=parties, closed=None)
    assert plan.federation.corruptions == corruptions
    full = plan_neighbourhood(plan, parties, task=TaskIndex(0)).degree == parties - 1
    assert full == (corruptions is None)


@pytest.mark.parametrize("parties", [3, 100])
def test_sums_are_closed_and_the_graph_full_by_default(parties: int, model: EditableModel) -> None:
    plan = propose(model, moments(model), parties=parties)
    assert plan.closed == Closed()
    assert plan_neighbourhood(plan, parties, task=TaskIndex(0)).degree == parties - 1


@pytest.mark.parametrize(("parties", "bits"), [(3, 46), (10, 44), (100, 41), (200, 40)])
def test_the_ring_leaves_room_for_large_numbers(
    parties: int, bits: int, model: EditableModel
) -> None:
    aggregation = propose(model, moments(model), parties=parties).aggregation
    assert aggregation.fractional_bits == bits
    assert aggregation.magnitude_bound > 15_000


def test_no_plan_is_made_from_the_covariance_of_other_weights(model: EditableModel) -> None:
    covariance = moments(model)
    with torch.no_grad():
        model.weight(1)[0, 0] += 1e-9
    with pytest.raises(InputError, match="covariance is of another model: gathered on weights"):
        propose(model, covariance)


def test_alphaedit_gets_published_parameters_and_the_size_of_the_null_space(
    load_tiny: LoadTiny,
) -> None:
    model = load_tiny("llama")
    covariance = moments(model)
    threshold = middle_eigenvalue(covariance.matrices)
    plan = propose(model, covariance, editor="alphaedit", nullspace_threshold=threshold)
    editing = plan.editing
    assert (editing.ridge, editing.l2, editing.covariance_weight) == (1.0, 10.0, None)
    # Llama-3-8B's, jianghoucheng/AlphaEdit hparams/AlphaEdit/Llama3-8B.json.
    assert (editing.targets.learning_rate, editing.targets.clamp_factor) == (0.1, 0.75)
    for layer in editing.layers:
        values = np.linalg.svd(covariance.matrices[layer.index], compute_uv=False)
        assert layer.kept == (values < threshold).sum()
        assert layer.mapped == layer.inputs
    # The published threshold is for models whose keys are much longer.
    with pytest.raises(InputError, match=r"layer 1: .* eigenvalues .* lie from"):
        propose(model, covariance, editor="alphaedit", nullspace_threshold=1e9)


@pytest.mark.parametrize("model_type", ["qwen2", "gpt_neox"])
def test_published_null_spaces_by_architecture(model_type: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type)
    covariance = moments(model)
    threshold = middle_eigenvalue(covariance.matrices)
    plan = propose(model, covariance, editor="alphaedit", nullspace_threshold=threshold)
    assert plan.editing.l2 == {"qwen2": 1.0, "gpt_neox": 10.0}[model_type]
    memit = propose(model, covariance)
    assert plan.editing.targets == memit.editing.targets


def test_ridge_and_emmet_get_their_ridge(load_tiny: LoadTiny) -> None:
    model = load_tiny("gpt2")
    covariance = moments(model)
    ridge = propose(model, None, editor="ridge").editing
    assert [layer.shift for layer in ridge.layers] == [0.0, 0.0]
    assert (ridge.ridge, ridge.covariance, ridge.covariance_weight) == (1.0, None, None)
    emmet = propose(model, covariance, editor="emmet").editing
    assert (emmet.ridge, emmet.covariance_weight) == (0.0, 20_000.0)
    higher = propose(model, None, editor="ridge", shift=2.0)
    lower = propose(model, None, editor="ridge", shift=0.0)
    assert higher.bounds.key_energy == pytest.approx(lower.bounds.key_energy * np.exp(-2.0))


def test_what_belongs_to_another_editor_is_refused(model: EditableModel) -> None:
    covariance = moments(model)
    with pytest.raises(InputError, match="ridge takes no covariance"):
        propose(model, covariance, editor="ridge")
    with pytest.raises(InputError, match="emmet needs a covariance"):
        propose(model, None, editor="emmet")
    others: list[tuple[EditorName, str]] = [
        ("memit", "l2"),
        ("ridge", "covariance_weight"),
        ("alphaedit", "shift"),
    ]
    for editor, name in others:
        given = None if editor == "ridge" else covariance
        with pytest.raises(InputError, match=f"{name} has no meaning with editor {editor}"):
            propose(model, given, editor=editor, **dict[str, Any]({name: 1.0}))
