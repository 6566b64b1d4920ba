"""From texts to token rows: where the subject ends, what the target's tokens are.

* The subject's place is known from the template, in characters; the fast tokenizer's offsets turn
  it into a token. Counting tokens of pieces instead goes wrong where a token spans a boundary.
* Special tokens in front (BOS) are added here, once; none is ever added to a target.
* A target is encoded as it continues a text: behind a blank, behind something. Tokenizers that mark
  word starts (SentencePiece) would otherwise encode a lone " target" with one blank too many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from collabedit.errors import EditFileError, ModelError
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.reading import Reading
from collabedit.party.edits import SLOT, Edit

_ANCHOR = "a"


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A prompt in tokens.

    Attributes:
        ids: token ids, with the special tokens in front.
        subject_last: index in `ids` of the subject's last token.
    """

    ids: tuple[int, ...] = field(repr=False)
    subject_last: int

    @property
    def up_to_subject(self) -> tuple[int, ...]:
        """Token ids up to and including the subject's last one."""
        return self.ids[: self.subject_last + 1]


def check_templates(templates: Sequence[str]) -> None:
    """Refuse context templates that cannot hold a prompt.

    Raises:
        ModelError: there is none, or one does not hold `{}` exactly once.
    """
    if not templates:
        raise ModelError("context templates: there must be at least one")
    for number, template in enumerate(templates, start=1):
        if template.count(SLOT) != 1:
            raise ModelError(f"context template {number} must hold {SLOT} exactly once")


def subject_row(model: Reading, edit: Edit, *, template: str = SLOT) -> SubjectRow:
    """Tokenise the edit's prompt inside a context template and find the subject.

    The subject's last token is the last one that shares a character with it: also when the token
    goes on behind it, or when one character is spread over several tokens.

    Raises:
        ModelError: the prompt is longer than the model's context, or no token covers the subject.
    """
    before, after = template.split(SLOT)
    prompt_before, prompt_after = edit.prompt.split(SLOT)
    return place_subject(
        model, before + prompt_before, edit.subject, prompt_after + after, case_id=edit.case_id
    )


def place_subject(
    model: Reading, before: str, subject: str, after: str, *, case_id: str
) -> SubjectRow:
    """Tokenise before + subject + after, without trailing blanks, and find the subject in it."""
    ids, last, _ = _find_subject(model, before, subject, after)
    if last < 0:
        raise ModelError(f"edit {case_id}: the tokenizer gives no token to the subject")
    ids = (*model.prefix_ids, *ids)
    _check_length(model, ids, case_id)
    return SubjectRow(ids=ids, subject_last=len(model.prefix_ids) + last)


def spills_over(model: Reading, edit: Edit) -> bool:
    """Tell whether the subject's last token goes on behind the subject.

    The key is then taken where the model has read more than the subject, and another prompt for
    the same subject has another one.
    """
    before, after = edit.prompt.split(SLOT)
    return _find_subject(model, before, edit.subject, after)[2] > 0


def _find_subject(
    model: Reading, before: str, subject: str, after: str
) -> tuple[tuple[int, ...], int, int]:
    """Return ids, the index of the subject's last token, -1 if it has none, and its overhang.

    The overhang is how many characters behind the subject that token has, blanks left out.
    """
    text = (before + subject + after).rstrip()
    start = len(before) + len(subject) - len(subject.lstrip())
    end = len(before) + len(subject.rstrip())
    encoding = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    last, overhang = -1, 0
    for index, (first_character, past_character) in enumerate(encoding["offset_mapping"]):
        if first_character < end and past_character > start:
            last, overhang = index, len(text[end:past_character].strip())
    return tuple(encoding["input_ids"]), last, overhang


def prompt_ids(model: Reading, prompt: str) -> tuple[int, ...]:
    """Tokenise a complete prompt, special tokens in front, trailing blanks dropped."""
    encoding = model.tokenizer(prompt.rstrip(), add_special_tokens=False)
    return (*model.prefix_ids, *encoding["input_ids"])


def target_ids(model: Reading, target: str) -> tuple[int, ...]:
    """Tokenise a completion with a leading blank and without special tokens.

    Raises:
        EditFileError: it is empty, or nothing is left of it in tokens.
    """
    text = f" {target.strip()}"
    anchor = model.tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]
    whole = model.tokenizer(_ANCHOR + text, add_special_tokens=False)["input_ids"]
    if whole[: len(anchor)] == anchor:
        ids = tuple(whole[len(anchor) :])
    else:
        ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids or text == " ":
        raise EditFileError("a target is empty or has no tokens under this tokenizer")
    return ids


def pad_rows(model: EditableModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Pad on the right: [rows, longest], int64, on the model's device."""
    width = max(map(len, rows))
    padding: int = model.tokenizer.pad_token_id
    padded = [[*row, *[padding] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=model.device)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Split indices into batches of similar length, longest first, ties in given order.

    Longest first, so that a batch that does not fit in memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _check_length(model: Reading, ids: Sequence[int], case_id: str) -> None:
    if len(ids) > model.context_length:
        raise ModelError(
            f"edit {case_id}: {len(ids)} tokens exceed the model's context of "
            f"{model.context_length}"
        )
