import pytest
import torch
from torch import Tensor

from collabedit.errors import InputError
from collabedit.party.editing.hooks import capturing_input
from collabedit.party.editing.keys import (
    compute_keys,
    compute_layer_keys,
    current_outputs,
    template_weights,
)
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.targets import Targets
from collabedit.party.editing.tokens import subject_row
from collabedit.party.edits import Edit
from tests.support.tiny_models import MODEL_TYPES
from tests.unit.party.editing.conftest import LoadTiny

TEMPLATES = ("{}", "It is so. {}", "Paris is in France of the capital. {}")
WEIGHTS = (0.5, 0.25, 0.25)
Edits = tuple[Edit, ...]


def naive_key(model: EditableModel, edit: Edit, layer: int) -> Tensor:
    """One whole prompt at a time, nothing cut or padded, stopped nowhere."""
    total = torch.zeros(model.d_in(layer), dtype=torch.float64)
    for template, weight in zip(TEMPLATES, WEIGHTS, strict=True):
        row = subject_row(model, edit, template=template)
        with torch.no_grad(), capturing_input(model.projection(layer)) as captured:
            model.forward(torch.tensor([row.ids]))
        total += weight * captured.values[0, row.subject_last].double()
    return total


def assert_near(actual: Tensor, expected: Tensor) -> None:
    # Norms and rotations compute in float32 even in a float64 model.
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_keys_equal_one_prompt_at_a_time(
    model_type: str, load_tiny: LoadTiny, edits: Edits
) -> None:
    model = load_tiny(model_type)
    keys = compute_keys(model, edits, 3, TEMPLATES, batch_size=5)
    assert (keys.dtype, keys.shape) == (torch.float64, (model.d_in(3), len(edits)))
    assert_near(keys, torch.stack([naive_key(model, edit, 3) for edit in edits], dim=1))


def test_batch_size_does_not_matter(model: EditableModel, edits: Edits) -> None:
    reference = compute_keys(model, edits, 2, TEMPLATES, batch_size=1)
    torch.testing.assert_close(
        compute_keys(model, edits, 2, TEMPLATES, batch_size=64), reference, rtol=1e-6, atol=1e-8
    )


def test_several_layers_in_one_pass(model: EditableModel, edits: Edits) -> None:
    keys = compute_layer_keys(model, edits, (1, 2, 4), TEMPLATES)
    for layer in (1, 2, 4):
        assert_near(keys[layer], compute_keys(model, edits, layer, TEMPLATES))


def test_no_edits_give_no_columns(model: EditableModel) -> None:
    assert compute_keys(model, (), 2, TEMPLATES).shape == (model.d_in(2), 0)
    assert current_outputs(model, (), 2).shape == (model.d_model, 0)


@pytest.mark.parametrize(
    ("templates", "weights"),
    [
        (("{}",), (1.0,)),
        (("{}", "a {}"), (0.5, 0.5)),
        (("a {}", "{}", "b {}", "c {}", "d {}"), (0.125, 0.5, 0.125, 0.125, 0.125)),
        (("a {}", "b {}"), (0.5, 0.5)),
        (("{}", "{}"), (0.5, 0.5)),
    ],
)
def test_the_bare_template_weighs_half(
    templates: tuple[str, ...], weights: tuple[float, ...]
) -> None:
    assert template_weights(templates).tolist() == list(weights)


def test_current_outputs_are_hidden_states_of_the_bare_prompt(
    model: EditableModel, edits: Edits
) -> None:
    outputs = current_outputs(model, edits, 3, batch_size=2)
    for column, edit in enumerate(edits):
        row = subject_row(model, edit)
        with torch.no_grad():
            states = model.hf(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
        assert_near(outputs[:, column], states[4][0, row.subject_last])


def targets_of(model: EditableModel, edits: Edits) -> Targets:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(model.d_model, len(edits), generator=generator, dtype=torch.float64)
    return Targets(values, "edits", "settings")


def test_residuals_share_out_what_is_missing(model: EditableModel, edits: Edits) -> None:
    targets = targets_of(model, edits)
    missing = targets.values - current_outputs(model, edits, 4)
    for layer, share in ((1, 3), (2, 2), (4, 1)):
        sequential = residuals(
            model, edits, targets, layer, layers=(1, 2, 4), schedule="sequential"
        )
        torch.testing.assert_close(sequential, missing / share)
        parallel = residuals(model, edits, targets, layer, layers=(1, 2, 4), schedule="parallel")
        torch.testing.assert_close(parallel, missing / 3)


def test_residuals_refuse_what_does_not_fit(model: EditableModel, edits: Edits) -> None:
    targets = targets_of(model, edits)
    with pytest.raises(InputError, match="layer 3 is not one of"):
        residuals(model, edits, targets, 3, layers=(1, 2), schedule="sequential")
    with pytest.raises(InputError, match="ascending"):
        residuals(model, edits, targets, 1, layers=(2, 1), schedule="sequential")
    with pytest.raises(InputError, match="are not those of 1 edits"):
        residuals(model, edits[:1], targets, 1, layers=(1, 2), schedule="sequential")
