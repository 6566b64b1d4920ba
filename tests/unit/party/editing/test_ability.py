from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from collabedit.party.editing.ability import (
    KINDS,
    Question,
    ability_figures,
    ability_questions,
    answered_right,
)
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import load_edits

QUESTIONS = ability_questions()
FACTS = Path(str(files("collabedit.data").joinpath("facts.json")))


def naive_nll(model: EditableModel, prompt: str, answer: str) -> float:
    front, back = prompt_ids(model, prompt), target_ids(model, answer)
    with torch.no_grad():
        log_p = model.hf(torch.tensor([[*front, *back]])).logits[0].log_softmax(dim=-1)
    places = torch.arange(len(back)) + len(front) - 1
    return -float(log_p[places, torch.tensor(back)].mean())


def test_questions_are_well_formed() -> None:
    assert Counter(question.kind for question in QUESTIONS) == dict.fromkeys(KINDS, 16)
    assert len({question.prompt for question in QUESTIONS}) == 48
    for question in QUESTIONS:
        answers = (question.answer, *question.others)
        assert len(set(answers)) == 4
        for text in (question.prompt, *answers):
            assert text == text.strip() != ""


def test_questions_are_about_no_fact_of_the_demo() -> None:
    subjects = [edit.subject for edit in load_edits(FACTS)]
    for question in QUESTIONS:
        assert not [subject for subject in subjects if subject in question.prompt]


def test_answers_equal_one_at_a_time(model: EditableModel) -> None:
    expected = tuple(
        naive_nll(model, question.prompt, question.answer)
        < min(naive_nll(model, question.prompt, other) for other in question.others)
        for question in QUESTIONS
    )
    assert answered_right(model, QUESTIONS, batch_size=7) == expected
    assert 0 < sum(expected) < len(expected)


def test_shares_by_kind_with_exact_intervals() -> None:
    questions = [Question("cloze", str(n), "a", ("b", "c", "d")) for n in range(4)]
    questions += [Question("reading", "x", "a", ("b", "c", "d"))]
    found = ability_figures(questions, (True, True, False, False, True))
    assert found["ability"].value == pytest.approx(60.0)
    assert found["ability_cloze"].value == 50.0
    assert found["ability_cloze"].interval == pytest.approx((6.7586, 93.2414), abs=1e-3)
    assert found["ability_reading"].interval == pytest.approx((2.5, 100.0))
    assert found["ability_arithmetic"].value is None
    assert ability_figures((), ())["ability"].value is None
