"""Each figure by hand on made-up outcomes, and each interval against its definition."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from collabedit.intervals import clopper_pearson
from collabedit.party.editing.measures import (
    FIGURES,
    EditOutcome,
    averages,
    bootstrap_mean,
    figures,
)


def outcome(
    case_id: str = "a",
    *,
    efficacy: bool | None = True,
    paraphrase: tuple[bool, ...] = (),
    neighborhood: tuple[bool, ...] = (),
    generated: bool = False,
    magnitude: float | None = None,
    paraphrase_magnitudes: tuple[float, ...] = (),
    neighborhood_magnitudes: tuple[float, ...] = (),
    tokens_right: float | None = None,
    paraphrase_tokens_right: tuple[float, ...] = (),
    neighborhood_tokens_right: tuple[float, ...] = (),
    entropy: float | None = None,
) -> EditOutcome:
    return EditOutcome(
        case_id,
        efficacy,
        paraphrase,
        neighborhood,
        generated,
        magnitude,
        paraphrase_magnitudes,
        neighborhood_magnitudes,
        tokens_right,
        paraphrase_tokens_right,
        neighborhood_tokens_right,
        entropy,
    )


TWO = (
    outcome(
        "a",
        paraphrase=(True, False),
        neighborhood=(True, True, False, False),
        generated=True,
        magnitude=0.5,
        paraphrase_magnitudes=(0.25, -0.75),
        neighborhood_magnitudes=(0.5, 0.5, -0.25, -0.25),
        tokens_right=1.0,
        paraphrase_tokens_right=(1.0, 0.5),
        neighborhood_tokens_right=(0.0, 0.5),
        entropy=6.0,
    ),
    outcome(
        "b",
        efficacy=False,
        paraphrase=(True, True),
        neighborhood=(True,),
        magnitude=-0.25,
        paraphrase_magnitudes=(0.5, 0.5),
        neighborhood_magnitudes=(0.75,),
        tokens_right=0.5,
        paraphrase_tokens_right=(0.25, 0.5),
        neighborhood_tokens_right=(1.0,),
        entropy=5.0,
    ),
)


def test_every_figure_by_hand() -> None:
    assert averages(TWO) == pytest.approx(
        {
            "efficacy": 50.0,
            "paraphrase": 75.0,  # 1/2 and 1
            "neighborhood": 75.0,  # 2/4 and 1
            "efficacy_magnitude": 0.125,
            "paraphrase_magnitude": 0.125,  # -1/4 and 1/2
            "neighborhood_magnitude": 0.4375,  # 1/8 and 3/4
            "efficacy_accuracy": 50.0,
            "paraphrase_accuracy": 25.0,  # 1 of 2 and 0 of 2
            "neighborhood_accuracy": 50.0,  # 0 of 2 and 1 of 1
            "generation_accuracy": 50.0,
            "zsre_efficacy": 75.0,
            "zsre_paraphrase": 56.25,  # 3/4 and 3/8
            "zsre_neighborhood": 62.5,  # 1/4 and 1
            "fluency": 550.0,
            "score": 3 / (1 / 50 + 1 / 75 + 1 / 75),
            "zsre_harmonic_mean": 3 / (1 / 75 + 1 / 56.25 + 1 / 62.5),
        }
    )


def test_figures_have_stable_names_and_fit_json() -> None:
    found = figures(TWO)
    assert tuple(found) == FIGURES
    assert json.loads(json.dumps({name: figure.value for name, figure in found.items()})) == (
        averages(TWO)
    )


def test_what_nothing_measures_is_none() -> None:
    found = figures((outcome(efficacy=None),))
    assert found["generation_accuracy"].value == 0.0
    for name in FIGURES:
        if name != "generation_accuracy":
            assert (found[name].value, found[name].interval) == (None, None)
    assert set(averages(())) == set(FIGURES)
    assert set(averages(()).values()) == {None}


def test_a_yes_or_no_per_edit_has_the_exact_interval() -> None:
    outcomes = [outcome(efficacy=number < 7, generated=number < 2) for number in range(10)]
    found = figures(outcomes)
    for name, yes in (("efficacy", 7), ("generation_accuracy", 2)):
        exact = stats.binomtest(yes, 10).proportion_ci(method="exact")
        assert found[name].interval == pytest.approx((100 * exact.low, 100 * exact.high))


def test_an_average_per_edit_has_a_bootstrap_interval() -> None:
    rng = np.random.default_rng(5)
    values = rng.beta(2, 2, size=200)
    low, high = bootstrap_mean(values)
    reach = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx(
        (values.mean() - reach, values.mean() + reach), abs=reach / 10
    )
    assert bootstrap_mean(values) == (low, high)
    assert bootstrap_mean(values, confidence=0.99) < (low, high)
    found = figures([outcome(tokens_right=float(value)) for value in values])["zsre_efficacy"]
    assert found.interval == pytest.approx((100 * low, 100 * high))


def test_a_bootstrap_of_many_values_is_drawn_in_blocks() -> None:
    values = np.arange(5_000, dtype=np.float64)
    low, high = bootstrap_mean(values)
    reach = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx(
        (values.mean() - reach, values.mean() + reach), abs=reach / 10
    )


def test_agreement_is_no_certainty() -> None:
    # All edits alike: a bootstrap alone would give an interval of one point.
    found = figures([outcome(paraphrase=(True, True), tokens_right=0.5)] * 20)
    low, high = clopper_pearson(20, 20)
    assert found["paraphrase"].interval == pytest.approx((100 * low, 100 * high))
    low, high = clopper_pearson(10, 20)
    assert found["zsre_efficacy"].interval == pytest.approx((100 * low, 100 * high))


def test_one_value_has_no_interval_unless_it_is_a_share() -> None:
    found = figures((outcome(magnitude=0.5, entropy=6.0, tokens_right=1.0),))
    assert found["efficacy_magnitude"].interval is None
    assert found["fluency"].interval is None
    assert found["zsre_efficacy"].interval == pytest.approx((2.5, 100.0))


def test_a_harmonic_mean_is_between_those_of_stricter_ends() -> None:
    outcomes = [
        outcome(efficacy=number < 18, paraphrase=(number < 15,), neighborhood=(number < 12,))
        for number in range(20)
    ]
    ends = [clopper_pearson(yes, 20, confidence=1 - 0.05 / 3) for yes in (18, 15, 12)]
    expected = tuple(100 * 3 / sum(1 / end[side] for end in ends) for side in (0, 1))
    found = figures(outcomes)["score"]
    assert found.interval == pytest.approx(expected)
    assert found.value == pytest.approx(300 / (1 / 0.9 + 1 / 0.75 + 1 / 0.6))
    # One at zero makes the mean zero, whatever the others are.
    zero = figures([outcome(efficacy=False, paraphrase=(True,))] * 5)["score"]
    assert zero.value == 0.0
    assert zero.interval is not None
    assert zero.interval[0] == 0.0
