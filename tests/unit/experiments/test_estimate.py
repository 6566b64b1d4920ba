"""Sizes from a configuration alone, against a real model's, and the shipped files."""

from dataclasses import replace
from pathlib import Path

import pytest

from collabedit.errors import InputError, ModelError
from collabedit.experiments.estimate import cell_size, check_cells, model_shapes
from collabedit.experiments.schema import EditorSettings, ModelSource, load_experiment
from collabedit.party.editing.model import load_model
from tests.support.tiny_models import build_tiny_model
from tests.unit.experiments.test_deal import cell

FILES = sorted((Path(__file__).parents[3] / "experiments").rglob("*.toml"))
SMALL = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "llama-3"])
def test_shapes_are_those_of_the_loaded_model(tmp_path: Path, kind: str) -> None:
    directory = build_tiny_model(kind, tmp_path / "model")
    shapes = model_shapes(ModelSource(name="tiny"), directory)
    model = load_model(directory)
    assert shapes.blocks == model.n_layers
    assert shapes.parameters == sum(weight.numel() for weight in model.hf.parameters())
    assert shapes.projections == tuple(
        (model.d_in(layer), model.d_out(layer)) for layer in range(model.n_layers)
    )


def test_a_cells_sizes_by_hand() -> None:
    source = ModelSource(name="tiny", config={**SMALL, "num_attention_heads": 4})
    shapes = model_shapes(source, None)
    editor = EditorSettings(layers=(1, 2))
    session = cell_size(cell(editor=editor, method="collabedit-sequential"), shapes)
    # m = 3·4 + 8 columns of (48 + 32) numbers of 8 bytes, for two layers.
    assert session.upload == 2 * 80 * 20 * 8
    assert session.dense == 2 * 8 * (48 * 49 // 2 + 48 * 32)
    assert session.covariance == 2 * 48**2 * 8
    assert session.session == 2 * 3 * 80 * 20 * 8
    assert session.targets == 12
    averaged = cell_size(cell(editor=editor, method="ties"), shapes)
    assert averaged.upload == 2 * 48 * 32 * 4
    assert cell_size(cell(editor=editor), shapes).upload == 0
    later = cell(editor=editor, method="collabedit-parallel", rounds=3, memory=1.0)
    assert cell_size(later, shapes).upload == 2 * 80 * (20 + 24) * 8
    assert cell_size(later, shapes).session == 3 * 2 * cell_size(later, shapes).upload


def test_layers_that_cannot_be_edited_are_refused() -> None:
    shapes = model_shapes(ModelSource(name="t", config={**SMALL, "num_attention_heads": 4}), None)
    with pytest.raises(InputError, match="layers must be among 0 to 4"):
        cell_size(cell(editor=EditorSettings(layers=(5,))), shapes)


def test_a_model_without_a_usable_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give --model DIR, or its shape in \[model.config\]"):
        model_shapes(ModelSource(name="t"), tmp_path)
    with pytest.raises(InputError, match="no model_type"):
        model_shapes(ModelSource(name="t", config={"hidden_size": 3}), None)
    with pytest.raises(ModelError, match="'bert' is not known"):
        model_shapes(ModelSource(name="t", config={"model_type": "bert"}), None)
    with pytest.raises(ModelError, match="cannot be used"):
        model_shapes(ModelSource(name="t", config={**SMALL, "hidden_size": "wide"}), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_is_valid_and_has_different_cells(path: Path) -> None:
    experiment = load_experiment(path)
    cells = experiment.cells()
    assert len(set(cells)) == len(cells) > 0
    assert experiment.figures


@pytest.mark.parametrize(
    ("name", "weights", "upload"),
    [("gptj", 24_200_000_000, 4_923_064_320), ("llama3-8b", 32_100_000_000, 3_692_298_240)],
)
def test_gpu_sized_files_are_sized_without_weights(name: str, weights: int, upload: int) -> None:
    (path,) = (path for path in FILES if path.stem == name)
    sized = check_cells(load_experiment(path), None)
    assert sized[0][1].weights == pytest.approx(weights, rel=0.01)
    largest = max(size.upload for _, size in sized)
    # 10 parties with 500 edits: m = 5,008.
    assert largest == upload
    assert all(size.upload < size.dense for _, size in sized)


def test_the_check_of_a_file_counts_editors_of_their_own_layers() -> None:
    shapes = model_shapes(ModelSource(name="t", config={**SMALL, "num_attention_heads": 4}), None)
    published = cell_size(cell(editor=EditorSettings()), shapes)
    assert published.layers == replace(shapes).layers(cell(editor=EditorSettings()))
    assert max(published.layers) < shapes.blocks - 1
