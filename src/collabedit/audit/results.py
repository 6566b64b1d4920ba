"""The JSON of an audit (`report.json`): all that the page shows, and its schema.

`SCHEMA_VERSION` rises when a field's meaning changes; docs/audit-report.schema.json is the schema
of this module. No field depends on the clock, on paths or on the machine, so that the same audit
with the same seeds gives the same bytes.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from collabedit.section import Section

SCHEMA_VERSION = 2

Severity: TypeAlias = Literal["leaks", "unclear", "chance", "refused", "not-tested"]
"""`leaks`: the headline metric is surely above chance; `chance`: its interval holds chance, and its
upper end is below what was set as small; `unclear`: neither; `refused`: every try was refused."""

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class Metric(Section):
    """One figure of a row, over all its draws.

    Attributes:
        name: `auc`, `recall@n` ... (docs/audit.md lists them).
        value: over all draws.
        chance: what guessing gives; None where there is nothing to guess.
        low, high: 95 % interval.
        method: how the interval was made: `clopper-pearson`, `hanley-mcneil`, `bootstrap`, `none`.
        trials: how many independent things were counted; None for what is no proportion.
    """

    name: str
    value: Number
    chance: Number | None
    low: Number
    high: Number
    method: Literal["clopper-pearson", "hanley-mcneil", "bootstrap", "none"]
    trials: int | None = None


class Epsilon(Section):
    """What a row refutes of differential privacy in one edit that is replaced by another.

    Attributes:
        value: every smaller ε is refuted; 0 refutes none, and proves nothing.
        delta: of the promise.
        confidence: with which this bound holds, for itself.
        pairs: of candidates, one of each edited and by a coin which, over all draws.
        guesses: about how many of them the bound rests on guesses.
        right: guesses that were.
    """

    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    delta: Number
    confidence: Number
    pairs: int
    guesses: int
    right: int


class Curve(Section):
    """Points of a receiver operating characteristic, pooled over draws.

    Attributes:
        false_positive: rates, ascending, from 0 to 1.
        true_positive: at these.
    """

    false_positive: tuple[Number, ...]
    true_positive: tuple[Number, ...]


class Row(Section):
    """One attack on one defence in one setting.

    Attributes:
        attack: name.
        defence: name.
        parties: in a session.
        edits: of all parties together.
        saturation: edits over d_out of the first edited layer.
        prior: what the adversary knew of candidates: `exact` or `generic` keys.
        draws: sessions with other edits.
        metrics: in the order of importance; the first is the headline.
        epsilon: lower bound, for scores of candidates that a coin could have edited.
        curve: for scores of candidates.
        severity: of this row.
        details: what was tried and what it came to, for attacks that act; without secrets.
        failures: draws in which the attack could not be run, by reason; such a row is no evidence.
    """

    attack: str
    defence: str
    parties: int
    edits: int
    saturation: Number
    prior: Literal["exact", "generic"]
    draws: int
    metrics: tuple[Metric, ...]
    epsilon: Epsilon | None = None
    curve: Curve | None = None
    severity: Severity
    details: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


class AttackCard(Section):
    """What an attack is, from its registry entry.

    Attributes:
        name, asks, source, departs, headline, package: as `attacks.registry.Entry`.
        adversary: value of `threat_model.Adversary`.
    """

    name: str
    asks: str
    adversary: str
    source: str
    departs: str
    headline: str
    package: str


class DefenceCard(Section):
    """A defence, in words.

    Attributes:
        name: as in rows.
        title: for headings.
        text: what it does, in one or two sentences.
        deployed: whether `plan new` makes such sessions; False for controls.
    """

    name: str
    title: str
    text: str
    deployed: bool


class Utility(Section):
    """What a defence leaves of the edits' effect, beside what it hides.

    Attributes:
        defence: name.
        parties, edits: of the setting.
        efficacy, paraphrase, neighbourhood: percent (docs/metrics.md), with 95 % intervals in
            `intervals` in that order; None where they were not measured.
    """

    defence: str
    parties: int
    edits: int
    efficacy: Number | None
    paraphrase: Number | None
    neighbourhood: Number | None
    intervals: tuple[tuple[Number, Number], ...] = ()


class Verdict(Section):
    """One adversary, in plain words.

    Attributes:
        adversary: value of `threat_model.Adversary`.
        severity: the worst of its rows on deployed defences.
        text: one or two sentences, made from the rows by rule.
        evidence: indices of the rows that decide it.
    """

    adversary: str
    severity: Severity
    text: str
    evidence: tuple[int, ...]


class AuditReport(Section):
    """The whole report.

    Attributes:
        schema_version: of this module.
        name, title: of the audit.
        subject: what was audited: sessions made for it, or a recording.
        verdicts: one for each adversary.
        attacks, defences: cards of all that occur, and of attacks that were left out.
        rows: the matrix.
        utility: beside it.
        assumptions: what the adversaries were given, in sentences.
        not_tested: what this audit says nothing about, in sentences.
        digests: by name, of configuration, model, edits, covariance, versions of package.
        comparisons: how many rows were held against chance, for the note on multiple testing.
    """

    schema_version: Literal[2]
    name: str
    title: str
    subject: str
    verdicts: tuple[Verdict, ...]
    attacks: tuple[AttackCard, ...]
    defences: tuple[DefenceCard, ...]
    rows: tuple[Row, ...]
    utility: tuple[Utility, ...]
    assumptions: tuple[str, ...]
    not_tested: tuple[str, ...]
    digests: dict[str, str]
    comparisons: int
