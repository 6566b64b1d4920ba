"""Receiver operating characteristics at fixed false positive rates, so that draws can be averaged.

Vertical averaging (Fawcett 2006, Pattern Recognition Letters 27(8), section 6.2).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from collabedit.attacks.metrics import Members
from collabedit.sketch import Matrix

RATES: Final = (
    *(0.0, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85),
    *(0.9, 0.95, 1.0),
)
"""Dense where an attacker that must be sure works, for a logarithmic axis."""


def roc(scores: Matrix, members: Members, rates: Sequence[float]) -> Matrix:
    """Return true positive rates at given false positive rates, [rates].

    Between two thresholds the curve is straight, which is what guessing among ties gives; at a rate
    that several thresholds have, the highest counts.

    Args:
        scores: [candidates].
        members: [candidates], some and not all.
        rates: ascending, in 0..1.
    """
    _, places = np.unique(-scores, return_inverse=True)
    sure = np.cumsum(np.bincount(places, weights=members)) / members.sum()
    wrong = np.cumsum(np.bincount(places, weights=~members)) / (~members).sum()
    false, true = np.concatenate([[0.0], wrong]), np.concatenate([[0.0], sure])
    # Of points at one rate `interp` goes up to the first one, and on from the last one.
    found: Matrix = np.interp(rates, false, true)
    return found
