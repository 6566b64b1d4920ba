"""Bounds of ε by canaries: below the truth, not far below it, and nothing where nothing leaks."""

import math

import numpy as np
import pytest

from collabedit.attacks.attack import Finding
from collabedit.attacks.canaries import bounds_of, by_rates, one_run, refuted
from collabedit.attacks.metrics import Members
from collabedit.intervals import clopper_pearson
from collabedit.sketch import Matrix

REPEATS = 40
MOST_WRONG = 6
"""Of 40 repetitions: more than 6 have a probability below 0.4 % where each is wrong with 5 %."""


def flip(count: int, rng: np.random.Generator) -> Members:
    coins: Members = rng.random(count) < 0.5
    return coins


def randomized_response(coins: Members, epsilon: float, rng: np.random.Generator) -> Matrix:
    """Scores of the mechanism that an (ε, 0)-DP one can be no worse than."""
    said = np.where(rng.random(len(coins)) < 1 / (1 + math.exp(-epsilon)), coins, ~coins)
    scores: Matrix = said.astype(np.float64) + 1e-6 * rng.random(len(coins))
    return scores


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """ε of the Gaussian mechanism of sensitivity 1, exactly (Balle and Wang 2018, theorem 8)."""

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    def leaked(epsilon: float) -> float:
        first = phi(1 / (2 * sigma) - epsilon * sigma)
        return first - math.exp(epsilon) * phi(-1 / (2 * sigma) - epsilon * sigma)

    low, high = 0.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if leaked(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize("bound", [one_run, by_rates])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 4.0])
def test_randomized_response_is_bounded_from_below(bound: object, epsilon: float) -> None:
    rng = np.random.default_rng(round(10 * epsilon))
    found = []
    for _ in range(REPEATS):
        coins = flip(400, rng)
        scores = randomized_response(coins, epsilon, rng)
        found.append(bound(scores, coins).epsilon)  # type: ignore[operator]
    assert sum(each > epsilon for each in found) <= MOST_WRONG
    if epsilon >= 2:
        assert np.median(found) > 0.6 * epsilon


@pytest.mark.parametrize("bound", [one_run, by_rates])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 8.0])
def test_the_gaussian_mechanism_is_bounded_from_below(bound: object, sigma: float) -> None:
    delta = 1e-5
    truth = gaussian_epsilon(sigma, delta)
    rng = np.random.default_rng(round(10 * sigma))
    found = []
    for _ in range(REPEATS):
        coins = flip(500, rng)
        scores = coins + sigma * rng.normal(size=500)
        found.append(bound(scores, coins, delta=delta).epsilon)  # type: ignore[operator]
    assert sum(each > truth for each in found) <= MOST_WRONG
    if sigma < 0.5:
        assert np.median(found) > 1.5


def test_the_exact_epsilon_of_a_gaussian_is_the_known_one() -> None:
    # Balle and Wang 2018: σ = 1 gives δ(ε = 1) = 0.12693 (by numerical integration, four digits).
    points = np.linspace(-12, 13, 400_001)
    density = np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi)
    shifted = np.exp(-((points - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
    over = np.maximum(shifted - math.e * density, 0)
    delta = float((over[1:] + over[:-1]).sum() / 2 * (points[1] - points[0]))
    assert gaussian_epsilon(1.0, delta) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("bound", [one_run, by_rates])
def test_perfect_scores_give_all_that_so_many_canaries_can(bound: object) -> None:
    rng = np.random.default_rng(0)
    coins = flip(200, rng)
    scores = coins + 0.1 * rng.random(200)
    found = bound(scores, coins)  # type: ignore[operator]
    assert found.epsilon > 2.5
    # A promise that may fail with probability 1/2 is harder to refute.
    assert bound(scores, coins, delta=0.5).epsilon < found.epsilon  # type: ignore[operator]


def test_more_canaries_bound_a_full_leak_further() -> None:
    found = []
    for count in (30, 100, 1000):
        coins = flip(count, np.random.default_rng(count))
        found.append(one_run(coins.astype(np.float64), coins).epsilon)
    assert 1 < found[0] < found[1] < found[2]


def test_the_bound_is_that_of_the_paper() -> None:
    # Of 100 guesses all right: q¹⁰⁰ = 5 %, so ε = ln(q/(1 - q)).
    q = 0.05 ** (1 / 100)
    assert refuted(100, 100, 100, delta=0.0, error=0.05) == pytest.approx(math.log(q / (1 - q)))
    # δ costs: 2mδ·max (f(v - i) - f(v))/i on top of the p-value.
    assert refuted(100, 100, 100, delta=1e-3, error=0.05) < math.log(q / (1 - q))
    assert refuted(100, 100, 50, delta=0.0, error=0.05) == 0.0
    assert refuted(100, 0, 0, delta=0.0, error=0.05) == 0.0


def test_the_binomial_tail_is_the_intervals() -> None:
    """The same tail by another way: Clopper and Pearson's lower end is where it is 2.5 %."""
    low, _ = clopper_pearson(80, 100)
    assert refuted(100, 100, 80, delta=0.0, error=0.025) == pytest.approx(
        math.log(low / (1 - low)), abs=1e-9
    )


def test_only_canaries_count_and_only_the_first_row() -> None:
    rng = np.random.default_rng(5)
    coins = flip(100, rng)
    # Behind the canaries are candidates that nobody flipped a coin for.
    scores = np.concatenate([coins + 0.1 * rng.random(100), 5 + rng.random(400)])
    included = np.concatenate([coins, np.zeros(400, dtype=np.bool_)])
    finding = Finding("a", (None,), scores[None])
    for found in bounds_of(finding, included, canaries=range(100), delta=1e-6):
        assert found.epsilon > 1.5
        assert (found.canaries, found.delta, found.confidence) == (100, 1e-6, 0.95)
        assert found.right <= found.guesses
    blind = bounds_of(finding, included, delta=1e-6)
    assert {each.method for each in blind} == {"one-run", "clopper-pearson"}


@pytest.mark.parametrize(
    "wrong", [{"canaries": []}, {"delta": 1.0}, {"delta": -1.0}, {"confidence": 1.0}]
)
def test_numbers_that_are_none_are_refused(wrong: dict[str, object]) -> None:
    finding = Finding("a", (None,), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="a bound needs"):
        bounds_of(finding, np.ones(4, dtype=np.bool_), **wrong)  # type: ignore[arg-type]
