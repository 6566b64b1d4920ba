"""Every architecture of the table, on a small random instance of transformers' own class.

What the engine does is held against plain PyTorch: the paths and orientations below are written out
here once more, hooks are torch's own, and a model is edited by hand in a second copy of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from collabedit.party.editing.apply import applied
from collabedit.party.editing.baselines import centralised_update
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.hooks import adding_to_output
from collabedit.party.editing.key_map import KeyMap, Matrix
from collabedit.party.editing.keys import compute_keys, current_outputs
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.targets import TargetSettings, compute_targets
from collabedit.party.editing.tokens import subject_row, target_ids
from collabedit.party.edits import Edit
from collabedit.sketch import GramSketch, LowRankUpdate, expand_test_matrix, merge_sketch, sketch
from tests.support.tiny_models import CHECKPOINTS, D_IN, D_MODEL, model_type_of
from tests.unit.party.editing.conftest import LoadTiny

Edits = tuple[Edit, ...]

LAYER = 2
WEIGHT = 5.0
TEMPLATES = ("{}", "It is so. {}")
SETTINGS = TargetSettings(learning_rate=1.0, steps=10, clamp_factor=20.0, weight_decay=1e-3)
IDS = torch.tensor([[9, 8, 7, 6, 5, 40, 41], [3, 4, 5, 6, 7, 50, 51]])

# Weight of the projection that is edited, and whether it is stored [d_in, d_out].
_LLAMA_LIKE = ("model.layers.{}.mlp.down_proj", False)
PROJECTIONS = {
    "gpt2": ("transformer.h.{}.mlp.c_proj", True),
    "gptj": ("transformer.h.{}.mlp.fc_out", False),
    "gpt_neox": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", False),
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "gemma3": ("model.language_model.layers.{}.mlp.down_proj", False),
}

each_checkpoint = pytest.mark.parametrize("checkpoint", CHECKPOINTS)


@dataclass(frozen=True)
class Plain:
    """The same checkpoint as transformers loads it, without the engine."""

    hf: PreTrainedModel
    path: str
    is_transposed: bool

    @property
    def projection(self) -> nn.Module:
        module: nn.Module = self.hf.get_submodule(self.path)
        return module

    def add(self, change: Tensor) -> None:
        """Add ΔW [d_out, d_in] to the weight."""
        weight = self.projection.weight
        assert isinstance(weight, nn.Parameter)
        weight.data += change.T if self.is_transposed else change

    def logits(self, ids: Tensor = IDS) -> Tensor:
        with torch.no_grad():
            values: Tensor = self.hf(ids).logits
        return values


@pytest.fixture
def load_plain(tiny_directory: Callable[[str], Path]) -> Callable[[str], Plain]:
    def load(checkpoint: str) -> Plain:
        hf = AutoModelForCausalLM.from_pretrained(tiny_directory(checkpoint), dtype=torch.float64)
        path, is_transposed = PROJECTIONS[model_type_of(checkpoint)]
        return Plain(hf.eval(), path.format(LAYER), is_transposed)

    return load


LoadPlain = Callable[[str], Plain]


def our_logits(model: EditableModel) -> Tensor:
    with torch.no_grad():
        return model.logits(model.forward(IDS))


def bits(hf: PreTrainedModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in hf.state_dict().items()}


def random_update(model: EditableModel) -> LowRankUpdate:
    generator = np.random.default_rng(8)
    left = generator.normal(size=(model.d_out(LAYER), 3))
    return LowRankUpdate(left, generator.normal(size=(3, model.d_in(LAYER))))


def test_every_architecture_has_its_projection_written_out() -> None:
    assert {model_type_of(checkpoint) for checkpoint in CHECKPOINTS} == set(PROJECTIONS)


@each_checkpoint
def test_the_projection_is_the_one_that_maps_keys_into_the_stream(
    checkpoint: str, load_tiny: LoadTiny, load_plain: LoadPlain
) -> None:
    model, plain = load_tiny(checkpoint), load_plain(checkpoint)
    weight = plain.projection.weight
    assert isinstance(weight, nn.Parameter)
    assert torch.equal(model.weight(LAYER), weight)
    assert tuple(weight.shape) == ((D_IN, D_MODEL) if plain.is_transposed else (D_MODEL, D_IN))
    with torch.no_grad():
        basis = torch.eye(D_IN, dtype=torch.float64)
        columns = plain.projection(basis) - plain.projection(torch.zeros_like(basis))
    torch.testing.assert_close(columns.T, weight.T if plain.is_transposed else weight)


@each_checkpoint
def test_keys_are_the_inputs_of_a_plain_forward(
    checkpoint: str, load_tiny: LoadTiny, load_plain: LoadPlain, edits: Edits
) -> None:
    model, plain = load_tiny(checkpoint), load_plain(checkpoint)
    seen: list[Tensor] = []
    plain.projection.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    keys = compute_keys(model, edits, LAYER, ("{}",))
    for column, edit in enumerate(edits):
        row = subject_row(model, edit)
        plain.logits(torch.tensor([row.ids]))
        expected = seen[-1][0, row.subject_last]
        torch.testing.assert_close(keys[:, column], expected, rtol=1e-6, atol=1e-7)


@each_checkpoint
def test_an_update_changes_that_weight_alone_and_the_output_as_by_hand(
    checkpoint: str, load_tiny: LoadTiny, load_plain: LoadPlain
) -> None:
    model, plain = load_tiny(checkpoint), load_plain(checkpoint)
    update = random_update(model)
    before, untouched = bits(model.hf), our_logits(model)
    plain.add(torch.from_numpy(update.left) @ torch.from_numpy(update.right))
    with applied(model, {LAYER: update}):
        after = bits(model.hf)
        torch.testing.assert_close(our_logits(model), plain.logits(), rtol=1e-6, atol=1e-7)
    assert {name for name in before if before[name] != after[name]} == {f"{plain.path}.weight"}
    assert not torch.allclose(untouched, plain.logits(), rtol=1e-2)
    assert bits(model.hf) == before
    assert torch.equal(our_logits(model), untouched)


@each_checkpoint
def test_the_target_search_lowers_the_loss(
    checkpoint: str, load_tiny: LoadTiny, edits: Edits
) -> None:
    model = load_tiny(checkpoint)
    targets = compute_targets(model, edits, layer=LAYER, templates=TEMPLATES, settings=SETTINGS)
    start = current_outputs(model, edits, LAYER)

    def loss(edit: Edit, change: Tensor) -> float:
        """Mean NLL of the target behind the bare prompt, with the subject's output changed."""
        row, target = subject_row(model, edit), target_ids(model, edit.target_new)
        ids = torch.tensor([[*row.ids, *target]])
        position = torch.tensor([row.subject_last])
        with torch.no_grad(), adding_to_output(model.block(LAYER), position, change[None]):
            log_p = model.hf(ids).logits[0].log_softmax(dim=-1)
        places = torch.arange(len(target)) + len(row.ids) - 1
        return -float(log_p[places, torch.tensor(target)].mean())

    fallen = []
    for column, edit in enumerate(edits):
        change = targets.values[:, column] - start[:, column]
        fallen.append(loss(edit, change) / loss(edit, torch.zeros_like(change)))
    assert max(fallen) < 1
    assert min(fallen) < 0.5  # the edit whose subject stands right before its target


