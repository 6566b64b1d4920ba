"""From a claim and the truth to figures, each with its chance level and interval.

Attacks never see this module's inputs. Figures of one draw are pooled over draws by `pool`: counts
are added, areas and medians averaged, and these get the interval of a bootstrap (`resampling`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from collabedit.attacks.attack import Finding
from collabedit.attacks.claims import (
    TRIPLE_SEPARATOR,
    Attempts,
    Claim,
    Estimates,
    Names,
    Rankings,
    Recovery,
)
from collabedit.attacks.metrics import Figure, Members, auc, recall_at, tpr_at_fpr
from collabedit.attacks.resampling import Sample, all_draws, bootstrap_interval, one_draw
from collabedit.attacks.truth import Fact, Truth
from collabedit.intervals import clopper_pearson
from collabedit.sketch import Matrix

Method: TypeAlias = Literal["clopper-pearson", "hanley-mcneil", "bootstrap", "none"]

TOP = (1, 5, 20)
FOUND_COSINE = 0.9
"""From here on a recovered vector counts as found."""


@dataclass(frozen=True, slots=True)
class Score:
    """A figure by name.

    Attributes:
        name: `auc`, `recall@n`, `recall@2n`, `tpr@1%`, `tpr@0.1%`, `anonymity`, `attribution`,
            `top-1` ..., `found`, `cosine`, `exact`, `success`.
        value: measured.
        chance: of guessing; None where nothing is guessed.
        low, high: 95 % interval; quartiles where the method is `none`.
        method: of the interval.
        trials: what was counted; None for what is no proportion.
        sample: what the figure is computed from, where `pool` makes the interval from that.
    """

    name: str
    value: float
    chance: float | None
    low: float
    high: float
    method: Method
    trials: int | None = None
    sample: Sample | None = field(default=None, repr=False)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` and JSON made of one."""
        kept = fields.get("sample")
        return cls(**{**fields, "sample": None if kept is None else Sample.from_fields(kept)})


def share(name: str, successes: float, trials: int, *, chance: float | None) -> Score:
    """Return a proportion; `successes` of ties may be broken, the interval is of the nearest."""
    low, high = clopper_pearson(round(successes), trials)
    return Score(name, successes / trials, chance, low, high, "clopper-pearson", trials)


def score(claim: Claim, truth: Truth) -> tuple[Score, ...]:
    """Hold one claim against the truth.

    Raises:
        ValueError: the truth has nothing that the claim is about.
    """
    match claim:
        case Finding():
            return _membership(claim, truth)
        case Rankings():
            return _rankings(claim, truth)
        case Names():
            return _names(claim, truth)
        case Recovery():
            return _recovery(claim, truth)
        case Estimates():
            return _estimates(claim, truth)
        case Attempts():
            tries = claim.attempts
            won = sum(each.succeeded for each in tries)
            return (share("success", won, len(tries), chance=None),)


def rows_of(finding: Finding, truth: Truth) -> list[tuple[Matrix, Members]]:
    """Return each row of scores with the members that it is about."""
    return [
        (row, truth.edited if party is None else truth.edited_by(party))
        for row, party in zip(finding.scores, finding.about, strict=True)
    ]


def _membership(finding: Finding, truth: Truth) -> tuple[Score, ...]:
    rows = [each for each in rows_of(finding, truth) if 0 < each[1].sum() < truth.candidates]
    if not rows:
        raise ValueError("nobody edited a candidate, or everybody all of them")
    per_row = [_of_scores(*each) for each in rows]
    found = [_over_rows(same) for same in zip(*per_row, strict=True)]
    if len(finding.about) > 1 and None not in finding.about:
        found.append(_attribution(finding, truth))
    return tuple(found)


def _of_scores(scores: Matrix, members: Members) -> tuple[Score, ...]:
    count = int(members.sum())
    area = auc(scores, members)
    above = np.sort(scores[~members])
    # How many non-members are at or above a member, and it: so many whoever wants it looks through.
    places = np.searchsorted(above, scores[members], side="left")
    crowd: Matrix = len(above) - places.astype(np.float64) + 1.0
    kept = Sample.of_values(
        np.flatnonzero(members), crowd, floor=1.0, ceiling=float(len(above) + 1)
    )
    return (
        replace(
            Score("auc", area.value, 0.5, area.low, area.high, "hanley-mcneil"),
            sample=Sample.of_scores(scores, members),
        ),
        _counted("recall@n", recall_at(scores, members, count), count),
        _counted("recall@2n", recall_at(scores, members, min(2 * count, len(scores))), count),
        _counted("tpr@1%", tpr_at_fpr(scores, members, 0.01), count),
        _counted("tpr@0.1%", tpr_at_fpr(scores, members, 0.001), count),
        _middle("anonymity", crowd, kept, chance=(len(above) + 1) / 2 + 1),
    )


def _middle(name: str, values: Matrix, sample: Sample, *, chance: float) -> Score:
    """Return a median with its quartiles; the interval is for `pool` to make."""
    middle, low, high = float(np.median(values)), *_quartiles(values)
    return Score(name, middle, chance, low, high, "none", sample=sample)


def _quartiles(values: Matrix) -> tuple[float, float]:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)


def _counted(name: str, figure: Figure, trials: int) -> Score:
    return Score(
        name, figure.value, figure.chance, figure.low, figure.high, "clopper-pearson", trials
    )


def _attribution(finding: Finding, truth: Truth) -> Score:
    right, known = 0.0, 0
    for place, party in enumerate(finding.about):
        if party is None:
            continue
        for candidate in truth.members.get(party, ()):
            column = finding.scores[:, candidate]
            best = np.flatnonzero(column == column.max())
            right += float(place in best) / len(best)
            known += 1
    return share("attribution", right, known, chance=1 / len(finding.about))


