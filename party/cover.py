"""Cover edits: random keys without a residual that a party adds to its own.

They move the spectrum of S, which is what a secret basis leaves to see of keys. They do not hide
how many edits there are: T is zero on them, so who uses T beside S tells them apart
(docs/closed-sums.md, section 6). A column of K̃ whose residual is zero asks the update to leave a
direction alone. A random direction of the mapped space is nearly orthogonal to every edit's key, so
the update hardly changes; how much is measured, not promised.
"""

import numpy as np

from collabedit.bounds import KEY_FACTOR
from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.crypto.rng import Randomness
from collabedit.party.closing import Statistics
from collabedit.plan import Plan
from collabedit.sketch import Matrix, normals


def with_cover(
    plan: Plan, statistics: Statistics, randomness: Randomness
) -> list[tuple[Matrix, Matrix]]:
    """Add the plan's cover edits to a party's statistics: columns of K̃ behind all others.

    Directions are uniform in the mapped space, lengths those of the party's own keys, drawn with
    repetition; of a party without any, of the mean ‖k̃‖² that the plan's cap is a multiple of.

    Args:
        plan: the plan.
        statistics: of each layer K̃ [d', n + p] and R [d_out, n].
        randomness: the party's own.
    """
    count = plan.cover_edits
    covered = []
    for keys, residuals in statistics:
        if count:
            own = np.linalg.norm(keys[:, : residuals.shape[1]], axis=0)
            if not own.size:
                own = np.array([np.sqrt(plan.bounds.key_energy / KEY_FACTOR)])
            cover = _directions(len(keys), count, randomness) * _drawn(own, count, randomness)
            keys = np.concatenate([keys, cover], axis=1)  # noqa: PLW2901  the pair is rebuilt
        covered.append((keys, residuals))
    return covered


def _stream(randomness: Randomness) -> Keystream:
    return Keystream(randomness.random_bytes(SECRET_BYTES))


def _directions(rows: int, count: int, randomness: Randomness) -> Matrix:
    words = _stream(randomness).tile(0, 2 * ((rows * count + 1) // 2), Ring.from_bits(64))
    drawn = normals(words, rows=rows, columns=count)
    directions: Matrix = drawn / np.linalg.norm(drawn, axis=0)
    return directions


def _drawn(lengths: Matrix, count: int, randomness: Randomness) -> Matrix:
    words = _stream(randomness).tile(0, count, Ring.from_bits(64))
    # 2⁶⁴ modulo so few lengths favours none of them by anything that could be seen.
    drawn: Matrix = lengths[(words % np.uint64(lengths.size)).astype(np.intp)]
    return drawn
