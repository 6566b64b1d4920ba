"""Asking a model: what it says next to many prompts, before and after an edit.

For attacks that run the public model. Prompts about one subject mostly begin alike, so the blocks
run over that beginning once. Nothing here knows what was edited.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import LackingError
from collabedit.ids import LayerIndex
from collabedit.party.editing.apply import applied
from collabedit.party.editing.hooks import capturing_input, stopping_after
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.likelihood import Completion, completion_nlls
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import (
    batches_by_length,
    pad_rows,
    place_subject,
    prompt_ids,
    target_ids,
)
from collabedit.party.edits import SLOT
from collabedit.sketch import LowRankUpdate, Matrix

BATCH = 64
"""Prompts in a forward pass."""

_SHORT_BATCH = 512
"""Sequences of a few tokens in a forward pass."""

_WORTH_SHARING = 4
"""Prompts with one beginning; for fewer a pass of its own saves nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt in tokens.

    Attributes:
        ids: with the special tokens in front.
        shared: how many of them other prompts may share; less than all.
    """

    ids: tuple[int, ...] = field(repr=False)
    shared: int = 0


def model_of(prior: Prior) -> EditableModel:
    """Return the public model.

    Raises:
        LackingError: the adversary has none.
    """
    if prior.model is None:
        raise LackingError("the attack runs the public model, and the prior has none")
    return prior.model


@contextmanager
def edited(
    model: EditableModel,
    updates: Mapping[LayerIndex, LowRankUpdate],
    maps: Mapping[int, KeyMap],
) -> Iterator[None]:
    """Apply released updates inside this context only.

    Args:
        model: unedited; it has its exact bits again afterwards.
        updates: by layer, in mapped coordinates.
        maps: Φ by layer, the one that the plan's covariance gives.

    Raises:
        LackingError: there is no Φ of an edited layer.
    """
    missing = sorted(set(updates) - set(maps))
    if missing:
        raise LackingError(f"the prior has no key map of layer {missing[0]}")
    own = {
        int(layer): LowRankUpdate(update.left, maps[layer].unmap_rows(update.right))
        for layer, update in updates.items()
    }
    with applied(model, own):
        yield


def question(model: EditableModel, prompt: str, subject: str) -> Row:
    """Put a subject into a prompt with one `{}`, sharing all up to the subject's last token."""
    before, after = prompt.split(SLOT)
    placed = place_subject(model, before, subject, after, case_id="of the attack")
    return Row(placed.ids, min(placed.subject_last + 1, len(placed.ids) - 1))


def plain(model: EditableModel, text: str) -> Row:
    """Return a complete prompt."""
    return Row(prompt_ids(model, text))


def answers(
    model: EditableModel, rows: Sequence[Row], *, batch_size: int = BATCH
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (numbers of rows, log-probabilities of their next token [rows, vocabulary]), float32.

    In batches and in any order, so that a caller may keep less than everything.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.ids[: row.shared], []).append(number)
    alone: list[int] = []
    for beginning, numbers in groups.items():
        if not beginning or len(numbers) < _WORTH_SHARING:
            alone += numbers
            continue
        for start in range(0, len(numbers), batch_size):
            batch = numbers[start : start + batch_size]
            tails = [rows[number].ids[len(beginning) :] for number in batch]
            yield batch, _behind(model, beginning, tails)
    for places in batches_by_length([len(rows[number].ids) for number in alone], batch_size):
        batch = [alone[place] for place in places]
        ids = [rows[number].ids for number in batch]
        with torch.inference_mode():
            final = model.forward(pad_rows(model, ids))
            yield batch, _last(model, final, ids)


def _behind(
    model: EditableModel, beginning: tuple[int, ...], tails: Sequence[tuple[int, ...]]
) -> Tensor:
    with torch.inference_mode():
        cache = _cached(model, beginning, len(tails))
        output = model.hf.base_model(
            input_ids=pad_rows(model, tails), past_key_values=cache, use_cache=True
        )
        return _last(model, output.last_hidden_state, tails)


def _cached(model: EditableModel, beginning: Sequence[int], count: int) -> Any:  # noqa: ANN401
    """Run a beginning, and return transformers' cache of it for `count` rows."""
    first = torch.tensor([beginning], dtype=torch.int64, device=model.device)
    cache = model.hf.base_model(input_ids=first, use_cache=True).past_key_values
    cache.batch_repeat_interleave(count)
    return cache


