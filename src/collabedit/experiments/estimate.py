"""How large a cell is, from a model's configuration alone: no weights are read.

A dry run before somebody rents a GPU. Sizes of tensors are exact; the protocol's own messages are
left out of uploads, they are some kilobytes for each party and sum.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from collabedit.errors import InputError, ModelError
from collabedit.experiments.schema import PROTOCOL, Cell, Experiment, ModelSource
from collabedit.party.editing.architectures import Orientation, architecture_for
from collabedit.party.editing.hyperparameters import defaults_for
from collabedit.party.editing.model import DTYPES
from collabedit.sketch import OVERSAMPLING

_RING_BYTES = 8
_FLOAT64 = 8
_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Shapes:
    """What sizes depend on.

    Attributes:
        parameters: of the model; tied weights count once.
        weight_bytes: of one parameter.
        blocks: how many.
        projections: [d_in, d_out] of the edited projection, by block.
    """

    parameters: int
    weight_bytes: int
    blocks: int
    projections: tuple[tuple[int, int], ...]
    architecture: str

    def layers(self, cell: Cell) -> tuple[int, ...]:
        """Return the edited layers of a cell.

        Raises:
            InputError: the model has no such layer.
        """
        editor = cell.editor
        if editor.layers is None:
            defaults = defaults_for(architecture_for(self.architecture), editor.editor)
            return defaults.layers(self.blocks)
        if max(editor.layers) >= self.blocks - 1:
            raise InputError(
                f"editor {editor.title}: layers must be among 0 to {self.blocks - 2}, the last "
                "block is never edited"
            )
        return editor.layers


@dataclass(frozen=True, slots=True)
class Size:
    """Of one cell, in bytes.

    Attributes:
        layers: the edited ones.
        targets: searches of the target search, over all rounds.
        weights: of the model.
        covariance: E[kkᵀ] of all layers, float64.
        upload: of one party in one round; 0 where edits are handed over.
        dense: what the paper's form, S and T in full, would take.
        solve: working memory of the trustee's closed form at its largest layer.
        session: uploads of all parties of one sum, as rings and as frames, held in one process.
    """

    layers: tuple[int, ...]
    targets: int
    weights: int
    covariance: int
    upload: int
    dense: int
    solve: int
    session: int

    @property
    def memory(self) -> int:
        """Estimate of a worker's peak: weights, covariance and its map, and the larger work."""
        return self.weights + 2 * self.covariance + max(self.solve, self.session)


def model_shapes(source: ModelSource, directory: Path | None) -> Shapes:
    """Read shapes off a configuration.

    Args:
        source: what the experiment file says.
        directory: of a checkpoint, whose `config.json` goes before the file's values; may be None.

    Raises:
        InputError: neither has a configuration.
        ModelError: it is of no architecture that can be edited, or not usable.
    """
    values = _configuration(source, directory)
    kind = values.pop("model_type", None)
    if not isinstance(kind, str):
        raise InputError(f"model {source.name}: the configuration has no model_type")
    architecture = architecture_for(kind)
    try:
        config = AutoConfig.for_model(kind, **values)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
        blocks = int(config.get_text_config().num_hidden_layers)
        projections = []
        for block in range(blocks):
            rows, columns = model.get_submodule(architecture.projection.format(block)).weight.shape
            inputs_first = architecture.orientation is Orientation.IN_OUT
            projections.append((rows, columns) if inputs_first else (columns, rows))
    except Exception as error:
        raise ModelError(f"model {source.name}: its configuration cannot be used") from error
    return Shapes(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=DTYPES[source.dtype].itemsize,
        blocks=blocks,
        projections=tuple(projections),
        architecture=kind,
    )


def _configuration(source: ModelSource, directory: Path | None) -> dict[str, Any]:
    path = None if directory is None else directory / "config.json"
    if path is not None and path.is_file():
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read as JSON") from error
        return values
    if source.config is None:
        raise InputError(
            f"model {source.name}: give --model DIR, or its shape in [model.config] of the file"
        )
    return dict(source.config)


def cell_size(cell: Cell, shapes: Shapes) -> Size:
    """Work out the sizes of a cell.

    Raises:
        InputError: the model has no such layers.
    """
    layers = shapes.layers(cell)
    pairs = [shapes.projections[layer] for layer in layers]
    past = cell.parties * cell.edits_per_party * (cell.rounds - 1) if cell.memory else 0
    capacity = cell.parties * cell.edits_per_party + past + OVERSAMPLING
    sketched = [_RING_BYTES * (inputs + outputs) * capacity for inputs, outputs in pairs]
    one_sum = sum(sketched) if cell.schedule == "parallel" else max(sketched)
    if cell.method in PROTOCOL:
        upload, session = sum(sketched), 2 * cell.parties * one_sum
    elif cell.method in {"centralised", "unedited"}:
        upload, session = 0, 0
    else:
        upload = sum(_FLOAT32 * inputs * outputs for inputs, outputs in pairs)
        session = cell.parties * sum(_FLOAT64 * inputs * outputs for inputs, outputs in pairs)
    largest = max(inputs for inputs, _ in pairs)
    unedited = cell.method == "unedited"
    has_covariance = cell.editor.editor != "ridge" and not unedited
    return Size(
        layers=layers,
        targets=0 if unedited else cell.parties * cell.edits_per_party * cell.rounds,
        weights=shapes.parameters * shapes.weight_bytes,
        covariance=sum(_FLOAT64 * inputs**2 for inputs, _ in pairs) if has_covariance else 0,
        upload=upload,
        dense=sum(
            _RING_BYTES * (inputs * (inputs + 1) // 2 + inputs * outputs)
            for inputs, outputs in pairs
        ),
        solve=0 if unedited else 3 * _FLOAT64 * largest**2,
        session=session,
    )


def check_cells(experiment: Experiment, directory: Path | None) -> list[tuple[Cell, Size]]:
    """Expand an experiment and size each of its cells.

    Raises:
        InputError: no configuration, or layers that the model does not have.
        ModelError: not a model that can be edited.
    """
    shapes = model_shapes(experiment.model, directory)
    return [(cell, cell_size(cell, shapes)) for cell in experiment.cells()]
