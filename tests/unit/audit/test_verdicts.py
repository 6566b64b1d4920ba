"""Severities by rule, verdicts that quote rows, and bounds."""

import pytest

from collabedit.audit.defences import DEFENCES
from collabedit.audit.results import AttackCard, Epsilon, Metric, Row, Severity
from collabedit.audit.schema import SeveritySettings
from collabedit.audit.verdicts import missed_limits, severity, verdicts
from collabedit.threat_model import Adversary

SETTINGS = SeveritySettings()
CARDS = [card.card for card in DEFENCES.values()]


def metric(
    value: float, low: float, high: float, *, chance: float | None = 0.5, name: str = "auc"
) -> Metric:
    return Metric(name=name, value=value, chance=chance, low=low, high=high, method="hanley-mcneil")


LEAK, CHANCE = metric(0.9, 0.8, 1.0), metric(0.5, 0.4, 0.6)


def row(attack: str, defence: str, *metrics: Metric) -> Row:
    return Row(
        attack=attack,
        defence=defence,
        parties=3,
        edits=30,
        saturation=0.05,
        prior="exact",
        draws=2,
        metrics=metrics,
        severity=severity(metrics, SETTINGS),
    )


def card(name: str, adversary: Adversary = Adversary.HONEST_AGGREGATOR) -> AttackCard:
    return AttackCard(
        name=name,
        asks="?",
        adversary=adversary.value,
        source="s",
        departs="d",
        headline="auc",
        package="p",
    )


ATTACKS = [card("a"), card("b"), card("r", Adversary.RECIPIENT)]


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        (LEAK, "leaks"),
        (metric(0.51, 0.501, 0.52), "leaks"),
        (CHANCE, "chance"),
        (metric(0.5, 0.3, 0.7), "unclear"),
        (metric(0.3, 0.2, 0.4), "unclear"),
        (metric(0.3, 0.2, 0.4, name="cosine"), "chance"),
        (metric(0.0, 0.0, 0.3, chance=None, name="success"), "refused"),
        (metric(0.1, 0.0, 0.4, chance=None, name="success"), "leaks"),
        (metric(0.1, 0.05, 0.2, chance=0.1), "chance"),
    ],
)
def test_a_row_is_judged_by_its_headline_s_interval(measured: Metric, wanted: Severity) -> None:
    assert severity([measured, LEAK], SETTINGS) == wanted


def test_what_could_not_be_run_is_not_tested() -> None:
    assert severity([], SETTINGS) == "not-tested"


def test_the_margin_is_the_file_s() -> None:
    assert severity([CHANCE], SeveritySettings(margin=0.05)) == "unclear"


def test_verdicts_are_about_deployed_defences_and_quote_the_strongest_row() -> None:
    rows = [
        row("a", "plaintext", LEAK),
        row("a", "closed", CHANCE),
        row("b", "closed", metric(0.7, 0.6, 0.8)),
        row("b", "closed+covers", LEAK),
        row("r", "closed"),
    ]
    found = {each.adversary: each for each in verdicts(rows, ATTACKS, CARDS, SETTINGS)}
    assert list(found) == [each.value for each in Adversary]
    aggregator = found["honest-aggregator"]
    assert (aggregator.severity, aggregator.evidence) == ("leaks", (3, 2))
    assert "2 of 3 rows" in aggregator.text
    assert "b on closed sums with cover edits with 3 parties and 30 edits, auc 0.9" in (
        aggregator.text
    )
    assert "On controls 1 of 1 rows leak." in aggregator.text
    assert found["recipient"].severity == "not-tested"
    assert found["network"].text.endswith("no attack ran on a deployed defence.")


@pytest.mark.parametrize(
    ("measured", "wanted", "said"),
    [
        (CHANCE, "chance", "does no better than guessing"),
        (metric(0.5, 0.3, 0.7), "unclear", "is not surely kept to guessing"),
        (metric(0, 0, 0.3, chance=None, name="success"), "refused", "refused at every try"),
    ],
)
def test_every_severity_has_its_words(measured: Metric, wanted: Severity, said: str) -> None:
    found = verdicts([row("a", "closed", measured)], ATTACKS, CARDS, SETTINGS)[1]
    assert (found.severity, found.evidence) == (wanted, (0,))
    assert said in found.text


def test_controls_alone_are_no_verdict() -> None:
    found = verdicts([row("a", "plaintext", LEAK)], ATTACKS, CARDS, SETTINGS)[1]
    assert found.severity == "not-tested"


def test_bounds_hold_for_every_deployed_row_of_the_adversary() -> None:
    recall = metric(0.4, 0.3, 0.5, name="recall@n", chance=0.1)
    rows = [
        row("a", "plaintext", metric(1, 1, 1, name="recall@n", chance=0.1)),
        row("a", "closed", CHANCE, recall),
        row("r", "closed", metric(1, 1, 1, name="recall@n", chance=0.1)),
    ]

    def missed(**limits: float) -> list[str]:
        named = {f"{name.replace('_', '-')}": bound for name, bound in limits.items()}
        return missed_limits(rows, ATTACKS, CARDS, named)

    name = "recall@n:honest-aggregator"
    assert missed(**{name: 0.4}) == []
    (said,) = missed(**{name: 0.39})
    assert said == f"{name} is 0.4 (a on closed, 3 parties, 30 edits), at most 0.39"
    (said,) = missed(**{"recall@n:network": 1.0})
    assert "no row on a deployed defence measures it" in said


def test_what_is_refuted_of_epsilon_has_bounds_too() -> None:
    refuted = Epsilon(value=1.5, delta=1e-6, confidence=0.95, pairs=30, guesses=30, right=29)
    rows = [row("a", "closed", CHANCE).model_copy(update={"epsilon": refuted})]
    limits = {"epsilon:honest-aggregator": 1.5}
    assert missed_limits(rows, ATTACKS, CARDS, limits) == []
    (said,) = missed_limits(rows, ATTACKS, CARDS, {"epsilon:honest-aggregator": 1.4})
    assert said.startswith("epsilon:honest-aggregator is 1.5 (a on closed")
    (said,) = missed_limits([row("a", "closed", CHANCE)], ATTACKS, CARDS, limits)
    assert "no row on a deployed defence measures it" in said
