"""From outcomes of edits to the figures of a report, each with a 95 % interval.

`docs/metrics.md` lists the figures with their sources. Every figure is an average over edits; what
an edit has several of is averaged for that edit first, as CounterFact's summary does
(kmeng01/memit, `experiments/summarize.py`).

Intervals take the edits for independent draws. They say how far the figure would move with other
edits of the same kind on this model, and nothing about other models or data.

* One yes or no per edit: Clopper and Pearson's exact interval.
* Other averages: percentile bootstrap over edits (Efron 1979, Annals of Statistics 7). Where all
  edits agree it sees no spread; a share then gets the exact interval of as many yes or no, which is
  no narrower since no variable on [0, 1] varies more than a yes or no of the same mean.
* Harmonic means: of the three lower and of the three upper ends, these at 1 - 0.05/3 each
  (Bonferroni), so somewhat wider than need be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from collabedit.intervals import CONFIDENCE, clopper_pearson

Interval: TypeAlias = tuple[float, float]
_Values: TypeAlias = NDArray[np.float64]

_RESAMPLES = 2_000
_RESAMPLE_BLOCK = 4_000_000
"""Draws held at a time: 32 MB."""


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """What became of one edit. Holds no text.

    P is exp(-NLL), NLL the mean over a completion's tokens. Tuples have one entry per paraphrase or
    neighbourhood prompt.

    Attributes:
        case_id: of the edit.
        efficacy: P(new) > P(true); None without a true object to compare with.
        paraphrase: the same on paraphrases.
        neighborhood: P(answer) > P(new) on prompts that should not change.
        generated: the model writes the target.
        magnitude: P(new) - P(true), -1 to 1.
        paraphrase_magnitudes: the same on paraphrases.
        neighborhood_magnitudes: P(answer) - P(new).
        tokens_right: share of the new object's tokens that are the likeliest, teacher-forced.
        paraphrase_tokens_right: the same on paraphrases.
        neighborhood_tokens_right: share of the answer's tokens.
        entropy: mean fluency of free texts, in bits; None if none were written.
    """

    case_id: str
    efficacy: bool | None
    paraphrase: tuple[bool, ...]
    neighborhood: tuple[bool, ...]
    generated: bool
    magnitude: float | None = None
    paraphrase_magnitudes: tuple[float, ...] = ()
    neighborhood_magnitudes: tuple[float, ...] = ()
    tokens_right: float | None = None
    paraphrase_tokens_right: tuple[float, ...] = ()
    neighborhood_tokens_right: tuple[float, ...] = ()
    entropy: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95 % interval; both None where no edit has what it needs."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class _Average:
    """An average over edits.

    Attributes:
        of: the edit's own value, None where it has none.
        scale: of the report: 100 for percent.
        is_share: values are in [0, 1].
    """

    of: Callable[[EditOutcome], float | None]
    scale: float = 100.0
    is_share: bool = True


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _all_right(shares: Sequence[float]) -> float | None:
    return _mean([share == 1.0 for share in shares])


def _own(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


_AVERAGES: Mapping[str, _Average] = MappingProxyType(
    {
        "efficacy": _Average(lambda edit: edit.efficacy),
        "paraphrase": _Average(lambda edit: _mean(edit.paraphrase)),
        "neighborhood": _Average(lambda edit: _mean(edit.neighborhood)),
        "efficacy_magnitude": _Average(lambda edit: edit.magnitude, 1.0, is_share=False),
        "paraphrase_magnitude": _Average(
            lambda edit: _mean(edit.paraphrase_magnitudes), 1.0, is_share=False
        ),
        "neighborhood_magnitude": _Average(
            lambda edit: _mean(edit.neighborhood_magnitudes), 1.0, is_share=False
        ),
        "efficacy_accuracy": _Average(lambda edit: _all_right(_own(edit.tokens_right))),
        "paraphrase_accuracy": _Average(lambda edit: _all_right(edit.paraphrase_tokens_right)),
        "neighborhood_accuracy": _Average(lambda edit: _all_right(edit.neighborhood_tokens_right)),
        "generation_accuracy": _Average(lambda edit: edit.generated),
        "zsre_efficacy": _Average(lambda edit: edit.tokens_right),
        "zsre_paraphrase": _Average(lambda edit: _mean(edit.paraphrase_tokens_right)),
        "zsre_neighborhood": _Average(lambda edit: _mean(edit.neighborhood_tokens_right)),
        "fluency": _Average(lambda edit: edit.entropy, is_share=False),
    }
)
_HARMONIC: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "score": ("efficacy", "paraphrase", "neighborhood"),
        "zsre_harmonic_mean": ("zsre_efficacy", "zsre_paraphrase", "zsre_neighborhood"),
    }
)
FIGURES = (*_AVERAGES, *_HARMONIC)
"""Names of the figures, stable."""


def averages(outcomes: Sequence[EditOutcome]) -> dict[str, float | None]:
    """Average outcomes, of one party or of several together: each of `FIGURES` to its value.

    A harmonic mean is one of those of its three that are there.
    """
    values = {name: _column(outcomes, average) for name, average in _AVERAGES.items()}
    found = {
        name: _AVERAGES[name].scale * float(column.mean()) if len(column) else None
        for name, column in values.items()
    }
    return found | {
        name: _harmonic([found[part] for part in parts]) for name, parts in _HARMONIC.items()
    }


def figures(outcomes: Sequence[EditOutcome]) -> dict[str, Figure]:
    """Average outcomes and add intervals. The bootstrap's draws are fixed."""
    columns = {name: _column(outcomes, average) for name, average in _AVERAGES.items()}
    ends = {name: _interval(columns[name], _AVERAGES[name], CONFIDENCE) for name in _AVERAGES}
    for name, parts in _HARMONIC.items():
        strict = [
            _interval(columns[part], _AVERAGES[part], 1 - (1 - CONFIDENCE) / len(parts))
            for part in parts
        ]
        low = _harmonic([end and end[0] for end in strict])
        high = _harmonic([end and end[1] for end in strict])
        ends[name] = None if low is None or high is None else (low, high)
    return {name: Figure(value, ends[name]) for name, value in averages(outcomes).items()}


def _column(outcomes: Sequence[EditOutcome], average: _Average) -> _Values:
    """Return the values of those edits that have one."""
    values = (average.of(outcome) for outcome in outcomes)
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _harmonic(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(harmonic_mean(there)) if there else None


def _interval(values: _Values, average: _Average, confidence: float) -> Interval | None:
    """Return the interval of a mean, scaled; None for too few values."""
    count = len(values)
    if not count or (count == 1 and not average.is_share):
        return None
    is_flat = bool((values == values[0]).all())
    if average.is_share and (is_flat or bool(np.isin(values, (0.0, 1.0)).all())):
        low, high = clopper_pearson(round(float(values.sum())), count, confidence=confidence)
    else:
        low, high = bootstrap_mean(values, confidence=confidence)
    return average.scale * low, average.scale * high


def bootstrap_mean(values: _Values, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the percentile bootstrap interval of a mean, from 2,000 fixed resamples.

    Args:
        values: at least one, [n].
        confidence: between 0 and 1.
    """
    generator = torch.Generator().manual_seed(0)
    rows = max(1, _RESAMPLE_BLOCK // len(values))
    means = [
        values[
            torch.randint(
                len(values), (min(rows, _RESAMPLES - start), len(values)), generator=generator
            ).numpy()
        ].mean(axis=1)
        for start in range(0, _RESAMPLES, rows)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(low), float(high)
