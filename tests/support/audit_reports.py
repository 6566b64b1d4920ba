"""Reports of audits that never ran, for tests of what is made from reports.

Scores are taken as normal with equal variances, so each row follows from one number: by how many
deviations edited candidates score higher. Odd cases stand among them on purpose.
"""

from collections.abc import Iterator
from statistics import NormalDist

from collabedit.audit.results import (
    AttackCard,
    AuditReport,
    Curve,
    DefenceCard,
    Epsilon,
    Metric,
    Row,
    Severity,
    Utility,
    Verdict,
)

HOSTILE = "<script>document.title='x'</script><img src=x onerror=alert(1)>\"'{{7*7}}&$\\frac$"
LONG_NAME = "dictionary-regression-with-a-name-that-does-not-end-where-one-would-like-it-to-end"
NORMAL = NormalDist()
OUTPUTS = 576
"""d_out."""

DEFENCES = (
    DefenceCard(
        name="uploads-in-clear",
        title="Uploads in clear",
        text="No defence: every party sends its statistics as they are.",
        deployed=False,
    ),
    DefenceCard(
        name="open-sums",
        title="Masked, open sums",
        text="Uploads are masked, and the sums are opened in the model's own coordinates.",
        deployed=False,
    ),
    DefenceCard(
        name="closed-sums",
        title="Closed sums",
        text="Sums are opened in a basis that the parties alone know.",
        deployed=True,
    ),
    DefenceCard(
        name="closed-sums-equal-lengths",
        title="Closed sums, keys of one length, decoy outputs and covers",
        text="As before; keys have one length, so that the spectrum tells nothing of them.",
        deployed=True,
    ),
)

# Name, adversary, deviations by defence: in clear, open, closed, closed with equal lengths.
_ATTACKS: tuple[tuple[str, str, tuple[float, float, float, float]], ...] = (
    ("sum-span", "honest-aggregator", (3.4, 3.1, 0.02, -0.03)),
    ("leverage", "honest-aggregator", (2.6, 2.4, 0.35, 0.04)),
    ("upload-span", "honest-aggregator", (3.9, 0.05, 0.0, 0.01)),
    ("collusion", "colluding", (3.5, 3.2, 2.9, 2.8)),
    ("update-span", "recipient", (2.2, 2.2, 2.2, 2.1)),
    (LONG_NAME, "recipient", (1.2, 1.1, 1.2, 0.9)),
)


def metric(
    name: str,
    value: float,
    *,
    chance: float | None,
    spread: float = 0.04,
    trials: int | None = 240,
) -> Metric:
    """Make a metric of a proportion, with an interval that is symmetric within 0 to 1."""
    return Metric(
        name=name,
        value=value,
        chance=chance,
        low=max(0.0, value - spread),
        high=min(1.0, value + spread),
        method="hanley-mcneil" if name == "auc" else "clopper-pearson",
        trials=None if name == "auc" else trials,
    )


def curve(deviations: float, *, points: int = 120) -> Curve:
    """Make the curve of two normal laws whose means are so many deviations apart."""
    rates = [10 ** (-3.3 + 3.3 * place / points) for place in range(points)]
    hits = [NORMAL.cdf(NORMAL.inv_cdf(rate) + deviations) for rate in rates]
    return Curve(false_positive=(0.0, *rates, 1.0), true_positive=(0.0, *hits, 1.0))


def severity_of(first: Metric) -> Severity:
    """Judge a row as the rule does, with 0.1 above chance as small."""
    assert first.chance is not None
    if first.low > first.chance:
        return "leaks"
    return "chance" if first.high < first.chance + 0.1 else "unclear"


def row(attack: str, defence: str, deviations: float, *, parties: int = 8, edits: int = 30) -> Row:
    """Make a row with a curve."""
    area = NORMAL.cdf(deviations / 2**0.5)
    found = NORMAL.cdf(deviations - 1.9)
    strict = NORMAL.cdf(NORMAL.inv_cdf(0.01) + deviations)
    metrics = (
        metric("auc", area, chance=0.5, spread=0.031 + 0.1 * area * (1 - area)),
        metric("recall@n", found, chance=0.03817263),
        metric("tpr@1%", strict, chance=0.01),
        metric("tpr@0.1%", strict / 3, chance=0.001),
        Metric(
            name="anonymity",
            value=1589 * (1 - area) + 1,
            chance=794.5,
            low=1.0,
            high=1589.0,
            method="bootstrap",
        ),
    )
    return Row(
        attack=attack,
        defence=defence,
        parties=parties,
        edits=edits,
        saturation=edits / OUTPUTS,
        prior="exact" if attack != "leverage" else "generic",
        draws=4,
        metrics=metrics,
        epsilon=Epsilon(
            value=max(0.0, 0.7132 * deviations - 0.2),
            delta=1e-6,
            confidence=0.95,
            pairs=120,
            guesses=60,
            right=60 - parties,
        ),
        curve=curve(deviations),
        severity=severity_of(metrics[0]),
    )


