from pathlib import Path

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from collabedit.errors import ModelError
from collabedit.party.editing.architectures import (
    ARCHITECTURES,
    Architecture,
    Orientation,
    architecture_for,
    load_architecture,
)
from tests.support.tiny_models import BLOCKS, D_IN, D_MODEL, MODEL_TYPES
from tests.unit.party.editing.conftest import LoadTiny


def test_every_architecture_has_a_tiny_model() -> None:
    assert set(MODEL_TYPES) == set(ARCHITECTURES)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_declared_modules_and_orientation_are_there(model_type: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type)
    assert model.n_layers == BLOCKS
    for layer in range(BLOCKS):
        projection = model.projection(layer)
        expected: type[nn.Module] = (
            Conv1D if model.architecture.orientation is Orientation.IN_OUT else nn.Linear
        )
        assert isinstance(projection, expected)
        assert (model.d_in(layer), model.d_out(layer)) == (D_IN, D_MODEL)


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(ModelError, match=r"'bert' is not known; known: .*gpt2.*llama"):
        architecture_for("bert")


@pytest.mark.parametrize(
    ("model_type", "blocks", "layers"),
    [
        ("gpt2", 48, (13, 14, 15, 16, 17)),
        ("gptj", 28, (3, 4, 5, 6, 7, 8)),
        ("llama", 32, (4, 5, 6, 7, 8)),
        ("llama", 30, (4, 5, 6, 7, 8)),
        ("llama", 6, (1,)),
        ("llama", 2, (0,)),
        ("qwen2", 28, (4, 5, 6, 7, 8)),
    ],
)
def test_default_layers_keep_their_relative_depth(
    model_type: str, blocks: int, layers: tuple[int, ...]
) -> None:
    defaults = ARCHITECTURES[model_type].defaults
    assert defaults is not None
    chosen = defaults.layers(blocks)
    assert chosen[: len(layers)] == layers
    assert max(chosen) < max(blocks - 1, 1)


TOML = """
model_type = "other"
block = "body.{}"
projection = "body.{}.out"
final_norm = "body_norm"
orientation = "in_out"
"""


def test_an_architecture_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(TOML)
    assert load_architecture(path) == Architecture(
        model_type="other",
        block="body.{}",
        projection="body.{}.out",
        final_norm="body_norm",
        orientation=Orientation.IN_OUT,
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (TOML.replace('"body.{}.out"', '"body.out"'), "field 'projection'"),
        (TOML.replace("in_out", "guess"), "field 'orientation'"),
        (TOML + "color = 1", "field 'color'"),
        (TOML.replace("orientation", "# "), "field 'orientation'"),
        ("= nonsense", "Invalid"),
    ],
)
def test_a_bad_architecture_file(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "other.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=complaint):
        load_architecture(path)
