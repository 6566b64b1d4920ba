import math

import numpy as np
import pytest

from collabedit.intervals import clopper_pearson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Published examples: R's binom.test, and the rule of three's exact form 1 - 0.025^(1/n).
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (1, 10, 0.002528579, 0.445016117),
        (682, 925, 0.7076683, 0.7654066),
    ],
)
def test_clopper_pearson_equals_published_intervals(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert clopper_pearson(successes, trials) == pytest.approx((low, high), abs=1e-7)


def test_clopper_pearson_covers_at_least_as_often_as_it_says() -> None:
    trials = 25
    intervals = [clopper_pearson(successes, trials) for successes in range(trials + 1)]
    for truth in np.linspace(0.02, 0.98, 25):
        covered = sum(
            math.comb(trials, s) * truth**s * (1 - truth) ** (trials - s)
            for s, (low, high) in enumerate(intervals)
            if low <= truth <= high
        )
        assert covered >= 0.95


def test_clopper_pearson_refuses_impossible_counts() -> None:
    for successes, trials in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="successes"):
            clopper_pearson(successes, trials)
