"""The fixed words of the page, and how its numbers are rounded.

All of it is plain text; the template escapes it like everything else. What the report brings and
this module does not know (another adversary, another metric) is shown under its own name.
"""

from typing import NamedTuple

from collabedit.threat_model import Adversary


class Words(NamedTuple):
    """A heading and a sentence."""

    title: str
    text: str


SEVERITIES: dict[str, Words] = {
    "leaks": Words("Leaks", "The headline metric is surely above chance."),
    "unclear": Words(
        "Unclear", "Neither surely above chance, nor surely small: more sessions would tell."
    ),
    "chance": Words(
        "At chance", "The interval holds chance, and its upper end is below what was set as small."
    ),
    "refused": Words("Refused", "Every attempt was noticed and refused."),
    "not-tested": Words("Not tested", "This audit is no evidence either way."),
}
"""From the worst to what says least."""

ADVERSARIES: dict[str, Words] = {
    Adversary.NETWORK.value: Words("Network", "Sees encrypted traffic: sizes and times."),
    Adversary.HONEST_AGGREGATOR.value: Words(
        "Honest aggregator", "Follows the protocol and keeps everything that it was ever sent."
    ),
    Adversary.MALICIOUS_AGGREGATOR.value: Words(
        "Malicious aggregator", "Sees the same, and lies: swaps keys, drops, replays, alters sums."
    ),
    Adversary.PARTY.value: Words("Party", "Has its own edits and every released update."),
    Adversary.COLLUDING.value: Words(
        "Collusion", "The aggregator together with some of the parties."
    ),
    Adversary.RECIPIENT.value: Words("Recipient", "Holds the model before and after."),
}

METHODS: dict[str, Words] = {
    "clopper-pearson": Words("Clopper-Pearson", "exact for a share of independent trials"),
    "hanley-mcneil": Words("Hanley-McNeil", "normal approximation for an area under a curve"),
    "bootstrap": Words(
        "bootstrap", "resampled edits and candidates, and draws where there are five or more"
    ),
    "none": Words("none", "no interval was made"),
}

METRICS: dict[str, str] = {
    "auc": "area under the receiver operating characteristic: the probability that an edited "
    "candidate scores above another one",
    "recall@n": "share of the edits among as many best candidates as there are edits",
    "recall@2n": "share of the edits among twice as many best candidates",
    "tpr@1%": "share of the edits found while one in a hundred others is accused",
    "tpr@0.1%": "share of the edits found while one in a thousand others is accused",
    "anonymity": "how many candidates remain among which an edit hides",
    "attribution": "share of edits ascribed to the party that made them",
    "found": "share of vectors recovered",
    "cosine": "similarity of what was recovered to what was hidden",
    "exact": "share of numbers recovered exactly",
    "success": "share of attempts that had their effect",
}
"""What metrics mean, for those that occur. Others are listed by name alone."""

EPSILON = (
    "lower bound: who promises differential privacy with a smaller one, for what this adversary "
    "sees and one edit replaced by another, is refuted"
)

PRIORS: dict[str, str] = {"exact": "exact keys", "generic": "generic keys"}


def severity_rank(severity: str) -> int:
    """Say how bad a severity is: 0 is the worst, unknown ones come last."""
    names = list(SEVERITIES)
    return names.index(severity) if severity in SEVERITIES else len(names)


def of_severity(severity: str) -> Words:
    """Return the words for a severity, its own name if it is unknown."""
    return SEVERITIES.get(severity, Words(severity, ""))


def of_adversary(adversary: str) -> Words:
    """Return the words for an adversary, its own name if it is unknown."""
    return ADVERSARIES.get(adversary, Words(adversary or "Adversary not stated", ""))


def of_method(method: str) -> Words:
    """Return the words for a way to make an interval, its own name if it is unknown."""
    return METHODS.get(method, Words(method, ""))


def rounded(value: float) -> str:
    """Round for display: counts in full, else three decimals, or two digits of what is smaller."""
    if isinstance(value, int):
        return (
            f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
            if value >= 10_000
            else f"{value}"
        )
    size = abs(value)
    if size >= 1e6 or 0 < size < 5e-4:
        return f"{value:.1e}"
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3f}"
