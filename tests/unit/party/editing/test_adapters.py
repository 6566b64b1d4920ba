"""Updates as LoRA adapters that PEFT loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from collabedit.errors import InputError, ModelError
from collabedit.ids import LayerIndex
from collabedit.party.editing.adapters import combine, write_adapter
from collabedit.party.editing.updates import SavedUpdate
from collabedit.sketch import LowRankUpdate
from tests.support.saved_models import build
from tests.support.tiny_models import D_IN, D_MODEL


def test_factors_are_balanced_and_their_product_is_the_sum(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32", sharded=False)
    rng = np.random.default_rng(0)
    first = world.saved
    skewed = {
        LayerIndex(3): LowRankUpdate(
            rng.normal(size=(D_MODEL, 3)) * 1e9, rng.normal(size=(3, D_IN)) * 1e-11
        )
    }
    second = SavedUpdate(first.path, "sha256:" + "0" * 64, (first.session,), skewed)
    combined = combine([first, second])
    assert {layer: update.rank for layer, update in combined.items()} == {1: 2, 3: 8}
    dense = first.updates[LayerIndex(3)].dense() + skewed[LayerIndex(3)].dense()
    np.testing.assert_allclose(combined[LayerIndex(3)].dense(), dense, atol=1e-12)
    for update in combined.values():
        left = np.linalg.norm(update.left, axis=0)
        right = np.linalg.norm(update.right, axis=1)
        np.testing.assert_allclose(left, right, rtol=1e-9)


def test_what_adds_up_to_nothing_is_refused(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32", sharded=False)
    zero = {
        layer: LowRankUpdate(np.zeros_like(update.left), update.right)
        for layer, update in world.saved.updates.items()
    }
    with pytest.raises(InputError, match="the update is zero"):
        combine([SavedUpdate(world.update, "", (), zero)])


IDS = torch.tensor([[2, 30, 60, 7, 11, 200, 3]])


# PEFT's own use of transformers.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpoint", ["gpt2", "llama", "gpt_neox", "gemma3", "qwen2"])
def test_an_adapter_gives_the_logits_of_the_edited_checkpoint(
    checkpoint: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    world = build(tmp_path, checkpoint, "float32")
    edited = world.apply(tmp_path / "edited")
    output = tmp_path / "adapter"
    write_adapter(
        combine([world.saved]), edited.architecture, output, base_model="base", card="# Adapter"
    )
    assert sorted(path.name for path in output.iterdir()) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors")
    ]
    base = AutoModelForCausalLM.from_pretrained(world.source).eval()
    adapted = peft.PeftModel.from_pretrained(base, output).eval()
    with torch.no_grad():
        wanted = edited.hf(IDS).logits
        plain = AutoModelForCausalLM.from_pretrained(world.source).eval()(IDS).logits
        found = adapted(IDS).logits
        merged = adapted.merge_and_unload()(IDS).logits
    assert float((plain - wanted).abs().max()) > 0.05
    assert float((found - wanted).abs().max()) < 1e-4
    assert float((merged - wanted).abs().max()) < 1e-4


def test_an_adapter_appears_once(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32", sharded=False)
    architecture = world.load().architecture
    combined = combine([world.saved])
    write_adapter(combined, architecture, tmp_path / "adapter", base_model="", card="")
    with pytest.raises(ModelError, match="exists already"):
        write_adapter(combined, architecture, tmp_path / "adapter", base_model="", card="")
