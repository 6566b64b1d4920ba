"""Checkpoints from GGUF files, llama.cpp's own, for models of Llama's architecture.

Quantised weights are turned back into float32. The result is the model that the file holds, and not
the one that was quantised: a plan pins the one or the other.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from collabedit.errors import ModelError
from collabedit.party.editing.model import without_progress_bars
from collabedit.party.editing.reading import first_line

_OUTPUT = "lm_head.weight"
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": _OUTPUT,
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(gguf: Path, checkpoint: Path) -> None:
    """Write a GGUF file as a checkpoint of transformers: float32, with tokenizer.

    Args:
        gguf: the file.
        checkpoint: directory to write into.

    Raises:
        ModelError: the file cannot be read, or is of another architecture.
    """
    try:
        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{gguf}: cannot be read as GGUF: {first_line(error)}") from error
    if config.model_type != "llama":
        raise ModelError(f"{gguf}: is a {config.model_type} model; only Llama's can be converted")
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {name: torch.from_numpy(array) for name, array in llama_tensors(gguf, heads=heads)}
    # A file without an output matrix of its own uses the embedding.
    config.tie_word_embeddings = _OUTPUT not in state
    model = LlamaForCausalLM(config)
    loaded = model.load_state_dict(state, strict=False)
    tied = [_OUTPUT] if config.tie_word_embeddings else []
    if loaded.unexpected_keys or loaded.missing_keys != tied:
        raise ModelError(f"{gguf.name}: its tensors are not those of a Llama model")
    model.tie_weights()
    with without_progress_bars():
        model.save_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(checkpoint)


def llama_tensors(
    gguf: Path, *, heads: dict[str, int]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Dequantise a Llama GGUF file: transformers' names and float32 arrays.

    Args:
        gguf: the file.
        heads: attention heads of `attn_q` and of `attn_k`.

    Raises:
        ModelError: a tensor that a Llama model does not have.
    """
    for tensor in GGUFReader(gguf).tensors:
        array = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in _GLOBAL_NAMES:
            yield _GLOBAL_NAMES[tensor.name], array
            continue
        prefix, layer, part, *kind = tensor.name.split(".")
        if prefix != "blk" or part not in _BLOCK_NAMES or kind != ["weight"]:
            raise ModelError(f"{gguf.name}: unknown tensor {tensor.name}")
        if part in heads:
            array = unpermute_rotary(array, heads[part])
        yield f"model.layers.{layer}.{_BLOCK_NAMES[part]}.weight", array


def unpermute_rotary(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the row order that llama.cpp gives rotary projections.

    llama.cpp rotates neighbouring rows of a head as pairs, transformers row i with row i + half, so
    its converter interleaves the halves of each head (`convert_hf_to_gguf.py`, `permute`).

    Args:
        weight: [heads · d_head, d_model].
        heads: how many.
    """
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))
