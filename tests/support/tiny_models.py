"""Tiny random models with a tiny tokenizer, saved to disk so that other processes can load them.

The weights mean nothing. They are drawn wide enough for layers and positions to differ clearly.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from collabedit.party.editing.model import without_progress_bars

VOCABULARY = 300
BLOCKS = 6
D_MODEL = 32
D_IN = 48
CONTEXT = 128

_WORDS = "the of in is a capital Paris France Rome Italy plays guitar piano born Tokyo language"
_WITH_BOS = frozenset({"llama", "mistral", "gemma", "gemma2", "gemma3_text", "gemma3"})

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "intermediate_size": D_IN,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,
}
_GROUPED: dict[str, Any] = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8}
_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": D_MODEL,
    "n_inner": D_IN,
    "n_layer": BLOCKS,
    "n_head": 4,
    "n_positions": CONTEXT,
    "initializer_range": 0.15,
    "attn_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
}
_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neox": _COMMON,
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 8},
    "qwen2": {name: value for name, value in _GROUPED.items() if name != "head_dim"},
    "qwen3": _GROUPED,
    "gemma": _GROUPED,
    "gemma2": {**_GROUPED, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        **_GROUPED,
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 20.0,
        "layer_types": ["sliding_attention", "full_attention"] * (BLOCKS // 2),
    },
}
# The checkpoints with pictures: the language model is a part of a larger one.
_CONFIGURATIONS["gemma3"] = {
    "text_config": {"model_type": "gemma3_text", **_CONFIGURATIONS["gemma3_text"]},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}
MODEL_TYPES = tuple(_CONFIGURATIONS)

_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "llama-2": ("llama", {"num_key_value_heads": 4}),
    "llama-3": (
        "llama",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "mistral-full": ("mistral", {"sliding_window": None}),
    "qwen2.5": ("qwen2", {"tie_word_embeddings": True}),
}
"""Checkpoints that share a class with another one and differ in what the class does."""

CHECKPOINTS = (*MODEL_TYPES, *_VARIANTS)


def teach(path: Path, text: str, *, steps: int = 150) -> None:
    """Train the model in `path` on a text, so that it has something to lose. Deterministic."""
    with without_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    window = min(64, len(ids))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(ids) - window + 1, (8,), generator=generator)
        batch = torch.stack([ids[start : start + window] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with without_progress_bars():
        model.save_pretrained(path)


def model_type_of(checkpoint: str) -> str:
    """Return transformers' name of the architecture of one of `CHECKPOINTS`."""
    return _VARIANTS[checkpoint][0] if checkpoint in _VARIANTS else checkpoint


def build_tokenizer(*, bos: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE: all bytes, a few whole words, and merges that lead to these."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1}
    for symbol in alphabet:
        vocabulary[symbol] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in _WORDS.split():
        merged = "Ġ"
        for letter in word:
            if len(vocabulary) == VOCABULARY:
                break
            if (merged, letter) not in merges:
                merges.append((merged, letter))
                vocabulary[merged + letter] = len(vocabulary)
            merged += letter
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
                ),
            ]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def build_tiny_model(checkpoint: str, directory: Path, dtype: str = "float32") -> Path:
    """Save one of `CHECKPOINTS`, of `BLOCKS` blocks, with its tokenizer in `directory`."""
    torch_dtype: torch.dtype = getattr(torch, dtype)
    model_type = model_type_of(checkpoint)
    _, changes = _VARIANTS.get(checkpoint, (model_type, {}))
    settings = {**_CONFIGURATIONS[model_type], **changes}
    config = AutoConfig.for_model(
        model_type, bos_token_id=0, eos_token_id=1, pad_token_id=None, **settings
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20221)
        model = AutoModelForCausalLM.from_config(config)
    with without_progress_bars():
        model.to(torch_dtype).save_pretrained(directory)
    build_tokenizer(bos=model_type in _WITH_BOS).save_pretrained(directory)
    return directory
