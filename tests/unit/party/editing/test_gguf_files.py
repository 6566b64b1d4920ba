"""A tiny Llama model through a GGUF file and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from collabedit.party.editing.gguf_files import unpermute_rotary
from collabedit.party.editing.model import load_model
from collabedit.party.editing.tokens import prompt_ids
from tests.support.processes import run_here
from tests.support.tiny_models import BLOCKS, CONTEXT, D_IN, D_MODEL, build_tiny_model

gguf = pytest.importorskip("gguf")

HEADS, KEY_HEADS = 4, 2
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GLOBAL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's convert_hf_to_gguf.py does."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model: Path, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_IN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    tokenizer = json.loads((model / "tokenizer.json").read_text())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in {"<s>", "</s>"} else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in load_file(model / "model.safetensors").items():
        values = tensor.numpy()
        if name in GLOBAL:
            writer.add_tensor(GLOBAL[name], values)
            continue
        layer, _, part = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
        if "q_proj" in part or "k_proj" in part:
            values = permute(values, HEADS if "q_proj" in part else KEY_HEADS)
        writer.add_tensor(f"blk.{layer}.{NAMES[part]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_the_model_that_it_holds(tmp_path: Path) -> None:
    source = build_tiny_model("llama", tmp_path / "source")
    write_gguf(source, tmp_path / "model.gguf")
    run_here("convert", tmp_path / "model.gguf", "--output", tmp_path / "back").ok()
    wanted, found = load_model(source), load_model(tmp_path / "back")
    ids = torch.tensor([prompt_ids(wanted, "The capital of France is")])
    difference = wanted.logits(wanted.forward(ids)) - found.logits(found.forward(ids))
    assert float(difference.abs().max()) < 1e-5
    text = "The capital of France is"
    assert found.tokenizer.tokenize(text) == wanted.tokenizer.tokenize(text)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    outcome = run_here("convert", path, "--output", tmp_path / "out")
    assert (outcome.code, outcome.lines[-1]) == (2, f"error: {path}: no such file")
    path.write_bytes(b"nothing")
    outcome = run_here("convert", path, "--output", tmp_path / "out")
    assert outcome.code == 2
    assert "cannot be read as GGUF" in outcome.lines[-1]
    assert [child.name for child in tmp_path.iterdir()] == ["model.gguf"]


def test_unpermuting_undoes_the_converter_s_permutation() -> None:
    heads, half, width = 3, 4, 5
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(heads * 2 * half, width)).astype(np.float32)
    # `permute` of llama.cpp's convert_hf_to_gguf.py.
    permuted = weight.reshape(heads, 2, half, width).swapaxes(1, 2).reshape(weight.shape)
    assert not np.array_equal(permuted, weight)
    assert np.array_equal(unpermute_rotary(permuted, heads), weight)
