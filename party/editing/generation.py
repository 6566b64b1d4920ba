"""Continuations of short prompts.

Greedy ones, to see whether a model writes an edit's target itself, and sampled ones, to see how
fluently it writes.
"""

from collections.abc import Sequence

import torch

from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import batches_by_length, pad_rows, prompt_ids, target_ids

_SPARE_TOKENS = 3
"""Tokens written beyond the target's own number: the model may cut its words otherwise."""


def generated_targets(
    model: EditableModel, questions: Sequence[tuple[str, str]], *, batch_size: int = 32
) -> tuple[bool, ...]:
    """Tell for each (prompt, target) whether the greedy continuation starts with the target.

    The target must end where a word ends: "art" is not written by "artist".
    """
    rows = [list(prompt_ids(model, prompt)) for prompt, _ in questions]
    lengths = [len(row) for row in rows]
    budgets = [len(target_ids(model, target)) + _SPARE_TOKENS for _, target in questions]
    with torch.inference_mode():
        for batch in batches_by_length(lengths, batch_size):
            _write(model, [rows[index] for index in batch], max(budgets[i] for i in batch))
    return tuple(
        starts_with(
            model.tokenizer.decode(row[length : length + budget], skip_special_tokens=True), target
        )
        for row, length, budget, (_, target) in zip(rows, lengths, budgets, questions, strict=True)
    )


def starts_with(text: str, target: str) -> bool:
    """Whether `text` starts with `target` as whole words; blanks in front do not count."""
    text = text.lstrip()
    if not text.startswith(target):
        return False
    rest = text[len(target) :]
    return not (rest and target[-1].isalnum() and rest[0].isalnum())


def sampled_texts(
    model: EditableModel,
    prompts: Sequence[str],
    *,
    length: int = 100,
    choices: int = 5,
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[str, ...]:
    """Continue each prompt by sampling among its likeliest tokens: prompt and continuation.

    As MEMIT's `generate_fast` (kmeng01/rome, `util/generate.py`): nothing ends a text early.

    Args:
        model: writes.
        prompts: at least one token each.
        length: tokens of a text, prompt and special tokens included; capped by the context.
        choices: how many of the likeliest tokens are drawn from, in proportion.
        seed: of text i is seed + i, so that a text does not depend on its company.
        batch_size: texts written at a time; only prompts of equal length go together, so that
            they share a cache without padding.
    """
    rows = [list(prompt_ids(model, prompt)) for prompt in prompts]
    limit = min(length, model.context_length)
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(index)
    with torch.inference_mode():
        for indices in by_length.values():
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                generators = [torch.Generator().manual_seed(seed + index) for index in batch]
                _sample(model, [rows[index] for index in batch], limit, choices, generators)
    return tuple(model.tokenizer.decode(row, skip_special_tokens=True) for row in rows)


def _sample(
    model: EditableModel,
    rows: list[list[int]],
    limit: int,
    choices: int,
    generators: list[torch.Generator],
) -> None:
    """Append to each row, all of one length, up to `limit` tokens, in place."""
    cache = None
    fresh = torch.tensor(rows, dtype=torch.int64)
    while len(rows[0]) < limit:
        output = model.hf.base_model(
            input_ids=fresh.to(model.device), past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        logits = model.logits(output.last_hidden_state[:, -1]).to("cpu", torch.float64)
        best = logits.topk(min(choices, logits.shape[1]), dim=-1)
        weights = best.values.softmax(dim=-1)
        drawn = [
            int(best.indices[row, torch.multinomial(weights[row], 1, generator=generator)])
            for row, generator in enumerate(generators)
        ]
        for row, token in zip(rows, drawn, strict=True):
            row.append(token)
        fresh = torch.tensor(drawn, dtype=torch.int64)[:, None]


def _write(model: EditableModel, rows: list[list[int]], count: int) -> None:
    """Append `count` tokens to each row, in place.

    Whole rows run again at each step: rows of different lengths padded on the right share no cache,
    and a dozen short passes cost less than a second kind of padding would cost in mistakes.
    """
    for _ in range(count):
        if max(map(len, rows)) >= model.context_length:
            return
        ends = torch.tensor([len(row) - 1 for row in rows])
        final = model.forward(pad_rows(model, rows))
        best = model.logits(final[torch.arange(len(rows)), ends]).argmax(dim=-1)
        for row, token in zip(rows, best.tolist(), strict=True):
            row.append(token)
