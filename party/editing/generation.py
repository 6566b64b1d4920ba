"""Greedy continuation of short prompts, to see whether a model writes an edit's target itself."""

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
