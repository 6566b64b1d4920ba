"""Rows of `closed_sums_table`: figures of an attack over several draws of who edits what."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np

from collabedit.attacks.metrics import Figure, Members, auc, proportion, recall_at, tpr_at_fpr
from collabedit.intervals import CONFIDENCE
from collabedit.sketch import Matrix
from tests.audit.closed_world import Defence, PriorName

AttackName: TypeAlias = Literal["span", "leverage", "kster", "ica", "spectrum", "residuals"]

RATE = 0.01
"""False positive rate at which true positives are counted."""

_HEAD = ("attack", "defence", "prior", "parties", "edits", "covers each", "draws", "AUC")


@dataclass(frozen=True, slots=True)
class Row:
    """One attack on one defence. `above` is by how many deviations the AUC exceeds chance."""

    attack: AttackName
    defence: Defence
    prior: PriorName
    parties: int
    edits: int
    covers_each: int
    draws: int
    auc: Figure
    recall: Figure
    tpr: Figure
    above: float

    @property
    def closed(self) -> bool:
        """Whether directions are hidden."""
        return self.defence.startswith("basis")


@dataclass(slots=True)
class Tally:
    """Scores of several draws, turned into figures."""

    areas: list[Figure]
    recalled: list[tuple[float, float, int]]
    sure: list[tuple[float, float, int]]

    @classmethod
    def empty(cls) -> "Tally":
        return cls([], [], [])

    def add(self, scores: Matrix, members: Members) -> None:
        count = int(members.sum())
        self.areas.append(auc(scores, members))
        for into, figure in (
            (self.recalled, recall_at(scores, members, count)),
            (self.sure, tpr_at_fpr(scores, members, RATE)),
        ):
            into.append((figure.value, figure.chance, count))

    def figures(self) -> tuple[Figure, Figure, Figure, float]:
        """Mean AUC with its interval, shares with theirs, and the AUC's deviations above chance."""
        # Draws are independent. The upper end may be cut off at 1, the lower one is not.
        errors = [area.value - area.low for area in self.areas]
        reach = float(np.sqrt(np.sum(np.square(errors)))) / len(errors)
        value = float(np.mean([area.value for area in self.areas]))
        area = Figure(value, 0.5, max(value - reach, 0.0), min(value + reach, 1.0))
        deviation = reach / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        return area, _share(self.recalled), _share(self.sure), (value - 0.5) / deviation


def _share(counted: Sequence[tuple[float, float, int]]) -> Figure:
    trials = sum(count for *_, count in counted)
    found = round(sum(value * count for value, _, count in counted))
    chance = sum(chance * count for _, chance, count in counted) / trials
    return proportion(found, trials, chance=chance)


def label(row: Row) -> str:
    return (
        f"{row.attack} on {row.defence}, {row.prior} prior, {row.parties} parties, "
        f"{row.edits} edits, {row.covers_each} covers each"
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a table."""
    head = (*_HEAD, "recall@n", f"TPR at {RATE:.0%} FPR")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = (row.attack, row.defence, row.prior, row.parties, row.edits, row.covers_each)
        figures = " | ".join(_figure(figure) for figure in (row.auc, row.recall, row.tpr))
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} | {row.draws} | {figures} |")
    return "\n".join(lines)


def _figure(figure: Figure) -> str:
    interval = f"{figure.low:.3f}-{figure.high:.3f}"
    return f"{figure.value:.3f} ({interval}; chance {figure.chance:.3f})"
