import dataclasses
import math

import pytest
import torch

from collabedit.errors import ModelError
from collabedit.party.editing.corpus import token_windows
from collabedit.party.editing.evaluate import Metrics, evaluate, summarise
from collabedit.party.editing.fluency import fluency
from collabedit.party.editing.generation import generated_targets, sampled_texts, starts_with
from collabedit.party.editing.likelihood import (
    Completion,
    completion_nlls,
    perplexity,
    score_completions,
)
from collabedit.party.editing.measures import EditOutcome
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import Edit

Edits = tuple[Edit, ...]
TEXT = "The capital of France is Paris.\nThe piano is in Rome.\n" * 20


def naive_nll(model: EditableModel, prompt: str, target: str) -> float:
    front, back = prompt_ids(model, prompt), target_ids(model, target)
    with torch.no_grad():
        log_p = model.hf(torch.tensor([[*front, *back]])).logits[0].log_softmax(dim=-1)
    first = len(front) - 1
    return -sum(float(log_p[first + i, token]) for i, token in enumerate(back)) / len(back)


def test_completions_equal_one_at_a_time(model: EditableModel) -> None:
    pairs = [
        ("The capital of France is", "Paris"),
        ("The capital of France is", "Rome"),
        ("The capital of France is", "Rome the eternal"),
        ("Ann plays the", "piano"),
        ("Ann", "a"),
    ]
    completions = [
        Completion(prompt_ids(model, prompt), target_ids(model, target)) for prompt, target in pairs
    ]
    expected = torch.tensor([naive_nll(model, *pair) for pair in pairs], dtype=torch.float64)
    counts: list[int] = []
    for batch_size in (1, 2, 16):
        nlls = completion_nlls(
            model, completions, batch_size=batch_size, progress=lambda *pair: counts.extend(pair)
        )
        torch.testing.assert_close(nlls, expected, rtol=1e-6, atol=1e-8)
        # "Paris" and "Rome" are one token each and share a row.
        assert counts[-2:] == [4, 4]
    assert len(completion_nlls(model, [])) == 0


def test_a_completion_beyond_the_context_is_refused(model: EditableModel) -> None:
    with pytest.raises(ModelError, match="context"):
        completion_nlls(model, [Completion((5,) * 120, (6,) * 20)])


def test_metrics_equal_their_definition(model: EditableModel, edits: Edits) -> None:
    def less(prompt: str, wanted: str, other: str) -> bool:
        return naive_nll(model, prompt, wanted) < naive_nll(model, prompt, other)

    evaluation = evaluate(model, edits, text=TEXT, window=32, batch_size=3)
    for edit, measured in zip(edits, evaluation.outcomes, strict=True):
        new, true = edit.target_new, edit.target_true
        assert measured.case_id == edit.case_id
        assert measured.neighborhood == tuple(less(p, a, new) for p, a in edit.neighborhood)
        if true is None:
            assert measured.efficacy is None
            assert measured.paraphrase == ()
        else:
            assert measured.efficacy == less(edit.question, new, true)
            assert measured.paraphrase == tuple(less(p, new, true) for p in edit.paraphrase_prompts)
    assert evaluation.metrics.perplexity == perplexity(model, TEXT, window=32, batch_size=3)


def naive_tokens_right(model: EditableModel, prompt: str, target: str) -> float:
    """Teacher-forced one token at a time, each in a pass of its own."""
    front, back = prompt_ids(model, prompt), target_ids(model, target)
    hits = 0
    for count, token in enumerate(back):
        with torch.no_grad():
            logits = model.hf(torch.tensor([[*front, *back[:count]]])).logits[0, -1]
        hits += int(logits.argmax()) == token
    return hits / len(back)


def test_magnitudes_and_token_accuracies_equal_their_definition(
    model: EditableModel, edits: Edits
) -> None:
    def difference(prompt: str, wanted: str, other: str) -> float:
        return math.exp(-naive_nll(model, prompt, wanted)) - math.exp(
            -naive_nll(model, prompt, other)
        )

    for edit, measured in zip(edits, evaluate(model, edits).outcomes, strict=True):
        new, true = edit.target_new, edit.target_true
        assert measured.tokens_right == naive_tokens_right(model, edit.question, new)
        assert measured.paraphrase_tokens_right == tuple(
            naive_tokens_right(model, prompt, new) for prompt in edit.paraphrase_prompts
        )
        assert measured.neighborhood_tokens_right == tuple(
            naive_tokens_right(model, prompt, answer) for prompt, answer in edit.neighborhood
        )
        assert measured.neighborhood_magnitudes == pytest.approx(
            tuple(difference(prompt, answer, new) for prompt, answer in edit.neighborhood), rel=1e-5
        )
        if true is None:
            assert measured.magnitude is None
        else:
            assert measured.magnitude == pytest.approx(
                difference(edit.question, new, true), rel=1e-5
            )
            assert measured.paraphrase_magnitudes == pytest.approx(
                tuple(difference(prompt, new, true) for prompt in edit.paraphrase_prompts), rel=1e-5
            )


