import math

import pytest
import torch

from collabedit.party.editing.fluency import fluency, ngram_entropy, words
from collabedit.party.editing.generation import sampled_texts
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids

PROMPTS = ["The capital of France is", "Zed", "Ann", "The capital of Italy is"]


def test_entropy_by_hand() -> None:
    # "a b", "b a", "a b", "b c": frequencies 2, 1, 1 of 4.
    tokens = ["a", "b", "a", "b", "c"]
    assert ngram_entropy(tokens, 2) == pytest.approx(1.5)
    # "a b a", "b a b", "a b c": all different.
    assert ngram_entropy(tokens, 3) == pytest.approx(math.log2(3))
    assert fluency("a b a b c") == pytest.approx((2 / 3 * 1.5 + 4 / 3 * math.log2(3)) / 2)


def test_a_text_without_variety_has_no_entropy() -> None:
    assert fluency("no " * 50) == 0.0
    assert fluency("") == 0.0
    assert fluency("one two") == 0.0
    assert ngram_entropy(["a"], 2) == 0.0


def test_a_varied_text_has_more_than_one_that_repeats_itself() -> None:
    varied = " ".join(f"word{number}" for number in range(60))
    assert fluency(varied) == pytest.approx((2 / 3 * math.log2(59) + 4 / 3 * math.log2(58)) / 2)
    assert fluency("one two three " * 20) < 0.3 * fluency(varied)


def test_words_are_words_and_marks() -> None:
    assert words("It is Ann's, no?\n (ﬁne)") == [
        *("It", "is", "Ann", "'", "s", ",", "no", "?", "(", "fine", ")"),
    ]


def naive_text(model: EditableModel, prompt: str, length: int, seed: int) -> str:
    """Whole passes over one row, without a cache."""
    row = list(prompt_ids(model, prompt))
    generator = torch.Generator().manual_seed(seed)
    while len(row) < length:
        with torch.no_grad():
            logits = model.hf(torch.tensor([row])).logits[0, -1].double()
        values, tokens = logits.topk(5)
        row.append(int(tokens[torch.multinomial(values.softmax(0), 1, generator=generator)]))
    text: str = model.tokenizer.decode(row, skip_special_tokens=True)
    return text


def test_samples_equal_one_text_at_a_time(model: EditableModel) -> None:
    expected = tuple(
        naive_text(model, prompt, 25, seed=7 + index) for index, prompt in enumerate(PROMPTS)
    )
    for batch_size in (1, 8):
        assert sampled_texts(model, PROMPTS, length=25, seed=7, batch_size=batch_size) == expected
    assert sampled_texts(model, PROMPTS, length=25, seed=8) != expected
    assert sampled_texts(model, [], length=25) == ()


def test_samples_end_with_the_context(model: EditableModel) -> None:
    (text,) = sampled_texts(model, ["Ann"], length=10_000)
    assert text == naive_text(model, "Ann", model.context_length, seed=0)