def _rankings(claim: Rankings, truth: Truth) -> tuple[Score, ...]:
    if not truth.facts:
        raise ValueError("the truth has no facts")
    # Whom the attack says nothing about it has missed.
    found = []
    for top in TOP:
        hits = sum(
            _same(_part(fact, claim.part)) in map(_same, claim.guesses.get(number, ())[:top])
            for number, fact in truth.facts.items()
        )
        chance = None if claim.choices is None else min(1.0, top / claim.choices)
        found.append(share(f"top-{top}", hits, len(truth.facts), chance=chance))
    return tuple(found)


def _part(fact: Fact, part: str) -> str:
    match part:
        case "prompt":
            return fact.prompt
        case "object":
            return fact.object
        case "old-object":
            return fact.old_object
        case _:
            return TRIPLE_SEPARATOR.join((fact.subject, fact.prompt, fact.object))


def _same(text: str) -> str:
    """Bring a guess into the form in which two are compared: case and outer spaces do not count."""
    return " ".join(text.casefold().split())


def _names(claim: Names, truth: Truth) -> tuple[Score, ...]:
    wanted = {_same(fact.subject) for fact in truth.facts.values()}
    if not wanted:
        raise ValueError("the truth has no subjects")
    named = list(dict.fromkeys(_same(name) for name in claim.names))
    hits = wanted & set(named)
    scores = [share("found", len(hits), len(wanted), chance=0.0)]
    if named:
        scores.append(share("precision", len(hits), len(named), chance=0.0))
    return tuple(scores)


def _recovery(claim: Recovery, truth: Truth) -> tuple[Score, ...]:
    """Match vectors by the absolute cosine, as signs and lengths cannot be known.

    The chance level of the best of k is about √(2 ln k/size): the largest of k independent cosines
    of directions drawn at random, each nearly normal with variance 1/size.
    """
    wanted = truth.vectors.get(claim.what)
    if wanted is None or wanted.shape[0] != claim.vectors.shape[0]:
        raise ValueError(f"the truth has no {claim.what} of {claim.vectors.shape[0]} numbers")
    best = np.zeros(wanted.shape[1])
    if claim.vectors.shape[1]:
        best = np.abs(_unit(wanted).T @ _unit(claim.vectors)).max(axis=1)
    guess = math.sqrt(2 * math.log(max(claim.vectors.shape[1], 2)) / wanted.shape[0])
    found = int((best >= FOUND_COSINE).sum())
    # Keys and residuals are of the parties' edits in order; of other vectors none is in two draws.
    edits = [number for own in truth.members.values() for number in own]
    numbers = edits if len(edits) == len(best) else range(len(best))
    kept = Sample.of_values(numbers, best, floor=0.0, ceiling=1.0)
    return (
        share("found", found, len(best), chance=0.0),
        _middle("cosine", best, kept, chance=min(guess, 1.0)),
    )


def _unit(vectors: Matrix) -> Matrix:
    lengths = np.linalg.norm(vectors, axis=0)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def _estimates(claim: Estimates, truth: Truth) -> tuple[Score, ...]:
    asked = [name for name in claim.values if name in truth.quantities]
    if not asked:
        raise ValueError("the truth has none of these quantities")
    right = sum(abs(claim.values[name] - truth.quantities[name]) < 0.5 for name in asked)
    return (share("exact", right, len(asked), chance=1 / claim.choices),)


def pool(draws: Sequence[Score]) -> Score:
    """Put figures of one name from several draws together.

    Counts are added, and their interval is that of the sum. Other figures are averaged. Their
    interval is a bootstrap over edits, and over draws where there are many, if they say what they
    are computed from; else the half-widths of areas are added as squares.

    Raises:
        ValueError: they have different names.
    """
    found = _averaged(draws)
    samples = [each.sample for each in draws if each.sample is not None]
    if len(samples) < len(draws):
        return found
    whole = all_draws(samples)
    low, high = bootstrap_interval(whole)
    return replace(found, low=low, high=high, method="bootstrap", sample=whole)


def _over_rows(rows: Sequence[Score]) -> Score:
    """Put the rows of one draw together."""
    samples = [each.sample for each in rows if each.sample is not None]
    whole = one_draw(samples) if len(samples) == len(rows) else None
    return replace(_averaged(rows), sample=whole)


def _averaged(draws: Sequence[Score]) -> Score:
    """Add counts, average what is none; quartiles, too, which are no interval of a median."""
    first = draws[0]
    if any((each.name, each.method) != (first.name, first.method) for each in draws):
        raise ValueError("figures of different names cannot be pooled")
    if len(draws) == 1:
        return first
    chances = [each.chance for each in draws if each.chance is not None]
    trials = [each.trials for each in draws if each.trials is not None]
    if len(trials) == len(draws):
        total = sum(trials)
        successes = sum(each.value * count for each, count in zip(draws, trials, strict=True))
        chance = None
        if len(chances) == len(draws):
            chance = sum(a * b for a, b in zip(chances, trials, strict=True)) / total
        return share(first.name, successes, total, chance=chance)
    value = float(np.mean([each.value for each in draws]))
    chance = float(np.mean(chances)) if len(chances) == len(draws) else None
    if first.method == "none":
        low = float(np.mean([each.low for each in draws]))
        high = float(np.mean([each.high for each in draws]))
        return Score(first.name, value, chance, low, high, "none")
    reach = math.sqrt(sum((each.value - each.low) ** 2 for each in draws)) / len(draws)
    up = math.sqrt(sum((each.high - each.value) ** 2 for each in draws)) / len(draws)
    return Score(
        first.name,
        value,
        chance,
        max(0.0, value - reach),
        min(1.0, value + max(reach, up)),
        first.method,
    )
