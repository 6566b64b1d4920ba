"""What a tokenizer makes of edits: traps that show only in tokens, and what does not fit."""

import unicodedata
from collections.abc import Iterator, Sequence

from collabedit.errors import EditFileError, ModelError
from collabedit.party.edit import SLOT, Edit
from collabedit.party.editing.generation import generated_targets
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.reading import Reading
from collabedit.party.editing.tokens import prompt_ids, spills_over, subject_row, target_ids
from collabedit.party.inspection import Finding, Numbered

_OPENING = frozenset("([{<\"'“‘«„‚-/–—_@#$")
"""Behind these a text goes on without a blank, as a rule."""
_CLOSING = frozenset(")]}>,.;:!?%”’»…")
"""Before these a text has no blank, as a rule."""


def inspect_tokens(
    reading: Reading, edits: Sequence[Numbered], *, templates: Sequence[str] = (SLOT,)
) -> Iterator[Finding]:
    """Look at each edit as the editor will tokenise it.

    Args:
        reading: the model's tokenizer.
        edits: with their numbers.
        templates: context templates of the plan, for what is too long.
    """
    for number, edit in edits:
        for kind, detail in _of_one(reading, edit, templates):
            yield Finding(kind, number, edit.case_id, detail)


def inspect_answers(model: EditableModel, edits: Sequence[Numbered]) -> Iterator[Finding]:
    """Ask the model each edit's question: greedy, as `generation_accuracy` does."""
    questions = [(edit.question, edit.target_new) for _, edit in edits]
    for (number, edit), said in zip(edits, generated_targets(model, questions), strict=True):
        if said:
            detail = "the model's own continuation starts with the target"
            yield Finding("said-already", number, edit.case_id, detail)


def _of_one(reading: Reading, edit: Edit, templates: Sequence[str]) -> Iterator[tuple[str, str]]:
    special = [token for token in reading.tokenizer.all_special_tokens if token]
    for field, text in (("prompt", edit.prompt), ("subject", edit.subject)):
        if any(token in text for token in special):
            yield "special-token", f"field {field}"
    if any(token in edit.target_new for token in special):
        yield "special-token", "field target_new"
        return
    try:
        target = target_ids(reading, edit.target_new)
    except EditFileError:
        yield "no-tokens", "field target_new"
        return
    try:
        rows = [subject_row(reading, edit, template=template).ids for template in templates]
    except ModelError as error:
        # Either of the two that `subject_row` raises; both name the edit and numbers alone.
        kind = "too-long" if "exceed" in str(error) else "no-tokens"
        yield kind, str(error).removeprefix(f"edit {edit.case_id}: ")
        return
    # The last token of a target is only predicted.
    longest = max(map(len, rows)) + len(target) - 1
    if longest > reading.context_length:
        yield (
            "too-long",
            (
                f"prompt and target have {longest} tokens, the model's context is "
                f"{reading.context_length}"
            ),
        )
    yield from _too_long_measures(reading, edit, len(target))
    question = prompt_ids(reading, edit.question)
    unknown = reading.tokenizer.unk_token_id
    if unknown is not None and unknown in (*question[len(reading.prefix_ids) :], *target):
        yield "unknown-token", "prompt or target"
    if spills_over(reading, edit):
        yield "subject-spills", "the subject's last token goes on behind it"
    yield from _boundary(reading, edit, question, target)


def _too_long_measures(reading: Reading, edit: Edit, target: int) -> Iterator[tuple[str, str]]:
    asked = [(prompt, target) for prompt in edit.paraphrase_prompts]
    for prompt, answer in edit.neighborhood:
        try:
            asked.append((prompt, len(target_ids(reading, answer))))
        except EditFileError:
            yield "no-tokens", "answer of a neighbourhood prompt"
    for prompt, answer_length in asked:
        length = len(prompt_ids(reading, prompt)) + answer_length
        if length > reading.context_length:
            yield (
                "too-long",
                (
                    f"a prompt that measures it has {length} tokens with its answer, the model's "
                    f"context is {reading.context_length}"
                ),
            )
            return


def _boundary(
    reading: Reading, edit: Edit, question: tuple[int, ...], target: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    text = edit.question.rstrip()
    if (
        text[-1] in _OPENING
        or edit.target_new[0] in _CLOSING
        or _is_unspaced(text[-1], edit.target_new[0])
    ):
        yield "target-blank", "between prompt and target"
    if prompt_ids(reading, f"{text} {edit.target_new}") != (*question, *target):
        yield "target-boundary", "between prompt and target"


def _is_unspaced(last: str, first: str) -> bool:
    """Whether both letters are of scripts that put no blanks between words."""
    return all(
        unicodedata.category(letter) == "Lo"
        and unicodedata.east_asian_width(letter) in {"W", "F"}
        and not "\uac00" <= letter <= "\ud7a3"  # Korean has blanks
        for letter in (last, first)
    )