def _swept() -> Iterator[Row]:
    for attack, _, strengths in _ATTACKS:
        for defence, strength in zip(DEFENCES, strengths, strict=True):
            yield row(attack, defence.name, strength)
            if attack in {"sum-span", "update-span"}:
                for edits in (120, 288, 518):
                    faded = strength * (1 - edits / OUTPUTS) ** 0.5
                    yield row(attack, defence.name, faded, edits=edits)
            if attack == "upload-span":
                for parties in (4, 16, 32):
                    yield row(attack, defence.name, strength, parties=parties)


def _acting() -> Iterator[Row]:
    """Rows without a curve: refused, failed, and one of a number."""
    common = {"parties": 8, "edits": 30, "saturation": 30 / OUTPUTS, "prior": "exact", "draws": 4}
    yield Row.model_validate(
        {
            **common,
            "attack": "altered-sums",
            "defence": "closed-sums",
            "metrics": (
                Metric(
                    name="success",
                    value=0.0,
                    chance=0.0,
                    low=0.0,
                    high=0.0151,
                    method="clopper-pearson",
                    trials=240,
                ),
            ),
            "severity": "refused",
            "details": (
                "sum scaled by 1.001: MERGE_UNVERIFIED",
                "roster forked: INVALID_SIGNATURE",
            ),
        }
    )
    yield Row.model_validate(
        {
            **common,
            "attack": "altered-sums",
            "defence": "open-sums",
            "metrics": (),
            "severity": "not-tested",
            "failures": ("draw 2: the session ended early, TOO_FEW_EDITS", HOSTILE),
        }
    )
    yield Row.model_validate(
        {
            **common,
            "attack": "counting",
            "defence": "closed-sums",
            "metrics": (
                Metric(
                    name="error",
                    value=12345.678,
                    chance=None,
                    low=0.00001234,
                    high=2.5e7,
                    method="bootstrap",
                ),
                Metric(name="guess", value=-3.0, chance=None, low=-3.0, high=-3.0, method="none"),
            ),
            "severity": "unclear",
        }
    )


