"""What a model says when a vector is added at a subject.

The target search of an editor read backwards: `party.editing.targets` adds at the same place.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collabedit.attacks.asking import BATCH
from collabedit.party.editing.hooks import adding_to_output, at_positions
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import SubjectRow, batches_by_length, pad_rows, place_subject
from collabedit.party.edits import SLOT
from collabedit.sketch import Matrix


def raised_tokens(
    model: EditableModel,
    subjects: Sequence[str],
    prompts: Sequence[str],
    *,
    layer: int,
    vectors: Matrix,
) -> NDArray[np.float32]:
    """Return by how much log-probabilities of the next token rise, [subjects, vocabulary].

    Args:
        model: unedited.
        subjects: who is asked about.
        prompts: with one `{}` each; the rise is the mean over them.
        layer: to whose block's output, at the subject's last token, is added.
        vectors: one for each subject, [d_model, subjects].
    """
    total: Tensor | None = None
    added = torch.from_numpy(np.ascontiguousarray(vectors.T))
    for prompt in prompts:
        before, after = prompt.split(SLOT)
        rows = [
            place_subject(model, before, subject, after, case_id="of the attack")
            for subject in subjects
        ]
        rise = _next(model, rows, layer, added) - _next(model, rows, layer, torch.zeros_like(added))
        total = rise if total is None else total + rise
    if total is None:
        raise ValueError("at least one prompt")
    mean: NDArray[np.float32] = (total / len(prompts)).numpy()
    return mean


def _next(model: EditableModel, rows: Sequence[SubjectRow], layer: int, vectors: Tensor) -> Tensor:
    """Return log-probabilities behind each row with its vector added, [rows, vocabulary]."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    with torch.inference_mode():
        for batch in batches_by_length([len(row.ids) for row in rows], BATCH):
            places = torch.tensor([rows[index].subject_last for index in batch])
            ends = torch.tensor([len(rows[index].ids) - 1 for index in batch])
            with adding_to_output(model.block(layer), places, vectors[batch]):
                final = model.forward(pad_rows(model, [rows[index].ids for index in batch]))
            values = torch.log_softmax(model.logits(at_positions(final, ends)), dim=-1)
            for index, row in zip(batch, values.to("cpu", torch.float32), strict=True):
                found[index] = row
    return torch.stack(found)
