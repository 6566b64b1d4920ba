"""Traps that show only in tokens, on tiny tokenizers with and without BOS."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import ModelError
from collabedit.party.editing.model import load_model
from collabedit.party.editing.reading import Reader, load_reader, tokenizer_digest
from collabedit.party.editing.targets import TargetSettings, compute_targets
from collabedit.party.editing.token_inspection import inspect_answers, inspect_tokens
from collabedit.party.edits import Edit
from collabedit.party.inspection import Severity
from tests.support.tiny_models import CONTEXT

GOOD = Edit(case_id="a", prompt="The capital of {} is", subject="France", target_new="Rome")


@pytest.fixture(params=["gpt2", "llama"])
def reader(request: pytest.FixtureRequest, tiny_directory: Callable[[str], Path]) -> Reader:
    return load_reader(tiny_directory(request.param))


def changed(**fields: Any) -> Edit:  # noqa: ANN401  # any field of an edit
    return replace(GOOD, **fields)


def kinds(reader: Reader, edit: Edit, **more: Any) -> list[str]:  # noqa: ANN401
    return [finding.kind for finding in inspect_tokens(reader, [(1, edit)], **more)]


def test_a_reader_reads_what_the_model_reads(tiny_directory: Callable[[str], Path]) -> None:
    for model_type in ("gpt2", "llama", "gemma3"):
        path = tiny_directory(model_type)
        reader, model = load_reader(path), load_model(path)
        assert reader.prefix_ids == model.prefix_ids
        assert reader.context_length == model.context_length == CONTEXT
        assert tokenizer_digest(reader) == model.tokenizer_digest()
        assert reader.tokenizer.pad_token_id == model.tokenizer.pad_token_id


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model directory"):
        load_reader(tmp_path)


def test_good_edits_have_no_finding(reader: Reader, edits: tuple[Edit, ...]) -> None:
    assert list(inspect_tokens(reader, list(enumerate((GOOD, *edits), start=1)))) == []


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (changed(prompt="The capital of {}</s> is"), "special-token"),
        (changed(subject="<s>"), "special-token"),
        (changed(target_new="Rome</s>"), "special-token"),
        (changed(prompt="{} is" + " x" * CONTEXT), "too-long"),
        (changed(target_new="x " * CONTEXT), "too-long"),
        (changed(paraphrase_prompts=("x " * CONTEXT,)), "too-long"),
        (changed(neighborhood=(("The capital of", "x " * CONTEXT),)), "too-long"),
        (changed(neighborhood=(("The capital of", " "),)), "no-tokens"),
        (changed(prompt="{}'s capital is called (", target_new="Rome"), "target-blank"),
        (changed(target_new=", of all places, Rome"), "target-blank"),
        (changed(prompt="{}の首都は", target_new="東京"), "target-blank"),
        (changed(subject="Fra", prompt="The capital of {}nce is"), "subject-spills"),
    ],
)
def test_traps(reader: Reader, edit: Edit, kind: str) -> None:
    assert kind in kinds(reader, edit)


def test_korean_has_blanks(reader: Reader) -> None:
    assert kinds(reader, changed(prompt="{}의 수도는", target_new="파리")) == []


def test_a_template_counts_into_the_length(reader: Reader) -> None:
    long = changed(prompt="{}" + " z" * (CONTEXT // 2 - 10))
    assert kinds(reader, long) == []
    assert kinds(reader, long, templates=("{}", "of in is a " * 20 + "{}")) == ["too-long"]


def test_what_the_check_lets_through_the_target_search_takes(
    tiny_directory: Callable[[str], Path],
) -> None:
    """The longest prompt without an error is the longest that targets can be computed for."""
    model = load_model(tiny_directory("llama"))
    settings = TargetSettings(learning_rate=0.1, steps=1, clamp_factor=1.0, weight_decay=0.0)

    def of(length: int) -> Edit:
        return changed(prompt="{}" + "z" * length, target_new="Rome Rome")

    def is_sound(edit: Edit) -> bool:
        found = inspect_tokens(model, [(1, edit)])
        return all(each.severity is not Severity.ERROR for each in found)

    longest = max(length for length in range(CONTEXT) if is_sound(of(length)))
    assert 50 < longest < CONTEXT
    compute_targets(model, [of(longest)], layer=3, templates=("{}",), settings=settings)
    with pytest.raises(ModelError, match="exceed"):
        compute_targets(model, [of(longest + 1)], layer=3, templates=("{}",), settings=settings)


def test_what_the_model_says_already(tiny_directory: Callable[[str], Path]) -> None:
    from collabedit.party.editing.generation import generated_targets
    from collabedit.party.editing.tokens import pad_rows, prompt_ids

    model = load_model(tiny_directory("gpt2"))
    row = list(prompt_ids(model, GOOD.question))
    said = ""
    while not said.strip():
        final = model.forward(pad_rows(model, [row]))
        row.append(int(model.logits(final[0, -1]).argmax()))
        said = model.tokenizer.decode(row[len(prompt_ids(model, GOOD.question)) :])
    known = changed(target_new=said.strip())
    expected = generated_targets(model, [(known.question, known.target_new)])[0]
    findings = list(inspect_answers(model, [(3, GOOD), (5, known)]))
    assert [each.record for each in findings] == ([5] if expected else [])