def rich(*, title: str = "Closed sums on a small model") -> AuditReport:
    """Make a report with every kind of content."""
    rows = (*_swept(), *_acting())
    deployed = {card.name for card in DEFENCES if card.deployed}

    def worst(*attacks: str) -> tuple[int, ...]:
        return tuple(
            index
            for index, each in enumerate(rows)
            if each.attack in attacks and each.defence in deployed and each.severity == "leaks"
        )

    cards = [
        AttackCard(
            name=name,
            asks="Which candidates were edited, by the range of what this adversary sees?",
            adversary=adversary,
            source="KSTER, arXiv 2602.10134, stage I; DAGER, arXiv 2405.15586",
            departs="in mapped coordinates, with the rank read from the spectrum",
            headline="auc",
            package="collabedit",
        )
        for name, adversary, _ in _ATTACKS
    ]
    acting = cards[0].model_copy(
        update={
            "name": "altered-sums",
            "adversary": "malicious-aggregator",
            "asks": "Can an altered sum reach the model unnoticed?",
            "headline": "success",
        }
    )
    left_out = cards[0].model_copy(update={"name": "ica", "asks": "What are the keys?"})
    return AuditReport(
        schema_version=2,
        name="closed-sums-small",
        title=title,
        subject="Sessions made for this audit: 30 edits on one layer of a model with d_out 576.",
        verdicts=(
            Verdict(
                adversary="honest-aggregator",
                severity="leaks",
                text="From closed sums, leverage finds edits better than chance unless keys have "
                "one length; the others stay at chance.",
                evidence=worst("leverage"),
            ),
            Verdict(
                adversary="malicious-aggregator",
                severity="refused",
                text="Every altered sum was refused by every party.",
                evidence=(len(rows) - 3,),
            ),
            Verdict(
                adversary="colluding",
                severity="leaks",
                text="One party that tells the group secret undoes closed sums.",
                evidence=worst("collusion"),
            ),
            Verdict(
                adversary="recipient",
                severity="leaks",
                text="The released update gives candidates away whatever was done to the sums.",
                evidence=worst("update-span", LONG_NAME),
            ),
            Verdict(adversary="party", severity="unclear", text="Too few sessions.", evidence=()),
            Verdict(
                adversary="network",
                severity="not-tested",
                text="No attack on traffic was run.",
                evidence=(),
            ),
        ),
        attacks=(*cards, acting, left_out),
        defences=DEFENCES,
        rows=rows,
        utility=tuple(
            Utility(
                defence=card.name,
                parties=8,
                edits=edits,
                efficacy=98.0 - 3.25 * place - edits / 50,
                paraphrase=81.5 - 2 * place,
                neighbourhood=None if place == 2 else 71.25,
                intervals=(
                    (93.0 - 3 * place - edits / 50, 99.5 - 3 * place),
                    (74.1, 88.0),
                    *(() if place == 2 else ((65.0, 77.0),)),
                ),
            )
            for place, card in enumerate(DEFENCES)
            for edits in (30, 288)
        ),
        assumptions=(
            "The adversary has the public model and the covariance.",
            "It has a list of 1589 candidates that holds every edit.",
        ),
        not_tested=("Attacks on traffic.", "Adaptive attacks on decoy outputs."),
        digests={
            "model": "sha256:" + "3f" * 32,
            "configuration": "sha256:" + "a0" * 32,
            "collabedit": "0.1.0",
        },
        comparisons=sum(1 for each in rows if each.metrics),
    )


def large(count: int = 300) -> AuditReport:
    """Make a report of many rows, few of them with curves."""
    base = rich()
    many = [
        base.rows[place % len(base.rows)].model_copy(
            update={"parties": 3 + place, **({"curve": None} if place >= 40 else {})}
        )
        for place in range(count)
    ]
    return base.model_copy(update={"rows": tuple(many), "comparisons": count})


def hostile() -> AuditReport:
    """Make a report whose every string tries to leave its place, with nobody's names known."""
    base = cut(rich(title=HOSTILE), 0, 1, 4, 60, 61)
    first = base.rows[0]
    bad = first.model_copy(
        update={
            "attack": HOSTILE,
            "defence": HOSTILE + "2",
            "severity": "chance",
            "metrics": (first.metrics[0].model_copy(update={"name": HOSTILE}),),
            "details": (HOSTILE,),
            "failures": (HOSTILE,),
        }
    )
    return base.model_copy(
        update={
            "name": HOSTILE,
            "subject": HOSTILE,
            "rows": (*base.rows, bad, bad.model_copy(update={"edits": 60, "failures": ()})),
            "verdicts": (
                Verdict(adversary=HOSTILE, severity="leaks", text=HOSTILE, evidence=(0,)),
            ),
            "attacks": tuple(
                card.model_copy(update={"asks": HOSTILE, "source": HOSTILE, "departs": HOSTILE})
                for card in base.attacks
            ),
            "defences": tuple(
                card.model_copy(update={"title": HOSTILE, "text": HOSTILE})
                for card in base.defences
            ),
            "assumptions": (HOSTILE,),
            "not_tested": (HOSTILE,),
            "digests": {HOSTILE: HOSTILE},
        }
    )


def cut(report: AuditReport, *rows: int) -> AuditReport:
    """Keep these rows of a report, and no evidence."""
    return report.model_copy(
        update={
            "rows": tuple(report.rows[index] for index in rows),
            "verdicts": tuple(
                verdict.model_copy(update={"evidence": ()}) for verdict in report.verdicts
            ),
        }
    )


def empty() -> AuditReport:
    """Make a report of an audit in which nothing could be run."""
    return AuditReport(
        schema_version=2,
        name="nothing",
        title="Nothing",
        subject="No session.",
        verdicts=(),
        attacks=(),
        defences=(),
        rows=(),
        utility=(),
        assumptions=(),
        not_tested=(),
        digests={},
        comparisons=0,
    )