def _last(model: EditableModel, final: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
    ends = torch.tensor([len(row) - 1 for row in ids], device=final.device)
    last = final[torch.arange(len(ids), device=final.device), ends]
    return torch.log_softmax(model.logits(last), dim=-1).to("cpu", torch.float32)


def all_answers(model: EditableModel, rows: Sequence[Row]) -> Tensor:
    """Return the log-probabilities of all rows' next tokens, [rows, vocabulary], in order."""
    found: Tensor | None = None
    for numbers, values in answers(model, rows):
        if found is None:
            found = torch.empty(len(rows), values.shape[1])
        found[numbers] = values
    return torch.empty(0, 0) if found is None else found


def best_tokens(
    model: EditableModel, rows: Sequence[Row], *, kept: int, allowed: Tensor | None = None
) -> tuple[Matrix, NDArray[np.int64], Matrix]:
    """Return entropies, the likeliest tokens, and their log-probabilities.

    Args:
        model: as it is now.
        rows: who is asked.
        kept: how many tokens of each row, or fewer if fewer are allowed.
        allowed: tokens to choose from, int64; None is the vocabulary.

    Returns:
        Shannon entropy of the next token in nats, [rows]; tokens, the likeliest first, and their
        log-probabilities, [rows, kept] each.
    """
    choices = None if allowed is None else torch.unique(allowed)
    entropy = np.zeros(len(rows))
    tokens: list[list[int]] = [[]] * len(rows)
    values: list[list[float]] = [[]] * len(rows)
    for numbers, answer in answers(model, rows):
        entropy[numbers] = _entropy(answer)
        among = answer if choices is None else answer[:, choices]
        best = among.topk(min(kept, among.shape[1]), dim=1)
        found = best.indices if choices is None else choices[best.indices]
        for slot, number in enumerate(numbers):
            tokens[number], values[number] = found[slot].tolist(), best.values[slot].tolist()
    return entropy, np.array(tokens, dtype=np.int64), np.array(values)


def read_tokens(
    model: EditableModel, rows: Sequence[Row], tokens: NDArray[np.int64]
) -> tuple[Matrix, Matrix]:
    """Return entropies [rows], and the log-probabilities of given tokens [rows, kept]."""
    entropy, values = np.zeros(len(rows)), np.zeros(tokens.shape)
    wanted = torch.from_numpy(tokens)
    for numbers, answer in answers(model, rows):
        entropy[numbers] = _entropy(answer)
        values[numbers] = answer.gather(1, wanted[numbers]).numpy()
    return entropy, values


def divergences(reference: Tensor, model: EditableModel, rows: Sequence[Row]) -> Matrix:
    """Return how far answers are from earlier ones to the same rows, [rows].

    The Jensen-Shannon divergence in nats, 0 to log 2.

    Args:
        reference: earlier log-probabilities, [rows, vocabulary].
        model: as it is now.
        rows: who is asked.
    """
    found = np.zeros(len(rows))
    for numbers, answer in answers(model, rows):
        found[numbers] = jensen_shannon(reference[numbers], answer).numpy()
    return found


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of rows of log-probabilities in nats, [rows]."""
    middle = torch.logaddexp(one, other) - math.log(2)
    sides = [(side.exp() * (side - middle)).sum(dim=1) for side in (one, other)]
    return (sides[0] + sides[1]).double() / 2


def _entropy(answer: Tensor) -> Matrix:
    entropy: Matrix = -(answer.exp() * answer).sum(dim=1).double().numpy()
    return entropy


def continuations(model: EditableModel, rows: Sequence[Row], count: int) -> list[str]:
    """Continue each row by its `count` likeliest tokens, one at a time."""
    grown = [list(row.ids) for row in rows]
    for _ in range(count):
        for numbers, values in answers(model, [Row(tuple(ids)) for ids in grown]):
            for number, token in zip(numbers, values.argmax(dim=1).tolist(), strict=True):
                grown[number].append(token)
    return [
        model.tokenizer.decode(ids[len(row.ids) :], skip_special_tokens=True)
        for row, ids in zip(rows, grown, strict=True)
    ]


def first_tokens(model: EditableModel, texts: Sequence[str]) -> Tensor:
    """Return the first token of each text as it continues a prompt, [texts], int64."""
    return torch.tensor([target_ids(model, text)[0] for text in texts], dtype=torch.int64)


def word_tokens(model: EditableModel, count: int) -> dict[int, bool]:
    """Return those of the first `count` tokens that are letters, and which of them begin a word."""
    size = min(count, len(model.tokenizer))
    texts = [model.tokenizer.decode([token]) for token in range(size)]
    return {
        token: text[0].isspace()
        for token, text in enumerate(texts)
        if text.strip().isalpha() and text.strip().isprintable()
    }


def likely_tokens(
    model: EditableModel, beginning: Sequence[int], among: Iterable[int], count: int
) -> list[int]:
    """Return the `count` of some tokens that are likeliest behind a beginning."""
    start = tuple(beginning) or (model.tokenizer.bos_token_id or 0,)
    allowed = torch.tensor(sorted(among), dtype=torch.int64)
    values = all_answers(model, [Row(start)])[0, allowed]
    best = values.topk(min(count, len(allowed))).indices
    found: list[int] = allowed[best].tolist()
    return found


def keys_behind(
    model: EditableModel, beginning: Sequence[int], tails: Sequence[tuple[int, ...]], *, layer: int
) -> Matrix:
    """Return the keys of the last token of each tail behind one beginning, [d_in, tails].

    Args:
        model: unedited.
        beginning: token ids, special tokens in front; it may be empty.
        tails: at least one token each.
        layer: whose projection is edited.
    """
    found = np.zeros((model.d_in(layer), len(tails)))
    projection = model.projection(layer)
    with torch.inference_mode():
        for batch in batches_by_length([len(tail) for tail in tails], _SHORT_BATCH):
            rows = [tails[index] for index in batch]
            ends = torch.tensor([len(row) - 1 for row in rows])
            cache = _cached(model, beginning, len(rows)) if beginning else None
            with capturing_input(projection, ends) as captured, stopping_after(projection):
                if beginning:
                    model.hf.base_model(
                        input_ids=pad_rows(model, rows), past_key_values=cache, use_cache=True
                    )
                else:
                    model.forward(pad_rows(model, rows))
            found[:, batch] = captured.values.to("cpu", torch.float64).T.numpy()
    return found


def mean_log_probabilities(
    model: EditableModel, beginning: Sequence[int], tails: Sequence[tuple[int, ...]]
) -> Matrix:
    """Return how likely each tail is behind the beginning, per token, in nats, [tails]."""
    start = tuple(beginning) or (model.tokenizer.bos_token_id or 0,)
    return -completion_nlls(model, [Completion(start, tail) for tail in tails]).numpy()
