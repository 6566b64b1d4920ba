"""Shamir's secret sharing of 32-byte secrets, t of n.

Implements Shamir 1979 (CACM 22(11)) over GF(p), p = 2^256 + 297, the smallest prime above 2^256:
every 32-byte string is one field element, in one piece. A share is a field element, 33 bytes
big-endian, at a public abscissa in 1..2^16-1.

Fewer than t shares are consistent with every secret, each equally likely: this is
information-theoretic and needs the coefficients, the leading one included, to be uniform over the
whole field, zero too.

Departs from textbooks by checking surplus shares: with more than t of them, those beyond the first
t must lie on the same polynomial. With exactly t nothing can be checked, so the caller compares the
result with its owner's commitment.

*Not constant time.* Python's integers take a time that depends on their values. Acceptable here: a
polynomial is drawn for one secret, evaluated once and thrown away, and combined once, so nobody can
collect timings of the same secret; and what is combined is about to be known to whoever combines
it.
"""

import functools
import hmac
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.rng import Randomness
from collabedit.errors import InvalidShareError

PRIME: Final = 2**256 + 297
SHARE_BYTES: Final = 33
MAX_ABSCISSA: Final = 2**16 - 1
MIN_THRESHOLD: Final = 2

Abscissa = TypeVar("Abscissa", bound=int)
"""A share's place: an int, or a `PartyId`."""


def _random_element(randomness: Randomness) -> int:
    # Rejection sampling: 257 uniform bits fall below p half of the time, and are then uniform below
    # p. Reducing them modulo p instead would favour some elements.
    while True:
        draw = randomness.random_bytes(SHARE_BYTES)
        candidate = int.from_bytes(draw, "big") & ((1 << 257) - 1)
        if candidate < PRIME:
            return candidate


def split(
    secret: bytes, *, threshold: int, abscissas: Sequence[Abscissa], randomness: Randomness
) -> dict[Abscissa, bytes]:
    """Share a secret so that any `threshold` shares give it back and fewer say nothing.

    Args:
        secret: 32 bytes.
        threshold: t, 2..n.
        abscissas: one place per share, distinct, 1..65535.
        randomness: draws the t - 1 coefficients.

    Returns:
        One 33-byte share per abscissa, in the order given.

    Raises:
        ValueError: an argument is out of range. 0 would hand out the secret itself.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a shared secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not MIN_THRESHOLD <= threshold <= len(abscissas):
        raise ValueError(
            f"threshold {threshold} is not in {MIN_THRESHOLD}..{len(abscissas)}, the share count"
        )
    _check_abscissas(tuple(abscissas))
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [_random_element(randomness) for _ in range(threshold - 1)]
    return {x: _evaluate(coefficients, int(x)).to_bytes(SHARE_BYTES, "big") for x in abscissas}


def combine(shares: Mapping[Abscissa, bytes], *, threshold: int) -> bytes:
    """Reconstruct a secret from at least `threshold` shares.

    The `threshold` shares with the smallest abscissas determine the polynomial; every other share
    must lie on it.

    Args:
        shares: by abscissa.
        threshold: t of the split, 2 or more. A smaller number than the split's gives garbage or an
            error.

    Returns:
        The 32-byte secret. With exactly t shares, a wrong one goes unnoticed here: check a
        commitment.

    Raises:
        InvalidShareError: too few, at a place out of range, malformed, or not on one polynomial.
        ValueError: the threshold is below 2.
    """
    if threshold < MIN_THRESHOLD:
        raise ValueError(f"the threshold is at least {MIN_THRESHOLD}")
    if len(shares) < threshold:
        raise InvalidShareError(f"{len(shares)} shares of the {threshold} needed")
    places = sorted(shares)
    if places[0] < 1 or places[-1] > MAX_ABSCISSA:
        raise InvalidShareError(f"a share lies outside of 1..{MAX_ABSCISSA}")
    values = [_parse(shares[x], x) for x in places]
    base = tuple(int(x) for x in places[:threshold])
    known = values[:threshold]
    for x, value in zip(places[threshold:], values[threshold:], strict=True):
        expected = _interpolate(_weights(base, int(x)), known)
        if not hmac.compare_digest(
            expected.to_bytes(SHARE_BYTES, "big"), value.to_bytes(SHARE_BYTES, "big")
        ):
            raise InvalidShareError(
                f"{len(shares)} shares do not lie on one polynomial of threshold {threshold}"
            )
    secret = _interpolate(_weights(base, 0), known)
    if secret >= 1 << (8 * SECRET_BYTES):
        raise InvalidShareError("the shares lead to a value that no secret can have")
    return secret.to_bytes(SECRET_BYTES, "big")


def lagrange_weights_at_zero(abscissas: Sequence[int]) -> tuple[int, ...]:
    """Return the weights w with secret = sum of w_i * share_i (mod p), in the given order.

    Cached per tuple of abscissas, since one set of survivors opens many secrets. The weights are
    public.

    Raises:
        ValueError: an abscissa is repeated or not in 1..65535.
    """
    places = tuple(int(x) for x in abscissas)
    _check_abscissas(places)
    return _weights(places, 0)


def _check_abscissas(abscissas: tuple[int, ...]) -> None:
    if not all(1 <= x <= MAX_ABSCISSA for x in abscissas):
        raise ValueError(f"an abscissa is in 1..{MAX_ABSCISSA}")
    if len(set(abscissas)) != len(abscissas):
        raise ValueError("an abscissa is repeated")


def _parse(share: bytes, place: int) -> int:
    if len(share) != SHARE_BYTES:
        raise InvalidShareError(f"share {place} has {len(share)} bytes instead of {SHARE_BYTES}")
    value = int.from_bytes(share, "big")
    if value >= PRIME:
        raise InvalidShareError(f"share {place} is not a field element")
    return value


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    result = 0
    for coefficient in reversed(coefficients):
        result = (result * x + coefficient) % PRIME
    return result


def _interpolate(weights: tuple[int, ...], values: Sequence[int]) -> int:
    return sum(w * v for w, v in zip(weights, values, strict=True)) % PRIME


@functools.lru_cache(maxsize=512)
def _barycentric(abscissas: tuple[int, ...]) -> tuple[int, ...]:
    # 1 / prod over j != i of (x_i - x_j): what Lagrange's basis has in common at all points.
    return tuple(
        pow(math.prod(x - other for other in abscissas if other != x), -1, PRIME) for x in abscissas
    )


@functools.lru_cache(maxsize=512)
def _weights(abscissas: tuple[int, ...], at: int) -> tuple[int, ...]:
    # w_i = prod over j != i of (at - x_j) / (x_i - x_j): Lagrange's basis at one point. A product
    # without one factor is that of a prefix and a suffix, so a further point costs O(t).
    away = [at - x for x in abscissas]
    before = itertools.accumulate(away, _times, initial=1)
    after = list(itertools.accumulate(reversed(away), _times, initial=1))
    return tuple(
        left * right % PRIME * fixed % PRIME
        for left, right, fixed in zip(
            before, reversed(after[:-1]), _barycentric(abscissas), strict=False
        )
    )


def _times(a: int, b: int) -> int:
    return a * b % PRIME
