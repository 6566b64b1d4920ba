import pytest
import torch
from torch import nn

from collabedit.party.editing.hooks import (
    adding_to_output,
    capturing_input,
    capturing_output,
    hidden_of,
    stopping_after,
)
from collabedit.party.editing.model import EditableModel
from tests.support.tiny_models import MODEL_TYPES
from tests.unit.party.editing.conftest import LoadTiny

IDS = torch.tensor([[9, 8, 7, 6, 5], [3, 4, 5, 6, 7], [20, 21, 22, 23, 24]])
POSITIONS = torch.tensor([4, 0, 2])
ROWS = torch.arange(3)


def hooks_left(model: EditableModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.hf.modules()
    )


class Pair(nn.Module):
    """A block that returns a tuple, as older transformers do."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, str]:
        return 2 * hidden, "rest"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_captured_outputs_are_hidden_states(model_type: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type)
    with torch.no_grad():
        hidden_states = model.hf(IDS, output_hidden_states=True).hidden_states
    for layer in (0, 3):
        block = model.block(layer)
        with (
            torch.no_grad(),
            capturing_output(block, POSITIONS) as some,
            capturing_output(block) as everything,
        ):
            model.forward(IDS)
        expected = hidden_states[layer + 1]
        torch.testing.assert_close(everything.values, expected, rtol=0, atol=0)
        torch.testing.assert_close(some.values, expected[ROWS, POSITIONS], rtol=0, atol=0)
    baseline = hooks_left(model)
    with capturing_output(model.block(0)):
        assert hooks_left(model) == baseline + 1
    assert hooks_left(model) == baseline


def test_captured_input_is_what_the_projection_multiplies(model: EditableModel) -> None:
    projection = model.projection(2)
    with (
        torch.no_grad(),
        capturing_input(projection) as inputs,
        capturing_output(projection) as outputs,
    ):
        model.forward(IDS)
    with torch.no_grad():
        torch.testing.assert_close(projection(inputs.values), outputs.values)


def test_stopping_skips_what_lies_above_and_cleans_up(model: EditableModel) -> None:
    baseline = hooks_left(model)
    with (
        torch.no_grad(),
        capturing_output(model.block(4)) as above,
        capturing_output(model.block(1)) as below,
        stopping_after(model.block(1)),
    ):
        model.forward(IDS)
    assert below.values.shape == (3, 5, model.d_model)
    with pytest.raises(RuntimeError, match="has not run"):
        _ = above.values
    assert hooks_left(model) == baseline


def test_hooks_go_when_the_pass_fails(model: EditableModel) -> None:
    block = model.block(0)
    for context in (
        lambda: capturing_input(block),
        lambda: capturing_output(block),
        lambda: adding_to_output(block, POSITIONS, torch.zeros(3, model.d_model)),
        lambda: stopping_after(block),
    ):
        with pytest.raises(ZeroDivisionError), context():
            raise ZeroDivisionError
        assert hooks_left(model) == 0


def test_added_vectors_change_that_position_only(model: EditableModel) -> None:
    vectors = torch.randn(3, model.d_model, dtype=torch.float64, requires_grad=True)
    block = model.block(2)
    with torch.no_grad(), capturing_output(block) as before:
        model.forward(IDS)
    with adding_to_output(block, POSITIONS, vectors), capturing_output(block) as after:
        (gradient,) = torch.autograd.grad(model.forward(IDS).pow(3).sum(), vectors)
    change = after.values - before.values
    torch.testing.assert_close(change[ROWS, POSITIONS], vectors)
    change[ROWS, POSITIONS] = 0
    assert not change.any()
    assert gradient.abs().sum(dim=1).gt(0).all()


def test_tuple_outputs_keep_their_rest() -> None:
    block, hidden = Pair(), torch.ones(3, 5, 2)
    with adding_to_output(block, POSITIONS, torch.ones(3, 2)), capturing_output(block) as captured:
        output = block(hidden)
    assert output[1] == "rest"
    assert hidden_of(output) is captured.values
    assert output[0][ROWS, POSITIONS].eq(3).all()
