"""Facts that a tiny model knows: whatever it says itself, as records of EasyEdit's form."""

from typing import Any

import torch

from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import pad_rows, prompt_ids, target_ids


def known_facts(
    model: EditableModel, count: int, *, prompt: str = "{} plays the"
) -> list[dict[str, Any]]:
    """Ask about made-up subjects, and take as true what is likeliest and reads back alike."""
    found: list[dict[str, Any]] = []
    for number in range(50 * count):
        subject = f"Yan{number}"
        question = prompt.format(subject)
        row = prompt_ids(model, question)
        with torch.inference_mode():
            final = model.forward(pad_rows(model, [row]))
            token = int(model.logits(final[:, len(row) - 1]).argmax())
        said = str(model.tokenizer.decode([token])).strip()
        if said and target_ids(model, said) == (token,):
            found.append(
                {
                    "case_id": 9000 + number,
                    "prompt": question,
                    "subject": subject,
                    "target_new": "nothing",
                    "ground_truth": said,
                }
            )
        if len(found) == count:
            return found
    raise AssertionError(f"the model says only {len(found)} things that read back alike")
