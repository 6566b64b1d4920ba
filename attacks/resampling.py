"""Intervals of figures that are no proportions, by resampling edits, and many draws beside them.

What is resampled are candidates with all that draws say of them, so that an edit which several
draws share counts once (a cluster bootstrap; Davison and Hinkley 1997, *Bootstrap Methods and their
Application*, section 3.8). Members of any draw are resampled among themselves, and so are
candidates that none edits. From `ENOUGH_DRAWS` draws on, draws are resampled beside them, each
independently of the other (the pigeonhole bootstrap of Owen 2007, Annals of Applied Statistics
1(2), which errs on the wide side). Intervals are `scipy.stats.bootstrap`'s: bias-corrected and
accelerated for areas (Efron 1987, JASA 82), percentiles for medians, whose jackknife means nothing
(Efron and Tibshirani 1993, section 11.7). The seed is fixed, so equal samples have equal intervals.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from collabedit.attacks.metrics import Members
from collabedit.intervals import CONFIDENCE, clopper_pearson
from collabedit.sketch import Matrix

Statistic: TypeAlias = Literal["area", "median"]

RESAMPLES: Final = 2000
"""As of the intervals of edits (docs/metrics.md)."""

ENOUGH_DRAWS: Final = 5
"""With fewer the spread between draws cannot be told from that within them."""

_BATCH: Final = 100
"""Resamples at a time: memory stays at a few megabytes for thousands of candidates."""

_MOST_JACKKNIFED: Final = 5000
"""The jackknife takes time with the square of the candidates; beyond, percentiles serve."""

_SEED: Final = 20

_LEAST_VALUES: Final = 6
"""2·(1/2)⁵ > 0.05: no interval of fewer values holds a median with 95 %, but its whole range."""

_Counts: TypeAlias = NDArray[np.float64]
_Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Part:
    """One row of one draw.

    Attributes:
        members: numbers of the candidates that it is about, each once.
        values: for an area the rank of every candidate's score, dense, from 0; for a median the
            figure of each member.
    """

    members: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a figure is computed from, so that it can be computed again from resampled candidates.

    Attributes:
        statistic: of a part; a draw's is the mean over its parts, and the figure the mean of draws.
        floor, ceiling: ends of the figure's range.
        draws: parts of each.
    """

    statistic: Statistic
    floor: float
    ceiling: float
    draws: tuple[tuple[Part, ...], ...] = field(repr=False)

    @classmethod
    def of_scores(cls, scores: Matrix, members: Members) -> Self:
        """Keep the order of a row's scores, for an area."""
        _, ranks = np.unique(scores, return_inverse=True)
        part = Part(tuple(map(int, np.flatnonzero(members))), tuple(map(int, ranks)))
        return cls("area", 0.0, 1.0, ((part,),))

    @classmethod
    def of_values(
        cls, members: Iterable[int], values: Matrix, *, floor: float, ceiling: float
    ) -> Self:
        """Keep a figure of each member, for a median."""
        part = Part(tuple(map(int, members)), tuple(map(float, values)))
        return cls("median", floor, ceiling, ((part,),))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` and JSON made of one."""
        draws = tuple(
            tuple(Part(tuple(part["members"]), tuple(part["values"])) for part in draw)
            for draw in fields["draws"]
        )
        return cls(fields["statistic"], fields["floor"], fields["ceiling"], draws)


def one_draw(rows: Sequence[Sample]) -> Sample:
    """Put rows of one draw together."""
    parts = tuple(part for row in rows for draw in row.draws for part in draw)
    return Sample(
        rows[0].statistic,
        min(row.floor for row in rows),
        max(row.ceiling for row in rows),
        (parts,),
    )


def all_draws(draws: Sequence[Sample]) -> Sample:
    """Put draws together."""
    return Sample(
        draws[0].statistic,
        min(draw.floor for draw in draws),
        max(draw.ceiling for draw in draws),
        tuple(each for draw in draws for each in draw.draws),
    )


def bootstrap_interval(
    sample: Sample, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return where the figure lies with other edits of the same kind.

    If all resamples of an area agree, all pairs of a member and another were decided alike. Then
    the share of pairs that are not is at most the upper end of Clopper and Pearson's interval for
    none of as many pairs as share nobody, and the area is off by at most that. A median of fewer
    than six values has its whole range, as has what cannot be resampled.

    Args:
        sample: of one draw or more.
        confidence: of the interval.
        resamples: how many.
    """
    made = _Resampled(sample)
    if sample.statistic == "median" and len(made.edited) < _LEAST_VALUES:
        return sample.floor, sample.ceiling
    data = made.factors
    # One of a kind is drawn again every time, and scipy refuses to draw it.
    drawn = {place: each for place, each in enumerate(data) if len(each) > 1}

    def statistic(*chosen: _Indices, axis: int) -> _Counts:
        del axis  # the last one, as is asked for
        shape = chosen[0].shape[:-1]
        factors = [np.broadcast_to(each, (math.prod(shape), len(each))) for each in data]
        for place, each in zip(drawn, chosen, strict=True):
            factors[place] = each.reshape(-1, each.shape[-1])
        return made.figures(factors).reshape(shape)

    value = float(made.figures([each[None] for each in data])[0])
    if not drawn:
        return sample.floor, sample.ceiling
    accelerated = sample.statistic == "area" and sum(map(len, data)) <= _MOST_JACKKNIFED
    with warnings.catch_warnings():
        # Its remark that nothing varies is answered below.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = bootstrap(
                list(drawn.values()),
                statistic,
                n_resamples=resamples,
                batch=_BATCH,
                vectorized=True,
                axis=-1,
                confidence_level=confidence,
                method="BCa" if accelerated else "percentile",
                rng=np.random.default_rng(_SEED),
            )
    seen = found.bootstrap_distribution
    if np.ptp(seen) == 0.0 and sample.statistic == "area":
        _, odd = clopper_pearson(0, made.pairs, confidence=confidence)
        return value * (1 - odd), value + (1 - value) * odd
    low, high = map(float, found.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        tail = (1 - confidence) / 2
        low, high = map(float, np.nanquantile(seen, [tail, 1 - tail]))
    return max(sample.floor, low), min(sample.ceiling, high)


class _Resampled:
    """A sample in a form in which it is quickly computed again.

    Attributes:
        edited: members of any draw, in order.
        others: candidates that none edits; of areas alone.
        pairs: how many pairs of a member and another there are that share nobody; 1 at least.
        factors: places to draw from: of `edited`, `others` and draws, as far as they are resampled.
    """

    def __init__(self, sample: Sample) -> None:
        parts = [part for draw in sample.draws for part in draw]
        self.edited = sorted({number for part in parts for number in part.members})
        self._is_area = sample.statistic == "area"
        self._column = {number: place for place, number in enumerate(self.edited)}
        if self._is_area:
            count = len(parts[0].values)
            others = [number for number in range(count) if number not in self._column]
            self._column |= {number: len(self._column) + i for i, number in enumerate(others)}
        else:
            others = []
        self.others = others
        inside, count = len(self.edited), len(self._column)
        apart = [min(len(part.members), count - len(part.members)) for part in parts]
        self.pairs = max(1, min(inside, len(others)), *apart)
        self.factors: list[_Indices] = [np.arange(inside)]
        if self._is_area:
            self.factors.append(np.arange(len(others)))
        self._resamples_draws = len(sample.draws) >= ENOUGH_DRAWS
        if self._resamples_draws:
            self.factors.append(np.arange(len(sample.draws)))
        make = self._area if self._is_area else self._median
        self._draws = [[make(part) for part in draw] for draw in sample.draws]

    def figures(self, factors: Sequence[_Indices]) -> _Counts:
        """Compute the figure of resamples, [resamples].

        Args:
            factors: of `factors`, which places were drawn, [resamples, drawn] each.
        """
        weights = _counts(factors[0], len(self.edited))
        if self._is_area:
            weights = np.concatenate([weights, _counts(factors[1], len(self.others))], axis=1)
        values = np.stack([_mean([part(weights) for part in draw]) for draw in self._draws], axis=1)
        shares = np.ones_like(values)
        if self._resamples_draws:
            shares = shares * _counts(factors[-1], len(self._draws))
        # A draw none of whose members came up says nothing.
        known = np.isfinite(values)
        shares = np.where(known, shares, 0.0)
        total = shares.sum(axis=1)
        summed = (np.where(known, values, 0.0) * shares).sum(axis=1)
        found: _Counts = np.divide(summed, total, out=np.full(len(values), np.nan), where=total > 0)
        return found

    def _area(self, part: Part) -> Callable[[_Counts], _Counts]:
        ranks = np.asarray(part.values)
        order = np.argsort(ranks, kind="stable")
        starts = np.flatnonzero(np.diff(ranks[order], prepend=-1))
        columns = np.array([self._column[int(number)] for number in order])
        is_member = np.isin(order, part.members)

        def area(weights: _Counts) -> _Counts:
            sorted_weights = weights[:, columns]
            inside = np.add.reduceat(sorted_weights * is_member, starts, axis=1)
            outside = np.add.reduceat(sorted_weights * ~is_member, starts, axis=1)
            below = np.cumsum(outside, axis=1) - outside / 2
            won = (inside * below).sum(axis=1)
            pairs = inside.sum(axis=1) * outside.sum(axis=1)
            found: _Counts = np.divide(
                won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0
            )
            return found

        return area

    def _median(self, part: Part) -> Callable[[_Counts], _Counts]:
        values = np.asarray(part.values, dtype=np.float64)
        order = np.argsort(values, kind="stable")
        columns = np.array([self._column[part.members[place]] for place in order])
        values = values[order]

        def median(weights: _Counts) -> _Counts:
            reached = np.cumsum(weights[:, columns], axis=1)
            half = reached[:, -1:] / 2
            # The two middle ones of an even number, twice the middle one of an odd one.
            lower = values[(reached >= half).argmax(axis=1)]
            upper = values[(reached > half).argmax(axis=1)]
            found: _Counts = np.where(reached[:, -1] > 0, (lower + upper) / 2, np.nan)
            return found

        return median


def _counts(chosen: _Indices, size: int) -> _Counts:
    """Count how often each of `size` places was drawn, [resamples, size]."""
    rows = len(chosen)
    places = chosen + size * np.arange(rows)[:, None]
    found = np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size)
    return found.astype(np.float64)


def _mean(parts: Sequence[_Counts]) -> _Counts:
    """Average over the parts that say something, [resamples]; NaN where none does."""
    values = np.stack(parts, axis=1)
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    found: _Counts = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return found
