"""Decoy outputs: rows of noise under the residuals that a secret basis mixes with them.

A basis hides directions; the lengths and angles of residuals show through T (docs/closed-sums.md,
section 6). With g rows of independent normals under R, for edits, past edits and covers alike, U
turns d_out + g outputs, and what is left of R in the aggregator's view is at most the plan's
`decoy_bound` in total variation (section 7, proposition 6). The merge acts on each row of T by
itself: the first d_out rows of the opened update are what they were, and parties drop the others.
"""

import numpy as np

from collabedit.crypto.kdf import derive_key, encode_fields
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.editing import Layer
from collabedit.plan import Plan
from collabedit.sketch import Matrix, normals


def with_decoys(
    plan: Plan, layer: Layer, residuals: Matrix, *, columns: int, seed: bytes | None
) -> Matrix:
    """Return R⁺, [d_out + g, columns]: zeros for columns without a residual, then the decoy rows.

    Without decoys in the plan it is R as it was.

    Args:
        plan: with closed sums.
        layer: of the residuals.
        residuals: R, [d_out, n].
        columns: of K̃, n and those without a residual.
        seed: 32 bytes of the party's own, for this task alone; None without decoys.
    """
    if not plan.decoys:
        return residuals
    assert seed is not None  # noqa: S101  the caller draws one for every such task
    stream = Keystream(derive_key(seed, label="decoys", context=encode_fields(layer.index)))
    pairs = (plan.decoys * columns + 1) // 2
    words = stream.tile(0, 2 * pairs, Ring.from_bits(64))
    drawn = normals(words, rows=plan.decoys, columns=columns)
    wanted = np.pad(residuals, ((0, 0), (0, columns - residuals.shape[1])))
    return np.concatenate([wanted, plan.decoy_deviation * drawn])
