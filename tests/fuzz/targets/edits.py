"""Edits files: edits that hold together, or an `EditFileError` that quotes nothing."""

import functools
import os
from pathlib import Path

from collabedit.errors import EditFileError
from collabedit.party.edits import SLOT, edits_digest, load_edits

SECRET = "Zyxwvut"
"""Stands in every text of the seeds and must never stand in a message."""


@functools.cache
def _file() -> Path:
    descriptor = os.memfd_create("edits")
    return Path(f"/proc/self/fd/{descriptor}")


def run(data: bytes) -> None:
    """Load a file of these bytes."""
    path = _file()
    path.write_bytes(data)
    try:
        edits = load_edits(path)
    except EditFileError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        assert SECRET not in str(error), "a message quotes the edit"
        return
    assert edits
    edits_digest(edits)
    for edit in edits:
        assert edit.prompt.count(SLOT) == 1
        assert edit.subject
        assert edit.target_new
        assert SLOT not in edit.question
        assert SECRET not in repr(edit).replace(repr(edit.case_id), "")


def seeds() -> dict[str, bytes]:
    """Return the three forms, as lists, lines and single records, and what is wrong with each."""
    counterfact = (
        f'{{"case_id": 1, "requested_rewrite": {{"prompt": "{{}} was born in", "subject": '
        f'"{SECRET}", "target_new": {{"str": "{SECRET} Town"}}, "target_true": {{"str": "x"}}, '
        f'"relation_id": "P19"}}, "paraphrase_prompts": ["{SECRET} came from"], '
        f'"neighborhood_prompts": ["{SECRET} II came from"]}}'
    )
    flat = (
        f'{{"prompt": "Where was {SECRET} born?", "subject": "{SECRET}", "target_new": "{SECRET} '
        f'Town", "locality_prompt": "a", "locality_ground_truth": "b", "rephrase_prompt": "c"}}'
    )
    zsre = (
        f'{{"subject": "{SECRET}", "src": "Where is {SECRET}?", "alt": "here", "answers": ["x"], '
        f'"rephrase": "r", "loc": "l", "loc_ans": "a"}}'
    )
    texts = {
        "counterfact": f"[{counterfact}]",
        "flat": f"[{flat}, {flat}]",
        "zsre": f"[{zsre}]",
        "lines": f"{counterfact}\n{flat}\n{zsre}",
        "single": flat,
        "empty-list": "[]",
        "no-subject": flat.replace("Where was", "{} was"),
        "not-json": f'{{"prompt": "{SECRET}',
        "nested": "[" * 2000,
    }
    return {name: text.encode() for name, text in texts.items()}
