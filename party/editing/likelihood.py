"""Likelihood of completions and of running text, with logits only where they are needed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from collabedit.errors import ModelError
from collabedit.party.editing.corpus import token_windows
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import batches_by_length, pad_rows

_LOGIT_ROWS = 512
"""Positions whose logits exist at a time: 100 MB in float32 with 50,000 tokens."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and a completion in tokens, neither empty."""

    prompt: tuple[int, ...] = field(repr=False)
    target: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CompletionScores:
    """How a model reads completions.

    Attributes:
        nlls: mean negative log-likelihood per target token, [completions], float64.
        tokens_right: share of target tokens that are the likeliest one where they stand, behind
            the true tokens before them, [completions], float64; 1 exactly if all are.
    """

    nlls: Tensor
    tokens_right: Tensor


def completion_nlls(
    model: EditableModel,
    completions: Sequence[Completion],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Mean negative log-likelihood per target token of each completion: [completions], float64.

    Raises:
        ModelError: a completion exceeds the model's context.
    """
    return score_completions(model, completions, batch_size=batch_size, progress=progress).nlls


def score_completions(
    model: EditableModel,
    completions: Sequence[Completion],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> CompletionScores:
    """Read each completion behind its prompt.

    Completions that need the same row run once: mostly the two one-token answers to one prompt.

    Raises:
        ModelError: a completion exceeds the model's context.
    """
    readers: dict[tuple[int, ...], list[int]] = {}
    for index, completion in enumerate(completions):
        readers.setdefault(completion.prompt + completion.target[:-1], []).append(index)
    rows = list(readers)
    if rows and max(map(len, rows)) > model.context_length:
        raise ModelError("a prompt and its completion exceed the model's context")
    nlls = torch.zeros(len(completions), dtype=torch.float64)
    right = torch.zeros(len(completions), dtype=torch.float64)
    sizes = torch.tensor([len(each.target) for each in completions], dtype=torch.float64)
    done = 0
    with torch.inference_mode():
        for batch in batches_by_length([len(row) for row in rows], batch_size):
            final = model.forward(pad_rows(model, [rows[index] for index in batch]))
            # (row in the batch, position, token there, completion)
            wanted = [
                (slot, len(completions[reader].prompt) - 1 + offset, token, reader)
                for slot, index in enumerate(batch)
                for reader in readers[rows[index]]
                for offset, token in enumerate(completions[reader].target)
            ]
            slots, places, tokens, owners = map(list, zip(*wanted, strict=True))
            losses, hits = _read_tokens(model, final[slots, places], torch.tensor(tokens))
            owner_of = torch.tensor(owners)
            nlls.index_add_(0, owner_of, losses)
            right.index_add_(0, owner_of, hits)
            done += len(batch)
            if progress:
                progress(done, len(rows))
    return CompletionScores(nlls / sizes, right / sizes)


def perplexity(
    model: EditableModel,
    text: str,
    *,
    window: int = 512,
    max_tokens: int | None = None,
    batch_size: int = 8,
) -> float:
    """Perplexity of a text over windows that do not overlap; at least 1.

    The first token of each window (or the special tokens in front) is only read, not predicted.
    """
    width = min(window, model.context_length)
    windows = token_windows(model, text, window=width, max_tokens=max_tokens)
    known = max(len(model.prefix_ids), 1)
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            final = model.forward(batch)[:, known - 1 : -1]
            tokens = batch[:, known:].flatten()
            total += float(_read_tokens(model, final.flatten(0, 1), tokens)[0].sum())
            count += tokens.numel()
    return math.exp(total / count) if count else math.nan


def _read_tokens(model: EditableModel, final: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """NLL of one token per final hidden state, and whether it is the likeliest (1 or 0).

    [n, d_model], [n] -> [n], [n], float64, on the CPU.
    """
    losses, hits = [], []
    for start in range(0, len(tokens), _LOGIT_ROWS):
        logits = model.logits(final[start : start + _LOGIT_ROWS])
        wanted = tokens[start : start + _LOGIT_ROWS].to(logits.device)
        losses.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
        hits.append(logits.argmax(dim=-1) == wanted)
    return torch.cat(losses).to("cpu", torch.float64), torch.cat(hits).to("cpu", torch.float64)