@each_checkpoint
def test_two_parties_merge_to_the_centralised_edit(
    checkpoint: str, load_tiny: LoadTiny, load_plain: LoadPlain, edits: Edits
) -> None:
    model, plain = load_tiny(checkpoint), load_plain(checkpoint)
    windows = torch.randint(2, 290, (40, 12), generator=torch.Generator().manual_seed(3))
    moment = second_moments(model, windows, (LAYER,), provenance={}).matrices[LAYER]
    key_map = KeyMap.from_covariance(moment, WEIGHT)
    omega = expand_test_matrix(b"seed", layer=LAYER, rows=key_map.mapped, columns=len(edits) + 8)

    def statistics(own: Edits) -> tuple[Matrix, Matrix]:
        targets = compute_targets(model, own, layer=LAYER, templates=TEMPLATES, settings=SETTINGS)
        wanted = residuals(
            model, own, targets, LAYER, layers=(LAYER,), schedule="sequential"
        ).numpy()
        return compute_keys(model, own, LAYER, TEMPLATES).numpy(), wanted

    parties = [statistics(edits[:3]), statistics(edits[3:])]
    contributions = [
        sketch(key_map.map_keys(keys), wanted, omega).to_vector() for keys, wanted in parties
    ]
    total = GramSketch.from_vector(
        contributions[0] + contributions[1], mapped=key_map.mapped, outputs=D_MODEL
    )
    merged = merge_sketch(total, omega, ridge=1.0, noise=0.0)
    update = LowRankUpdate(merged.left, key_map.unmap_rows(merged.right))
    expected = centralised_update(
        np.hstack([keys for keys, _ in parties]),
        np.hstack([wanted for _, wanted in parties]),
        WEIGHT * moment,
    )
    error = np.linalg.norm(update.dense() - expected) / np.linalg.norm(expected)
    assert error < 1e-8

    untouched = plain.logits()
    plain.add(torch.from_numpy(expected))
    with applied(model, {LAYER: update}):
        torch.testing.assert_close(our_logits(model), plain.logits(), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(untouched, plain.logits(), rtol=1e-2)
