"""What a vote rests on, measured on tiny models: against `evaluate`, and where there is nothing."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.acceptance import Measures
from collabedit.errors import InputError
from collabedit.party.decisions import Decision
from collabedit.party.editing.assessment import general_text, measure
from collabedit.party.editing.evaluate import evaluate
from collabedit.party.editing.likelihood import Completion, score_completions
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import Edit
from tests.support.editors import TinyFederation, tiny_federation

Edits = tuple[Edit, ...]
TEXT = "The capital of France is Paris.\nThe piano is in Rome.\n" * 20


def test_the_shares_are_those_of_evaluate(model: EditableModel, edits: Edits) -> None:
    evaluation = evaluate(model, edits, text=TEXT)
    measured = measure(model, edits, TEXT)
    held = [outcome.efficacy for outcome in evaluation.outcomes if outcome.efficacy is not None]
    kept = [holds for outcome in evaluation.outcomes for holds in outcome.neighborhood]
    assert all(edit.target_true for edit in edits) == (len(held) == len(edits))
    if len(held) == len(edits):
        assert measured.efficacy == pytest.approx(sum(held) / len(held))
    assert measured.neighbourhood == (pytest.approx(sum(kept) / len(kept)) if kept else None)
    assert measured.perplexity == pytest.approx(evaluation.metrics.perplexity)


def test_an_edit_without_a_true_object_holds_if_the_model_would_write_it(
    model: EditableModel, edits: Edits
) -> None:
    prompt = prompt_ids(model, edits[0].question)
    vocabulary = ("Paris", "Rome", "piano", "guitar", "Tokyo")
    rows = [Completion(prompt, target_ids(model, word)) for word in vocabulary]
    right = score_completions(model, rows).tokens_right
    for word, is_right in zip(vocabulary, right, strict=True):
        alone = replace(edits[0], target_new=word, target_true=None)
        assert measure(model, [alone], TEXT).efficacy == float(is_right == 1)


def test_what_a_party_has_nothing_for_is_not_there(model: EditableModel, edits: Edits) -> None:
    bare = [replace(edit, neighborhood=()) for edit in edits]
    assert measure(model, bare, TEXT).neighbourhood is None
    nothing = measure(model, (), TEXT)
    assert nothing.efficacy is None
    assert nothing.neighbourhood is None
    around = measure(model, (), TEXT, around=edits)
    assert around.efficacy is None
    assert around.neighbourhood == measure(model, edits, TEXT).neighbourhood
    with pytest.raises(InputError, match="no tokens"):
        measure(model, edits, "")


def test_the_projects_text_is_long_enough_to_measure_with(model: EditableModel) -> None:
    assert len(general_text()) > 10_000
    assert measure(model, (), general_text()).perplexity > 1


@pytest.mark.parametrize("broken", [1e30, math.nan])
def test_a_broken_model_has_a_perplexity_that_no_bound_allows(
    broken: float, model: EditableModel, edits: Edits
) -> None:
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(broken)
    assert not measure(model, edits, TEXT).perplexity < 1e6


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    return tiny_federation(tmp_path_factory.mktemp("tiny"), model_type="gpt2", layers=(1, 2))


def test_an_editor_measures_its_own_edits_on_the_model_as_it_is(
    federation: TinyFederation,
) -> None:
    plan = federation.plan("memit")
    for party, editor in federation.editors(plan).items():
        editor.text = TEXT
        own = federation.shares[party].edits
        before = editor.measure()
        assert before == measure(federation.models[party], own, TEXT)
        # A change that no party asked for shows, and is gone with it.
        weight = editor.model.weight(2)
        original = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(-3.0)
        assert editor.measure() != before
        with torch.no_grad():
            weight.copy_(original)
        assert editor.measure() == before


def test_an_edit_that_was_counted_and_dropped_is_not_asked_for(
    federation: TinyFederation, tmp_path: Path
) -> None:
    editor = next(iter(federation.editors(federation.plan("memit")).values()))
    editor.text = TEXT
    shares = []
    for kept in range(len(editor.edits)):
        editor.weigh(
            [
                Decision(edit.case_id, copies=1, claims=3, is_kept=number == kept)
                for number, edit in enumerate(editor.edits)
            ]
        )
        measured: Measures = editor.measure()
        assert measured.efficacy in {0.0, 1.0}
        shares.append(measured.efficacy)
        # Its neighbourhood is still to be left alone.
        assert measured.neighbourhood == measure(editor.model, editor.edits, TEXT).neighbourhood
    editor.rollback()
    assert editor.measure().efficacy == pytest.approx(np.mean(shares))