def _greedy(model: EditableModel, prompt: str, count: int) -> list[int]:
    ids = list(prompt_ids(model, prompt))
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model.hf(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


def test_tokens_right_are_teacher_forced(model: EditableModel) -> None:
    prompt = prompt_ids(model, "The capital of France is")
    first, second = _greedy(model, "The capital of France is", 2)
    wrong = (first + 1) % 290
    completions = [
        Completion(prompt, (first, second)),
        Completion(prompt, (first, (second + 1) % 290)),
        Completion(prompt, (wrong,)),
    ]
    assert score_completions(model, completions).tokens_right.tolist() == [1.0, 0.5, 0.0]


def test_fluency_is_that_of_texts_from_the_generation_prompts(
    model: EditableModel, edits: Edits
) -> None:
    prompts = ("Ann plays", "Zed")
    some = (edits[1], dataclasses.replace(edits[0], generation_prompts=prompts))
    silent, speaking = evaluate(model, some, with_fluency=True).outcomes
    assert silent.entropy is None
    texts = sampled_texts(model, prompts)
    assert speaking.entropy == pytest.approx((fluency(texts[0]) + fluency(texts[1])) / 2)
    assert evaluate(model, some).outcomes[1].entropy is None


def outcome(
    case_id: str,
    *,
    efficacy: bool | None = None,
    paraphrase: tuple[bool, ...] = (),
    neighborhood: tuple[bool, ...] = (),
    generated: bool = False,
) -> EditOutcome:
    return EditOutcome(case_id, efficacy, paraphrase, neighborhood, generated)


def test_a_summary_averages_per_edit_first() -> None:
    outcomes = (
        outcome("a", efficacy=True, paraphrase=(True,), neighborhood=(True, False)),
        outcome("b", efficacy=False, paraphrase=(True, False)),
        outcome("c", neighborhood=(True,), generated=True),
    )
    metrics = summarise(outcomes, perplexity=3.0)
    assert metrics.to_dict() == pytest.approx(
        {
            "efficacy": 50.0,
            "paraphrase": 75.0,
            "neighborhood": 75.0,
            "score": 3 / (1 / 50 + 2 / 75),
            "generation_accuracy": 100 / 3,
            "perplexity": 3.0,
        }
    )


def test_rows_that_nothing_measures_are_none() -> None:
    assert summarise((outcome("a", neighborhood=(True,)),)).to_dict() == {
        "efficacy": None,
        "paraphrase": None,
        "neighborhood": 100.0,
        "score": 100.0,
        "generation_accuracy": 0.0,
        "perplexity": None,
    }
    assert summarise(()) == Metrics(None, None, None, None, None, None)
    assert summarise((outcome("a", efficacy=False, paraphrase=(True,)),)).score == 0.0


def test_outcomes_hold_no_text(model: EditableModel, edits: Edits) -> None:
    printed = repr(evaluate(model, edits))
    for edit in edits:
        for text in (edit.subject, edit.prompt, edit.target_new):
            assert text not in printed


def test_perplexity_is_the_mean_over_windows(model: EditableModel) -> None:
    windows = token_windows(model, TEXT, window=32)
    known = max(len(model.prefix_ids), 1)
    with torch.no_grad():
        log_p = model.hf(windows).logits.log_softmax(dim=-1)[:, known - 1 : -1]
    mean = log_p.gather(2, windows[:, known:, None]).mean()
    for batch_size in (1, 5):
        assert perplexity(model, TEXT, window=32, batch_size=batch_size) == pytest.approx(
            math.exp(-float(mean)), rel=1e-6
        )


def test_generation_is_greedy_generate(model: EditableModel) -> None:
    prompts = ["The capital of France is", "Ann", "Zed plays the piano in"]
    questions, expected = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt_ids(model, prompt)])
        written = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            pad_token_id=1,
        )[0, ids.shape[1] :]
        target = model.tokenizer.decode(written[:4]).strip()
        questions += [(prompt, target), (prompt, target + "z")]
        # Four tokens of a random model may end inside a word, which then must not count.
        expected += [starts_with(model.tokenizer.decode(written), target), False]
    assert any(expected)
    for batch_size in (1, 8):
        assert generated_targets(model, questions, batch_size=batch_size) == tuple(expected)


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" Paris.", "Paris", True),
        ("Paris", "Paris", True),
        ("\n Paris is", "Paris", True),
        ("Parisian", "Paris", False),
        ("In Paris", "Paris", False),
        ("paris", "Paris", False),
        ("C++11", "C++", True),
        ("", "Paris", False),
    ],
)
def test_a_target_counts_as_whole_words(text: str, target: str, expected: bool) -> None:
    assert starts_with(text, target) is expected
