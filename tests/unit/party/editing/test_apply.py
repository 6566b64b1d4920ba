import numpy as np
import pytest
import torch

from collabedit.errors import InputError, NumericError
from collabedit.party.editing.apply import applied, apply_update
from collabedit.party.editing.hooks import capturing_output
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import EditableModel
from collabedit.party.edits import Edit
from collabedit.sketch import LowRankUpdate
from tests.unit.party.editing.conftest import LoadTiny


def update_for(model: EditableModel, layer: int, *, scale: float = 1.0) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(layer)
    left = torch.randn(model.d_out(layer), 3, generator=generator, dtype=torch.float64)
    right = torch.randn(3, model.d_in(layer), generator=generator, dtype=torch.float64)
    return LowRankUpdate(scale * left.numpy(), right.numpy())


def bits(model: EditableModel) -> dict[str, bytes]:
    return {
        name: parameter.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for name, parameter in model.hf.named_parameters()
    }


def test_the_projection_moves_by_the_update_times_its_input(
    model: EditableModel, edits: tuple[Edit, ...]
) -> None:
    update = update_for(model, 2)
    key = compute_keys(model, edits[:1], 2, ("{}",)).T
    with torch.no_grad():
        before = model.projection(2)(key)
        with applied(model, {2: update}):
            after = model.projection(2)(key)
    torch.testing.assert_close((after - before).T, torch.from_numpy(update.dense()) @ key.T)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_rollback_is_exact_to_the_bit(model_type: str, dtype: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type, dtype)
    original = bits(model)
    with applied(model, {1: update_for(model, 1), 3: update_for(model, 3)}):
        changed = bits(model)
    assert bits(model) == original
    differing = {name for name in original if original[name] != changed[name]}
    edited = {id(model.weight(1)), id(model.weight(3))}
    names = {name for name, value in model.hf.named_parameters() if id(value) in edited}
    assert differing == names


def test_rollback_after_a_failure_inside(model: EditableModel) -> None:
    original = bits(model)
    with pytest.raises(ZeroDivisionError), applied(model, {1: update_for(model, 1)}):
        raise ZeroDivisionError
    assert bits(model) == original


def test_undo_in_reverse_order_and_twice(model: EditableModel) -> None:
    original = bits(model)
    undos = [apply_update(model, 2, update_for(model, 2)) for _ in range(2)]
    for undo in (*reversed(undos), *undos):
        undo.restore()
    assert bits(model) == original


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gets_the_rounded_exact_sum(dtype: str, load_tiny: LoadTiny) -> None:
    model = load_tiny("llama", dtype)
    update = update_for(model, 2, scale=1e-3)
    exact = model.weight(2).double() + torch.from_numpy(update.dense())
    apply_update(model, 2, update)
    assert torch.equal(model.weight(2), exact.to(model.dtype))


def test_an_empty_update_changes_nothing(model: EditableModel) -> None:
    original = bits(model)
    empty = LowRankUpdate(np.zeros((model.d_out(2), 0)), np.zeros((0, model.d_in(2))))
    apply_update(model, 2, empty)
    assert bits(model) == original


def test_another_shape_is_refused(model: EditableModel) -> None:
    # Transposed it would fit: the orientation is never guessed.
    update = update_for(model, 2)
    with pytest.raises(InputError, match=r"shape \[48, 32\], the weight \[32, 48\]"):
        apply_update(model, 2, LowRankUpdate(update.right.T.copy(), update.left.T.copy()))


def test_an_update_that_is_not_finite_is_taken_back(load_tiny: LoadTiny) -> None:
    model = load_tiny("llama", "float16")
    original = bits(model)
    with (
        pytest.raises(NumericError, match="layer 2"),
        applied(model, {1: update_for(model, 1), 2: update_for(model, 2, scale=1e6)}),
    ):
        pass
    assert bits(model) == original


def test_later_layers_see_the_edit(model: EditableModel) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), capturing_output(model.block(4)) as captured:
        model.forward(ids)
        before = captured.values
        with applied(model, {1: update_for(model, 1)}):
            model.forward(ids)
    assert not torch.allclose(before, captured.values)
