import numpy as np
import pytest

from collabedit.attacks.metrics import auc, proportion, recall_at, tpr_at_fpr

PERFECT = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.3])
MEMBERS = np.array([True, True, True, False, False, False])


def test_chance_is_recognised_and_so_is_its_absence() -> None:
    assert proportion(20, 100, chance=0.2).is_chance
    assert not proportion(90, 100, chance=0.2).is_chance


def test_perfect_scores_give_perfect_figures() -> None:
    assert recall_at(PERFECT, MEMBERS, 3).value == 1.0
    assert auc(PERFECT, MEMBERS).value == 1.0
    assert tpr_at_fpr(PERFECT, MEMBERS, 0.01).value == 1.0
    assert auc(-PERFECT, MEMBERS).value == 0.0


def test_equal_scores_give_chance() -> None:
    flat = np.ones(6)
    assert recall_at(flat, MEMBERS, 2).value == pytest.approx(2 / 6)
    assert auc(flat, MEMBERS).value == 0.5
    assert tpr_at_fpr(flat, MEMBERS, 0.01).value == 0.0


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 8, size=40).astype(float)
    members = rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[members] for b in scores[~members]]
    assert auc(scores, members).value == pytest.approx(np.mean(pairs))


def test_tpr_threshold_lets_through_as_many_others_as_allowed() -> None:
    scores = np.array([9.0, 5.0, 3.0, *range(10)])
    members = np.array([True] * 3 + [False] * 10)
    # One other of ten may pass: the threshold is the second highest of them, 8.
    figure = tpr_at_fpr(scores, members, 0.1)
    assert figure.value == pytest.approx(1 / 3)
    assert figure.chance == 0.1


@pytest.mark.parametrize("members", [np.zeros(6, dtype=bool), np.ones(6, dtype=bool)])
def test_figures_need_members_and_others(members: np.ndarray) -> None:
    with pytest.raises(ValueError, match="members"):
        auc(PERFECT, members)
    with pytest.raises(ValueError, match="members"):
        recall_at(PERFECT, members, 2)
    with pytest.raises(ValueError, match="members"):
        tpr_at_fpr(PERFECT, members, 0.1)
