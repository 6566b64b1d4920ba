"""Models whose blocks are on several devices."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from collabedit.errors import ModelError
from collabedit.party.editing.apply import applied
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.keys import compute_layer_keys, current_outputs
from collabedit.party.editing.likelihood import perplexity
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.targets import TargetSettings, compute_targets
from collabedit.party.edits import Edit
from collabedit.sketch import LowRankUpdate
from tests.support.pretended_devices import pretended_devices
from tests.support.tiny_models import BLOCKS
from tests.unit.party.editing.conftest import LoadTiny

LAYERS = (1, 3)
TEMPLATES = ("{}", "It is said: {}")
SETTINGS = TargetSettings(learning_rate=0.5, steps=4, clamp_factor=4.0, weight_decay=0.5)
TEXT = "The capital of France is Paris and the capital of Italy is Rome. " * 6

Edits = tuple[Edit, ...]


def everything(model: EditableModel, edits: Edits) -> dict[str, np.ndarray]:
    """What a party computes on a model, before and after an update."""
    generator = torch.Generator().manual_seed(3)
    windows = torch.randint(2, 290, (5, 12), generator=generator)
    draws = np.random.default_rng(1)
    update = LowRankUpdate(
        draws.normal(size=(model.d_out(3), 2)), draws.normal(size=(2, model.d_in(3)))
    )
    covariance = second_moments(model, windows, LAYERS, provenance={}, batch_size=2)
    found = {f"moments {layer}": matrix for layer, matrix in covariance.matrices.items()}
    for layer, keys in compute_layer_keys(model, edits, LAYERS, TEMPLATES).items():
        found[f"keys {layer}"] = keys.numpy()
    targets = compute_targets(model, edits, layer=3, templates=TEMPLATES, settings=SETTINGS)
    found["targets"] = targets.values.numpy()
    found["perplexity"] = np.array(perplexity(model, TEXT, window=32))
    with applied(model, {3: update}):
        found["outputs"] = current_outputs(model, edits, 3).numpy()
        found["weights"] = np.frombuffer(bytes.fromhex(model.weights_digest()), dtype=np.uint8)
    found["unedited"] = np.frombuffer(bytes.fromhex(model.weights_digest()), dtype=np.uint8)
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def places(model: EditableModel, where: Callable[[int], int]) -> dict[str, str]:
    """Embeddings with the first block, norm and output with the last, as accelerate has it."""
    architecture = model.architecture
    found = {architecture.block.format(block): f"cpu:{where(block)}" for block in range(BLOCKS)}
    embeddings = {
        "llama": ["model.embed_tokens", "model.rotary_emb"],
        "gpt2": ["transformer.wte", "transformer.wpe", "transformer.drop"],
    }[architecture.model_type]
    found |= dict.fromkeys(embeddings, f"cpu:{where(0)}")
    found[architecture.final_norm] = f"cpu:{where(BLOCKS - 1)}"
    tied = bool(model.hf.config.tie_word_embeddings)
    found[architecture.lm_head] = f"cpu:{where(0) if tied else where(BLOCKS)}"
    return found


@pytest.mark.parametrize(
    "where",
    [
        lambda block: block // 3,  # the edited layers are on two devices
        lambda block: block,  # each block on its own
        lambda block: 0 if block < 4 else 1,  # the blocks above the last edited one elsewhere
    ],
    ids=["halves", "each", "above"],
)
def test_spread_blocks_compute_the_same(
    model: EditableModel, edits: Edits, where: Callable[[int], int]
) -> None:
    expected = everything(model, edits)
    with pretended_devices(model.hf, places(model, where)):
        spread = dataclasses.replace(model, device=torch.device(f"cpu:{where(0)}"))
        found = everything(spread, edits)
    assert_same(found, expected)


def test_pretended_devices_tell_devices_apart(model: EditableModel) -> None:
    with pretended_devices(model.hf, places(model, lambda block: block)):
        first, second = model.weight(0), model.weight(1)
        assert (str(first.device), str(second.device)) == ("cpu:0", "cpu:1")
        with pytest.raises(RuntimeError, match="tensors on"):
            first + second
        assert (first.to(second.device) + second).device == second.device
        host = torch.ones_like(first, device="cpu")
        with pytest.raises(RuntimeError, match="tensors on"):
            first + host


def test_hooks_of_accelerate_leave_results_as_they_are(load_tiny: LoadTiny, edits: Edits) -> None:
    plain, hooked = load_tiny("llama"), load_tiny("llama")
    dispatch_model(hooked.hf, {"": "cpu"}, force_hooks=True)
    assert_same(everything(hooked, edits), everything(plain, edits))


@pytest.mark.parametrize("checkpoint", ["llama", "gpt2", "qwen2.5"])
def test_without_gpus_a_model_is_spread_over_main_memory(
    tiny_directory: Callable[[str], Path], checkpoint: str
) -> None:
    path = tiny_directory(checkpoint)
    assert load_model(path, device="spread").weights_digest() == load_model(path).weights_digest()
    assert load_model(path, device="spread:1GiB").device == torch.device("cpu")


def test_a_model_that_does_not_fit_is_refused(
    tiny_directory: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="does not fit") as refused:
        load_model(tiny_directory("llama"), device="spread:100KB")
    assert "--device cpu" in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("device", ["spread:", "spread:much", "spread:0GB", "spread:-1GB"])
def test_a_limit_that_is_none_is_refused(
    tiny_directory: Callable[[str], Path], device: str
) -> None:
    with pytest.raises(ModelError, match=f"device '{device}'"):
        load_model(tiny_directory("llama"), device=device)


def test_spreading_needs_accelerate(
    tiny_directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"collabedit\[multi-gpu\]"):
        load_model(tiny_directory("llama"), device="spread")
