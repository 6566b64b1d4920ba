"""ε and δ of a plan's noise, against computations that share nothing with the accountant."""

import importlib
import math

import numpy as np
import pytest

from collabedit import accounting as ac
from collabedit.errors import InputError, PlanError
from tests.support.federations import build_federation

pytest.importorskip("dp_accounting")


def gaussian_delta(multiplier: float, epsilon: float) -> float:
    """Exact δ of a Gaussian mechanism (Balle and Wang 2018, arXiv 1805.06530, theorem 8)."""
    normal = pytest.importorskip("scipy.stats").norm
    half, rest = 0.5 / multiplier, epsilon * multiplier
    return float(normal.cdf(half - rest) - math.exp(epsilon + normal.logcdf(-half - rest)))


def discrete_gaussian(deviation: float, reach: int) -> np.ndarray:
    at = np.arange(-reach, reach + 1)
    weights = np.exp(-(at**2) / (2 * deviation**2))
    normalised: np.ndarray = weights / weights.sum()
    return normalised


def summed(deviation: float, parties: int, reach: int = 60) -> np.ndarray:
    """Probabilities of a sum of discrete Gaussians, by convolution."""
    one = discrete_gaussian(deviation, reach)
    total = one
    for _ in range(parties - 1):
        total = np.convolve(total, one)
    return total


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 10.0, 30.0, 100.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-9])
def test_epsilon_is_above_the_exact_gaussians_and_not_far(epsilon: float, delta: float) -> None:
    multiplier = ac.calibrate(epsilon, delta)
    assert ac.epsilon_of(0.5 / multiplier**2, delta) <= epsilon
    # The continuous Gaussian of the same multiplier: δ at our ε is smaller, at 3/4 of it larger.
    assert gaussian_delta(multiplier, epsilon) <= delta
    assert gaussian_delta(multiplier, 0.75 * epsilon) > delta
    # The bound of Bun and Steinke 2016, proposition 1.3, is weaker.
    rho = 0.5 / multiplier**2
    assert epsilon < (rho + 2 * math.sqrt(rho * math.log(1 / delta))) * 1.001


@pytest.mark.parametrize(("deviation", "parties"), [(3.0, 2), (3.0, 5), (1.5, 3)])
def test_sums_of_discrete_gaussians_are_as_private_as_accounted(
    deviation: float, parties: int
) -> None:
    pmf = summed(deviation, parties)
    for shift in (1, 2, 4):
        moved = np.concatenate([np.zeros(shift), pmf])
        still = np.concatenate([pmf, np.zeros(shift)])
        gap = ac.convolution_gap(parties, deviation)
        rho = (shift / (math.sqrt(parties) * deviation) + gap) ** 2 / 2
        for delta in (1e-2, 1e-4, 1e-6):
            epsilon = ac.epsilon_of(rho, delta)
            assert np.maximum(moved - math.exp(epsilon) * still, 0).sum() <= delta
            assert np.maximum(still - math.exp(epsilon) * moved, 0).sum() <= delta


@pytest.mark.parametrize("parties", [2, 3, 6])
def test_a_sum_is_a_discrete_gaussian_but_for_the_gap(parties: int) -> None:
    def distance(deviation: float) -> float:
        pmf = summed(deviation, parties, reach=30)
        middle = len(pmf) // 2
        wide = discrete_gaussian(math.sqrt(parties) * deviation, middle)
        within = slice(middle - 4, middle + 5)
        return float(np.abs(np.log(pmf[within] / wide[within])).max())

    assert 1e-6 < distance(0.7) <= ac.convolution_gap(parties, 0.7)
    # Already at a deviation of 2 steps nothing is left of it in float64; plans ask for 8.
    assert distance(2.0) < 1e-13
    assert ac.convolution_gap(parties, 8.0) < 1e-270


def test_a_plan_is_held_to_its_claim() -> None:
    def claim(epsilon: float, multiplier: float, layers: int = 2) -> float:
        return ac.check_claim(
            build_federation(
                4, layers=layers, epsilon=epsilon, noise_multiplier=multiplier, honest=3
            ).plan
        )

    multiplier = ac.calibrate(2.0, 1e-6)
    assert claim(2.0, multiplier) == pytest.approx(2.0, rel=1e-2)
    # However many layers: the noise of each grows with their number.
    assert claim(2.0, multiplier, layers=1) == pytest.approx(claim(2.0, multiplier, layers=4))
    with pytest.raises(PlanError, match="the plan claims 2: ask its author"):
        claim(2.0, 0.99 * multiplier)
    with pytest.raises(ValueError, match="no privacy section"):
        ac.check_claim(build_federation(3).plan)


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"pip install 'collabedit\[privacy\]'"):
        ac.calibrate(1.0, 1e-6)
