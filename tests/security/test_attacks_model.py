"""Membership on a real transformers model: keys from prompts, statistics from the real editor.

The adversary guesses keys from a generic prompt, not from the parties' own.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.attacks.attack import Prior
from collabedit.attacks.metrics import auc, recall_at, tpr_at_fpr
from collabedit.attacks.prior import GENERIC_PROMPT, model_prior
from collabedit.attacks.span import SumSpan, UpdateSpan, UploadSpan
from collabedit.attacks.views import AggregatorView, RecipientView
from collabedit.exchange import contribution_vector, plan_encoding
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.editor import ModelEditor, key_maps, target_settings
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.targets import compute_targets
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from collabedit.simulation import Outcome
from collabedit.sketch import Matrix
from tests.support.federations import EDITS_EACH, TestFederation, build_federation
from tests.support.tiny_models import D_IN, D_MODEL, VOCABULARY, build_tiny_model

FIRST = TaskIndex(0)
LAYER = 1
PARTIES = 3
POOL = 200
PROMPTS = ("{} plays the", "The capital of {} is", "Who was born in {}?")


def subjects() -> list[str]:
    """Made-up names, all different."""
    digests = [hashlib.sha256(f"name {number}".encode()).hexdigest() for number in range(POOL)]
    return [f"{d[:4].title()} {d[4:9].title()}" for d in digests]


def edits_of(party: int) -> tuple[Edit, ...]:
    start = (party - 1) * EDITS_EACH
    return tuple(
        Edit(case_id=str(number), prompt=PROMPTS[number % 3], subject=name, target_new="piano")
        for number, name in enumerate(subjects()[start : start + EDITS_EACH], start)
    )


class Attacked:
    """One session of real editors, and what its adversaries know."""

    def __init__(self, directory: Path) -> None:
        model: EditableModel = load_model(
            build_tiny_model("llama", directory / "model"), dtype="float64"
        )
        synthetic = build_federation(PARTIES)
        values = synthetic.plan.model_dump()
        values["editing"]["layers"] = (
            {"index": LAYER, "inputs": D_IN, "outputs": D_MODEL, "mapped": D_IN},
        )
        values["editing"]["context_templates"] = ("{}", "It is so. {}")
        values["editing"]["covariance_weight"] = 1.0
        self.plan = Plan.model_validate(values)
        generator = torch.Generator().manual_seed(5)
        windows = torch.randint(2, VOCABULARY, (64, 32), generator=generator)
        covariance = second_moments(model, windows, [LAYER], provenance={})
        maps = key_maps(self.plan, covariance)
        templates = self.plan.editing.context_templates
        self.vectors: dict[PartyId, Matrix] = {}
        for party in self.plan.party_ids:
            edits = edits_of(party)
            targets = compute_targets(
                model,
                edits,
                layer=LAYER,
                templates=templates,
                settings=target_settings(self.plan.editing),
            )
            editor = ModelEditor(self.plan, model, edits, targets, maps)
            statistics = editor.statistics(self.plan.tasks[FIRST])
            self.vectors[party] = contribution_vector(self.plan, FIRST, statistics)
        federation = TestFederation(self.plan, synthetic.identities, {})
        simulation = federation.simulation(directory / "spool")
        self.outcome: Outcome = simulation.run(lambda party, _task: self.vectors[party])
        # Once with a generic prompt, and once for each prompt that is in use at all.
        self.priors: dict[str, Prior] = {
            prompt: model_prior(model, subjects(), templates=templates, maps=maps, prompt=prompt)
            for prompt in (GENERIC_PROMPT, *PROMPTS)
        }
        self.owners = np.zeros(POOL, dtype=int)
        self.owners[: PARTIES * EDITS_EACH] = np.repeat(self.plan.party_ids, EDITS_EACH)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is too small to share out
    try:
        return Attacked(tmp_path_factory.mktemp("attacked"))
    finally:
        torch.set_num_threads(threads)


def sum_scores(attacked: Attacked, prompt: str) -> Matrix:
    view = AggregatorView.of(attacked.plan, attacked.outcome)
    scores: Matrix = SumSpan().run(view, attacked.priors[prompt]).scores[0]
    return scores


def update_scores(attacked: Attacked, prompt: str) -> Matrix:
    view = RecipientView.of(attacked.plan, attacked.outcome)
    scores: Matrix = UpdateSpan().run(view, attacked.priors[prompt]).scores[0]
    return scores


def test_generic_keys_are_not_the_edited_ones(attacked: Attacked) -> None:
    # Else the tests below would show algebra and no attack.
    assert sum_scores(attacked, GENERIC_PROMPT)[attacked.owners > 0].max() < 1 - 1e-6


@pytest.mark.parametrize("scores_of", [sum_scores, update_scores])
def test_sum_and_update_of_a_real_model_tell_the_subjects(
    attacked: Attacked, scores_of: Callable[[Attacked, str], Matrix]
) -> None:
    # Keys of random weights depend on the prompt far more than those of a trained model, so the
    # generic prompt does worse here than in the literature; whoever tries the prompts in use finds
    # everything.
    members = attacked.owners > 0
    generic = auc(scores_of(attacked, GENERIC_PROMPT), members)
    assert generic.value > 0.7
    assert not generic.is_chance
    best = np.max([scores_of(attacked, prompt) for prompt in PROMPTS], axis=0)
    assert auc(best, members).value > 0.999
    assert recall_at(best, members, int(members.sum())).value == 1.0
    assert tpr_at_fpr(best, members, 0.01).value == 1.0


def test_uploads_of_a_real_model_tell_nothing_masked_and_everything_unmasked(
    attacked: Attacked,
) -> None:
    view = AggregatorView.of(attacked.plan, attacked.outcome)
    encoding = plan_encoding(attacked.plan)
    plain = {party: encoding.encode(vector) for party, vector in attacked.vectors.items()}
    unmasked = view.with_uploads({FIRST: plain})
    masked = np.max([UploadSpan().run(view, attacked.priors[p]).scores for p in PROMPTS], axis=0)
    naked = np.max([UploadSpan().run(unmasked, attacked.priors[p]).scores for p in PROMPTS], axis=0)
    for row, party in enumerate(attacked.plan.party_ids):
        members = attacked.owners == party
        assert auc(naked[row], members).value > 0.99
        assert auc(masked[row], members).is_chance
