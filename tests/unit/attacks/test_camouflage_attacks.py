"""Attacks on camouflaged updates succeed where they must, on random keys, and only there."""

import numpy as np
import pytest

from collabedit.attacks.attack import Attack, Prior
from collabedit.attacks.camouflage import DictionaryRegression, PairCollinearity, edits_first
from collabedit.attacks.metrics import Members, auc, recall_at
from collabedit.attacks.span import UpdateSpan
from collabedit.attacks.views import RecipientView
from collabedit.ids import LayerIndex
from collabedit.party.editing.camouflage import Camouflage, camouflaged
from collabedit.sketch import LowRankUpdate, Matrix, dense_statistics, merge_dense
from collabedit.threat_model import Adversary
from tests.support.federations import build_federation
from tests.support.randomness import InsecureTestRandomness

SIZE, OUTPUTS, POOL, EDITS = 300, 64, 200, 20
LAYER = LayerIndex(0)
PLAN = build_federation(3, mapped=SIZE, outputs=OUTPUTS).plan
MEMBERS: Members = np.arange(POOL) < EDITS


@pytest.fixture(scope="module")
def keys() -> Matrix:
    """The first ones are edits', the next ones decoys'."""
    drawn: Matrix = np.random.default_rng(5).laplace(size=(SIZE, POOL)) / np.sqrt(2 * SIZE)
    return drawn


def merged(keys: Matrix) -> LowRankUpdate:
    residuals = np.random.default_rng(6).normal(size=(OUTPUTS, EDITS))
    statistics = dense_statistics(keys[:, :EDITS], residuals)
    return merge_dense(statistics, ridge=1.0, noise=0.0)


def published(keys: Matrix, strength: float) -> LowRankUpdate:
    """The published form: one decoy for each edit, K̃ = K + αD."""
    update, edited = merged(keys), keys[:, :EDITS]
    mixed = edited + strength * keys[:, EDITS : 2 * EDITS]
    left = update.left @ (update.right @ edited) @ np.linalg.inv(mixed.T @ edited)
    return LowRankUpdate(left, mixed.T)


def own_form(keys: Matrix, strength: float, per_direction: int) -> LowRankUpdate:
    decoys = keys[:, EDITS : EDITS * (1 + per_direction)]
    camouflage = Camouflage(strength, per_direction)
    return camouflaged(merged(keys), decoys, camouflage, InsecureTestRandomness(1))


def scores_of(attack: Attack[RecipientView], update: LowRankUpdate, keys: Matrix) -> Matrix:
    finding = attack.run(RecipientView(PLAN, {LAYER: update}), Prior({LAYER: keys}))
    assert finding.attack == attack.name
    assert finding.about == (None,)
    scores: Matrix = finding.scores[0]
    return scores


@pytest.mark.parametrize("strength", [3.0, 5.0])
def test_pairs_undo_the_published_form_that_blinds_the_span_test(
    keys: Matrix, strength: float
) -> None:
    update = published(keys, strength)
    span = scores_of(UpdateSpan(), update, keys)
    pairs = scores_of(PairCollinearity(strength=strength), update, keys)
    assert recall_at(span, MEMBERS, EDITS).value == 0.0
    assert recall_at(pairs, MEMBERS, 2 * EDITS).value == 1.0
    assert recall_at(pairs, MEMBERS, EDITS).value == 1.0


def test_at_strength_one_pairs_are_found_and_not_told_apart(keys: Matrix) -> None:
    pairs = scores_of(PairCollinearity(), published(keys, 1.0), keys)
    assert recall_at(pairs, MEMBERS, 2 * EDITS).value == 1.0
    assert 0.2 < recall_at(pairs, MEMBERS, EDITS).value < 0.8


def test_pairs_need_the_decoys_among_the_candidates(keys: Matrix) -> None:
    pool = np.r_[:EDITS, 2 * EDITS : POOL]
    found = scores_of(PairCollinearity(strength=3.0), published(keys, 3.0), keys[:, pool])
    assert recall_at(found, MEMBERS[pool], EDITS).value < 0.5


@pytest.mark.parametrize("per_direction", [1, 3])
@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_a_dictionary_explains_any_mixing(
    keys: Matrix, strength: float, per_direction: int
) -> None:
    update = own_form(keys, strength, per_direction)
    attack = DictionaryRegression(decoys=per_direction, strength=strength)
    scores = scores_of(attack, update, keys)
    mixed = EDITS * (1 + per_direction)
    assert recall_at(scores, MEMBERS, mixed).value == 1.0
    is_mixed = np.arange(POOL) < mixed
    assert auc(scores, is_mixed).value == 1.0  # nothing else is taken for either
    named = recall_at(scores, MEMBERS, EDITS).value
    assert named > 0.9 if strength > 1 else named < 0.9


def test_many_decoys_blind_the_pairs(keys: Matrix) -> None:
    update = own_form(keys, 3.0, 3)
    pairs = scores_of(PairCollinearity(decoys=3, strength=3.0), update, keys)
    assert recall_at(pairs, MEMBERS, EDITS).value < 0.5


def test_without_camouflage_both_find_what_the_span_test_finds(keys: Matrix) -> None:
    for attack in (PairCollinearity(strength=0.0), DictionaryRegression(strength=0.0)):
        assert attack.adversary is Adversary.RECIPIENT
        scores = scores_of(attack, merged(keys), keys)
        assert recall_at(scores, MEMBERS, EDITS).value == 1.0


def test_a_large_ridge_is_the_span_test(keys: Matrix) -> None:
    update = own_form(keys, 1.0, 1)
    attack = DictionaryRegression(ridge=1e9)
    np.testing.assert_array_equal(
        np.argsort(scores_of(attack, update, keys)),
        np.argsort(scores_of(UpdateSpan(), update, keys)),
    )


def test_candidates_without_a_key_score_lowest(keys: Matrix) -> None:
    with_none = np.concatenate([keys, np.zeros((SIZE, 1))], axis=1)
    scores = scores_of(DictionaryRegression(), own_form(keys, 1.0, 1), with_none)
    assert scores.argmin() == POOL


def test_the_shorter_or_the_longer_part_comes_first() -> None:
    scores, shares = np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([0.9, 0.3, 0.8, 0.2, 0.0])

    def order(strength: float) -> list[int]:
        parted = edits_first(scores, shares, rank=2, decoys=1, strength=strength)
        return [int(place) for place in np.argsort(-parted)]

    assert order(3.0) == [1, 3, 0, 2, 4]
    assert order(0.5) == [0, 2, 1, 3, 4]
    assert order(1.0) == [0, 1, 2, 3, 4]
