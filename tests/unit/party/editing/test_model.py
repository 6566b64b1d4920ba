import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from collabedit.errors import ModelError
from collabedit.party.editing.model import EditableModel, load_model, save_checkpoint
from tests.support.tiny_models import MODEL_TYPES, build_tiny_model
from tests.unit.party.editing.conftest import LoadTiny


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_logits_are_those_of_transformers(model_type: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type)
    ids = torch.arange(2, 42).view(2, 20)
    with torch.no_grad():
        ours = model.logits(model.forward(ids))
        torch.testing.assert_close(ours, model.hf(ids).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_right_padding_changes_nothing(model_type: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type)
    ids = torch.arange(2, 14)[None]
    padded = torch.cat([ids, torch.full((1, 9), 5)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward(padded)[:, :12], model.forward(ids), rtol=1e-6, atol=1e-6
        )


def test_a_loaded_model_is_ready(model: EditableModel) -> None:
    assert not model.hf.training
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())
    assert model.tokenizer.padding_side == "right"
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id
    assert model.dtype == torch.float64
    assert model.prefix_ids == ((0,) if model.architecture.model_type == "llama" else ())
    assert "EditableModel(" in repr(model)


def test_digests_are_of_content_not_of_files(
    tiny_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(tiny_directory("llama"))
    model.hf.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    model.tokenizer.save_pretrained(tmp_path / "sharded")
    sharded = load_model(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert sharded.weights_digest() == model.weights_digest()
    assert sharded.tokenizer_digest() == model.tokenizer_digest()


def test_weights_digest_sees_one_bit(model: EditableModel) -> None:
    before = model.weights_digest()
    with torch.no_grad():
        model.weight(3)[0, 0] += 1e-12
    assert model.weights_digest() != before


def test_tokenizer_digest_ignores_padding_state(model: EditableModel) -> None:
    before = model.tokenizer_digest()
    model.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert model.tokenizer_digest() == before


def test_digests_differ_between_models(load_tiny: LoadTiny) -> None:
    gpt2, llama = load_tiny("gpt2"), load_tiny("llama")
    assert gpt2.weights_digest() != llama.weights_digest()
    assert gpt2.tokenizer_digest() != llama.tokenizer_digest()


@pytest.mark.parametrize("layer", [-1, 6])
def test_layers_out_of_range_are_refused(model: EditableModel, layer: int) -> None:
    with pytest.raises(ModelError, match=f"layer {layer} is not among"):
        model.block(layer)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model directory"):
        load_model(tmp_path / "none")


@pytest.fixture
def copied(tiny_directory: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_directory("llama"), tmp_path / "copy"))


def test_unknown_dtype_and_device(copied: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'int8'"):
        load_model(copied, dtype="int8")
    with pytest.raises(ModelError, match="device 'abacus'"):
        load_model(copied, device="abacus")


def test_an_architecture_outside_the_table(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "model_type": "opt"}))
    with pytest.raises(ModelError, match="architecture 'opt' is not known"):
        load_model(copied)


def test_missing_weights_are_not_made_up(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.2.mlp.down_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 are missing, first model\.layers\.2\.mlp\.down_proj"):
        load_model(copied)


def test_damaged_weights(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="weights: "):
        load_model(copied)


def test_a_saved_checkpoint_loads_in_transformers(
    tiny_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(tiny_directory("gpt2"))
    with torch.no_grad():
        model.weight(2).mul_(1.5)
    save_checkpoint(model, tmp_path / "out" / "edited")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "edited")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "edited")
    ids = torch.tensor([tokenizer("The capital of France")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(hf.eval()(ids).logits, model.hf(ids).logits, rtol=0, atol=0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["edited"]
    with pytest.raises(ModelError, match="exists already"):
        save_checkpoint(model, tmp_path / "out" / "edited")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    model = load_model(build_tiny_model("gpt2", tmp_path, "bfloat16"), dtype=dtype)
    assert model.weight(0).dtype == getattr(torch, dtype)
    with torch.no_grad():
        assert model.logits(model.forward(torch.tensor([[2, 3]]))).dtype == torch.float32
