"""ε from pairs of which a random order edited one: below the truth, and not far below it."""

import math

import numpy as np
import pytest

from collabedit.attacks.attack import Finding
from collabedit.attacks.canaries import refuted
from collabedit.attacks.pairs import SHARES, Guesses, Pair, bound_of, guess, together
from collabedit.ids import PartyId
from tests.unit.attacks.test_canaries import MOST_WRONG, REPEATS, gaussian_epsilon

ONE, TWO = PartyId(1), PartyId(2)
ERROR = 0.05 / len(SHARES)


def session(pool: int, edits: int, rng: np.random.Generator) -> tuple[Pair, ...]:
    """Exactly `edits` of a pool, by a random order, as an audit draws them."""
    order = rng.permutation(pool)
    return tuple(
        Pair(int(member), int(other), ONE)
        for member, other in zip(order[:edits], order[edits:], strict=False)
    )


def answered(pairs: tuple[Pair, ...], truth: float, rng: np.random.Generator) -> Finding:
    """Score a pool by randomized response about each pair.

    Whoever answers rightly with probability e^ε/(1 + e^ε) is ε-private in the coin.
    """
    scores = np.zeros(2 * len(pairs) + 40)
    for pair in pairs:
        right = rng.random() < 1 / (1 + math.exp(-truth))
        scores[pair.member if right else pair.other] = 1 + rng.random()
    return Finding("a", (None,), scores[None])


@pytest.mark.parametrize("truth", [0.0, 0.5, 2.0, 4.0])
def test_randomized_response_is_bounded_from_below(truth: float) -> None:
    rng = np.random.default_rng(round(10 * truth))
    found = []
    for _ in range(REPEATS):
        draws = []
        for _ in range(3):
            pairs = session(120, 60, rng)
            guesses = guess(answered(pairs, truth, rng), pairs)
            assert guesses is not None
            draws.append(guesses)
        found.append(bound_of(together(draws)).epsilon)
    assert sum(each > truth for each in found) <= MOST_WRONG
    if truth >= 2:
        assert np.median(found) > 0.6 * truth


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_a_gaussian_histogram_of_the_pool_is_bounded_from_below(sigma: float) -> None:
    """Who is in, one number each, under noise: to replace an edit moves two numbers by 1."""
    delta = 1e-5
    truth = gaussian_epsilon(sigma / math.sqrt(2), delta)
    rng = np.random.default_rng(round(10 * sigma))
    found = []
    for _ in range(REPEATS):
        pairs = session(100, 40, rng)
        scores = sigma * rng.normal(size=100)
        scores[[pair.member for pair in pairs]] += 1
        guesses = guess(Finding("a", (None,), scores[None]), pairs)
        assert guesses is not None
        found.append(bound_of(guesses, delta=delta).epsilon)
    assert sum(each > truth for each in found) <= MOST_WRONG
    assert (np.median(found) > 0.5) == (sigma < 1)


def test_which_of_a_pair_was_edited_is_a_coin_whatever_was_drawn_besides() -> None:
    """Sizes are fixed, so members are not independent; which of each pair it is, is."""
    rng, first = np.random.default_rng(0), []
    for _ in range(4000):
        pairs = session(10, 3, rng)
        first.append([pair.member < pair.other for pair in pairs])
    coins = np.array(first, dtype=np.float64)
    assert np.abs(coins.mean(axis=0) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef(coins.T) - np.eye(3)).max() < 0.06


def test_the_bound_of_certain_guesses_is_that_of_the_theorem() -> None:
    pairs = tuple(Pair(number, number + 50, ONE) for number in range(30))
    scores = np.zeros((1, 100))
    scores[0, :30] = 1.0
    guesses = guess(Finding("a", (None,), scores), pairs)
    assert guesses == Guesses(30, (30, 15, 8, 4), (30, 15, 8, 4))
    found = bound_of(guesses)
    q = ERROR ** (1 / 30)
    assert found.epsilon == pytest.approx(math.log(q / (1 - q)))
    assert found.epsilon == refuted(30, 30, 30, delta=0.0, error=ERROR)
    assert (found.method, found.canaries, found.guesses, found.right) == (
        *("one-run-pairs", 30, 30, 30),
    )
    assert bound_of(guesses, delta=1e-3).epsilon < found.epsilon
    assert bound_of(together([guesses, guesses])).epsilon > found.epsilon


def test_the_surest_pairs_are_guessed_about_and_wrong_ones_do_not_help() -> None:
    pairs = tuple(Pair(number, number + 100, ONE) for number in range(80))
    scores = np.zeros((1, 200))
    scores[0, :20] = 5.0  # sure, and right
    scores[0, 120:180] = np.where(np.arange(60) % 2, 1.0, -1.0)  # no better than a coin
    guesses = guess(Finding("a", (None,), scores), pairs)
    assert guesses is not None
    assert guesses.right[2] == guesses.made[2] == 20
    found = bound_of(guesses)
    assert (found.guesses, found.right) == (20, 20)
    backwards = guess(Finding("a", (None,), -scores), pairs)
    assert backwards is not None
    assert bound_of(backwards).epsilon == 0.0


def test_ties_go_to_the_lower_number_whoever_is_the_member() -> None:
    pairs = (Pair(1, 2, ONE), Pair(4, 3, ONE), Pair(5, 6, ONE), Pair(8, 7, ONE))
    guesses = guess(Finding("a", (None,), np.zeros((1, 9))), pairs)
    assert guesses is not None
    assert (guesses.made[0], guesses.right[0]) == (4, 2)


def test_rows_about_parties_are_asked_about_their_own_pairs() -> None:
    pairs = (Pair(0, 1, ONE), Pair(2, 3, TWO))
    scores = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    right = guess(Finding("a", (ONE, TWO), scores), pairs)
    wrong = guess(Finding("a", (TWO, ONE), scores), pairs)
    assert right is not None
    assert wrong is not None
    assert (right.right[0], wrong.right[0]) == (2, 0)
    alone = guess(Finding("a", (TWO,), scores[1:]), pairs)
    assert alone is not None
    assert (alone.pairs, alone.right[0]) == (1, 1)
    # Of rows about nobody the best counts; a pair about whose party there is none is left out.
    best = guess(Finding("a", (None, None), scores), pairs)
    assert best is not None
    assert best.pairs == 2
    assert guess(Finding("a", (PartyId(3),), scores[:1]), pairs) is None
    assert guess(Finding("a", (None,), scores[:1]), ()) is None


@pytest.mark.parametrize("wrong", [{"delta": 1.0}, {"delta": -0.1}, {"confidence": 1.0}])
def test_numbers_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a bound needs"):
        bound_of(Guesses(1, (1, 1, 1, 1), (1, 1, 1, 1)), **wrong)
    with pytest.raises(ValueError, match="a bound needs"):
        bound_of(Guesses(0, (), ()))
