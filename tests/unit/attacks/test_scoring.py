"""Figures of claims: exact where the truth is known, at chance where scores know nothing."""

import math

import numpy as np
import pytest

from collabedit.attacks.attack import Finding
from collabedit.attacks.claims import (
    Attempt,
    Attempts,
    Estimates,
    Names,
    Rankings,
    Recovery,
)
from collabedit.attacks.scoring import Score, pool, score
from collabedit.attacks.truth import Fact, Truth
from collabedit.ids import PartyId

ONE, TWO = PartyId(1), PartyId(2)
FACTS = {
    0: Fact("Ada", "{} lives in", "Rome", "Paris"),
    3: Fact("Bob", "{} eats", "figs"),
    5: Fact("Eva", "{} sings", "alto"),
}
TRUTH = Truth(
    candidates=200,
    members={ONE: (0, 3), TWO: (5,)},
    facts=FACTS,
    vectors={"keys": np.eye(64)[:, :3]},
    quantities={"edits of party-1": 2, "edits of party-2": 1},
)


def by_name(scores: tuple[Score, ...]) -> dict[str, Score]:
    return {each.name: each for each in scores}


def test_perfect_scores_find_everything() -> None:
    scores = TRUTH.edited.astype(np.float64)[None]
    found = by_name(score(Finding("a", (None,), scores), TRUTH))
    assert {name: each.value for name, each in found.items()} == {
        "auc": 1.0,
        "recall@n": 1.0,
        "recall@2n": 1.0,
        "tpr@1%": 1.0,
        "tpr@0.1%": 1.0,
        "anonymity": 1.0,
    }
    assert (found["recall@n"].trials, found["recall@n"].chance) == (3, 3 / 200)


def test_blind_scores_are_at_chance() -> None:
    rng = np.random.default_rng(3)
    truth = Truth(candidates=4000, members={ONE: tuple(range(400))})
    draws = [
        by_name(score(Finding("a", (None,), rng.normal(size=(1, 4000))), truth)) for _ in range(8)
    ]
    for name in draws[0]:
        pooled = pool([draw[name] for draw in draws])
        assert pooled.chance is not None
        assert pooled.low <= pooled.chance <= pooled.high, name


def test_attribution_counts_the_best_row_and_shares_ties() -> None:
    rows = np.zeros((2, 200))
    rows[0, [0, 5]] = 1.0  # right for 0, wrong for 5, and no opinion on 3
    found = by_name(score(Finding("a", (ONE, TWO), rows), TRUTH))["attribution"]
    assert found.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert (found.chance, found.trials) == (0.5, 3)


def test_rankings_count_members_that_the_attack_leaves_out() -> None:
    claim = Rankings("a", "object", {0: ("rome ", "Oslo"), 3: ("nuts", "figs"), 9: ("x",)}, 10)
    found = by_name(score(claim, TRUTH))
    assert [found[f"top-{top}"].value for top in (1, 5, 20)] == [1 / 3, 2 / 3, 2 / 3]
    assert [found[f"top-{top}"].chance for top in (1, 5, 20)] == [0.1, 0.5, 1.0]
    triple = Rankings("a", "triple", {3: ("Bob | {} eats | Figs",)})
    assert by_name(score(triple, TRUTH))["top-1"].value == pytest.approx(1 / 3)


def test_names_are_compared_without_case_and_spaces() -> None:
    found = by_name(score(Names("a", ("ada", " EVA", "eva", "Tim")), TRUTH))
    assert (found["found"].value, found["precision"].value) == (2 / 3, 2 / 3)


def test_recovered_vectors_match_up_to_order_sign_and_length() -> None:
    rng = np.random.default_rng(1)
    vectors = np.stack([-7 * np.eye(64)[:, 2], np.eye(64)[:, 0], rng.normal(size=64)], axis=1)
    found = by_name(score(Recovery("a", "keys", vectors), TRUTH))
    assert found["found"].value == pytest.approx(2 / 3)
    assert found["cosine"].value == 1.0
    nothing = by_name(score(Recovery("a", "keys", np.zeros((64, 0))), TRUTH))
    assert nothing["cosine"].value == 0


def test_the_chance_level_of_a_cosine_is_that_of_random_vectors() -> None:
    rng = np.random.default_rng(2)
    truth = Truth(candidates=1, members={}, vectors={"keys": rng.normal(size=(1000, 200))})
    claim = Recovery("a", "keys", rng.normal(size=(1000, 200)))
    found = by_name(score(claim, truth))["cosine"]
    assert found.chance is not None
    assert found.value == pytest.approx(found.chance, rel=0.2)


def test_estimates_and_attempts_are_shares() -> None:
    estimates = Estimates("a", {"edits of party-1": 2.2, "edits of party-2": 3, "other": 1}, 10)
    (exact,) = score(estimates, TRUTH)
    assert (exact.value, exact.chance, exact.trials) == (0.5, 0.1, 2)
    tries = Attempts("a", (Attempt("x", succeeded=True, outcome="in"),) * 1)
    (success,) = score(tries, TRUTH)
    assert (success.value, success.trials) == (1.0, 1)


@pytest.mark.parametrize(
    "claim",
    [
        Rankings("a", "object", {0: ("x",)}),
        Names("a", ("x",)),
        Recovery("a", "keys", np.zeros((64, 1))),
        Estimates("a", {"edits of party-1": 1.0}, 2),
        Finding("a", (None,), np.zeros((1, 200))),
    ],
)
def test_a_truth_that_does_not_have_it_is_an_error(claim: object) -> None:
    empty = Truth(candidates=200, members={ONE: ()})
    with pytest.raises(ValueError, match=r"truth|nobody"):
        score(claim, empty)  # type: ignore[arg-type]


def test_pooled_shares_add_counts_and_pooled_areas_shrink() -> None:
    first = Score("recall@n", 0.5, 0.1, 0.1, 0.9, "clopper-pearson", 10)
    second = Score("recall@n", 1.0, 0.2, 0.6, 1.0, "clopper-pearson", 30)
    both = pool([first, second])
    assert (both.value, both.trials) == (35 / 40, 40)
    assert both.chance == pytest.approx((0.1 * 10 + 0.2 * 30) / 40)
    area = Score("auc", 0.6, 0.5, 0.5, 0.7, "hanley-mcneil")
    four = pool([area] * 4)
    assert four.high - four.value == pytest.approx(0.05)
    assert math.isclose(four.value, 0.6)
    with pytest.raises(ValueError, match="different names"):
        pool([first, area])
