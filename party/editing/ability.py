"""A small check that an edited model can still do what it could: 48 questions with four answers.

`data/ability.json` holds the project's own questions: the end of a plain sentence, small sums, and
one fact out of a sentence or two just read. A question counts as right if the right answer has the
lowest mean NLL per token of the four, as lm-evaluation-harness scores multiple choice, there with
the sum over tokens or that by characters. It notices a broken model, not a slightly worse one: with
48 questions a share moves by some 13 points at random. It replaces no MMLU or GSM8K.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from collabedit.intervals import clopper_pearson
from collabedit.party.editing.likelihood import Completion, score_completions
from collabedit.party.editing.measures import Figure
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids

KINDS = ("cloze", "arithmetic", "reading")

CHANCE = 25.0
"""Percent right by guessing."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answers.

    Attributes:
        kind: one of `KINDS`.
        prompt: the answer follows it.
        answer: the right one.
        others: three wrong ones.
    """

    kind: str
    prompt: str
    answer: str
    others: tuple[str, str, str]


@cache
def ability_questions() -> tuple[Question, ...]:
    """Return the project's questions, in file order."""
    text = files("collabedit.data").joinpath("ability.json").read_text(encoding="utf-8")
    return tuple(Question(**{**row, "others": tuple(row["others"])}) for row in json.loads(text))


def answered_right(
    model: EditableModel,
    questions: Sequence[Question],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[bool, ...]:
    """Tell for each question whether the right answer is likelier than every other."""
    completions = [
        Completion(prompt_ids(model, question.prompt), target_ids(model, answer))
        for question in questions
        for answer in (question.answer, *question.others)
    ]
    nlls = score_completions(model, completions, batch_size=batch_size, progress=progress).nlls
    return tuple(bool(row[0] < row[1:].min()) for row in nlls.view(len(questions), 4))


def ability_figures(questions: Sequence[Question], right: Sequence[bool]) -> dict[str, Figure]:
    """Return the share right, in percent, with its exact interval: of all, and of each kind.

    Names `ability`, `ability_cloze`, `ability_arithmetic`, `ability_reading`.
    """
    groups = {"ability": list(right)} | {
        f"ability_{kind}": [
            answer
            for question, answer in zip(questions, right, strict=True)
            if question.kind == kind
        ]
        for kind in KINDS
    }
    return {name: _share(answers) for name, answers in groups.items()}


def _share(answers: Sequence[bool]) -> Figure:
    if not answers:
        return Figure(None, None)
    low, high = clopper_pearson(sum(answers), len(answers))
    return Figure(100.0 * sum(answers) / len(answers), (100.0 * low, 100.0 * high))
