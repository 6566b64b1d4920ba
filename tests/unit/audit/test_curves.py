"""ROC curves at fixed rates: known by hand, and in agreement with the area under them."""

import numpy as np
import pytest

from collabedit.attacks.metrics import auc
from collabedit.audit.curves import RATES, roc

MEMBERS = np.array([True, True, False, False])


def test_perfect_and_inverted_scores_go_along_the_edges() -> None:
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    assert roc(scores, MEMBERS, (0.0, 0.5, 1.0)).tolist() == [1.0, 1.0, 1.0]
    assert roc(-scores, MEMBERS, (0.0, 0.5, 0.99, 1.0)).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_ties_are_guessed_among() -> None:
    assert roc(np.zeros(4), MEMBERS, (0.0, 0.25, 0.5, 1.0)).tolist() == [0.0, 0.25, 0.5, 1.0]


def test_the_area_under_the_curve_is_the_probability_of_a_right_order() -> None:
    rng = np.random.default_rng(5)
    members = rng.random(400) < 0.3
    scores = np.round(rng.normal(size=400) + members, 1)
    rates = np.linspace(0, 1, 20_001)
    area = np.trapezoid(roc(scores, members, rates.tolist()), rates)
    assert area == pytest.approx(auc(scores, members).value, abs=1e-3)


def test_the_grid_is_ascending_and_has_what_metrics_are_read_at() -> None:
    assert list(RATES) == sorted(set(RATES))
    assert {0.0, 0.001, 0.01, 1.0} <= set(RATES)
