"""What decides how text becomes tokens, without the weights.

A fast tokenizer, the special tokens that it puts in front, and how long a sequence may be. Checks
of edits need no more, and read it in a second where the model takes minutes.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from collabedit.errors import ModelError
from collabedit.party.editing.locating import model_directory

CONTEXT_LIMIT = 4096
"""Tokens. Longer positions are declared by some configurations than any text here needs."""


class Reading(Protocol):
    """What turns text into tokens: an `EditableModel`, or a `Reader`."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Fast, right-padding, with a pad token."""

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Special tokens that the tokenizer puts before a text (BOS), possibly none."""

    @property
    def context_length(self) -> int:
        """Tokens that one sequence may have."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A model's tokenizer and context, without the model; fields as `Reading` has them."""

    tokenizer: PreTrainedTokenizerFast
    prefix_ids: tuple[int, ...]
    context_length: int


def load_reader(path: Path) -> Reader:
    """Read what `load_model` reads of a checkpoint, but for its weights.

    Args:
        path: as `load_model` has it.

    Raises:
        ModelError: no such directory, or no fast tokenizer.
    """
    directory = model_directory(path)
    config = load_configuration(directory)
    text_config = config.get_text_config()
    tokenizer = load_tokenizer(directory, vocabulary=int(text_config.vocab_size))
    return Reader(tokenizer, prefix_ids(tokenizer), context_length(text_config))


def load_configuration(directory: Path) -> PretrainedConfig:
    """Read a checkpoint's configuration.

    Raises:
        ModelError: there is none, or transformers does not know it.
    """
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: is no model directory (it has no config.json)")
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{directory}: config.json: {first_line(error)}") from error


def context_length(text_config: PretrainedConfig) -> int:
    """Tokens that one sequence may have, at most 4096."""
    declared = getattr(text_config, "max_position_embeddings", None)
    return min(int(declared or CONTEXT_LIMIT), CONTEXT_LIMIT)


def load_tokenizer(path: Path, *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Read a checkpoint's fast tokenizer; it pads on the right.

    Args:
        path: the checkpoint's directory.
        vocabulary: number of tokens that the model has an embedding for.

    Raises:
        ModelError: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: tokenizer: {first_line(error)}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{path}: tokenizer: only a slow one; offsets need a tokenizer.json")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= vocabulary:
        # Any token that the model has will do, as padding is never attended to; a new one would
        # change the vocabulary. Some tokenizer classes bring a pad token that the model lacks.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def prefix_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Return the special tokens that a tokenizer puts before a text.

    Raises:
        ModelError: it changes the text's own tokens when it adds special ones.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[:start])
    raise ModelError("tokenizer: a text's tokens change when special tokens are added")


def tokenizer_digest(reading: Reading) -> str:
    """Digest everything that decides how text becomes tokens, as hex SHA-256.

    Over the tokenizer's own serialisation without its padding and truncation state, so one that
    was written by another release of `tokenizers` may differ where it would tokenise alike:
    the safe side.
    """
    description = json.loads(reading.tokenizer.backend_tokenizer.to_str())
    for state in ("padding", "truncation"):
        description.pop(state, None)
    description["prefix_ids"] = reading.prefix_ids
    canonical = json.dumps(description, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(b"collabedit/v1/tokenizer\n" + canonical.encode()).hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of another library says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
