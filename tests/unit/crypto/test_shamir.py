import contextlib
import itertools

import pytest

from collabedit.crypto.shamir import (
    PRIME,
    SHARE_BYTES,
    _weights,
    combine,
    lagrange_weights_at_zero,
    split,
)
from collabedit.errors import InvalidShareError
from collabedit.ids import PartyId
from tests.support.randomness import InsecureTestRandomness

RANDOMNESS = InsecureTestRandomness(5)
SECRET = RANDOMNESS.random_bytes(32)
SHARES = split(SECRET, threshold=3, abscissas=[1, 2, 3, 4, 5], randomness=RANDOMNESS)


def pick(*places: int) -> dict[int, bytes]:
    return {x: SHARES[x] for x in places}


def constant(value: int) -> dict[int, bytes]:
    return {x: value.to_bytes(SHARE_BYTES, "big") for x in (1, 2)}


class Scripted:
    def __init__(self, *draws: int) -> None:
        self.draws = list(draws)

    def random_bytes(self, count: int) -> bytes:
        assert count == SHARE_BYTES
        return self.draws.pop(0).to_bytes(SHARE_BYTES, "big")


def test_the_modulus_is_the_smallest_prime_above_2_to_256() -> None:
    def passes(n: int) -> bool:  # Fermat to several bases: composites fail, primes pass
        return all(pow(base, n - 1, n) == 1 for base in (2, 3, 5, 7, 11, 13))

    assert PRIME == 2**256 + 297
    assert [k for k in range(1, 298) if passes(2**256 + k)] == [297]


def test_every_three_of_five_reconstruct() -> None:
    for places in itertools.combinations(SHARES, 3):
        assert combine(pick(*places), threshold=3) == SECRET
    assert combine(SHARES, threshold=3) == SECRET


def test_shares_are_33_bytes_and_never_the_secret() -> None:
    assert {len(share) for share in SHARES.values()} == {SHARE_BYTES}
    assert all(SECRET not in share for share in SHARES.values())


def test_two_shares_do_not_reconstruct() -> None:
    with pytest.raises(InvalidShareError, match="2 shares of the 3 needed"):
        combine(pick(1, 2), threshold=3)
    # Nor do they under a smaller threshold: garbage, or an error.
    with contextlib.suppress(InvalidShareError):
        assert combine(pick(1, 2), threshold=2) != SECRET


def test_a_known_polynomial() -> None:
    # f(x) = secret + 5x + 7x^2, after a draw that is not below the modulus
    secret = (1000).to_bytes(32, "big")
    shares = split(
        secret, threshold=3, abscissas=[1, 2, 10], randomness=Scripted(PRIME, 5, 2**257 - 1, 7)
    )
    assert {x: int.from_bytes(share, "big") for x, share in shares.items()} == {
        1: 1012,
        2: 1038,
        10: 1750,
    }


def test_a_zero_leading_coefficient_is_allowed() -> None:
    # Excluding it would make some secrets impossible, given t - 1 shares.
    shares = split(SECRET, threshold=2, abscissas=[1, 2], randomness=Scripted(0))
    assert set(shares.values()) == {b"\x00" + SECRET}


def test_coefficients_are_fresh() -> None:
    again = split(SECRET, threshold=3, abscissas=[1, 2, 3, 4, 5], randomness=RANDOMNESS)
    assert all(again[x] != SHARES[x] for x in SHARES)


def test_party_ids_serve_as_abscissas() -> None:
    shares = split(SECRET, threshold=2, abscissas=[PartyId(7), PartyId(3)], randomness=RANDOMNESS)
    assert list(shares) == [7, 3]
    assert combine(shares, threshold=2) == SECRET


@pytest.mark.parametrize(
    ("threshold", "abscissas", "message"),
    [
        (2, [0, 1], "1..65535"),
        (2, [-1, 1], "1..65535"),
        (2, [1, 65536], "1..65535"),
        (2, [1, 2, 1], "repeated"),
        (1, [1, 2], "threshold 1 is not in 2..2"),
        (0, [1, 2], "threshold 0"),
        (3, [1, 2], "threshold 3"),
        (2, [], "threshold 2"),
    ],
)
def test_senseless_splits_are_refused(threshold: int, abscissas: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(SECRET, threshold=threshold, abscissas=abscissas, randomness=RANDOMNESS)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_32_byte_secrets_are_shared(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        split(bytes(size), threshold=2, abscissas=[1, 2], randomness=RANDOMNESS)


@pytest.mark.parametrize("place", SHARES)
def test_any_altered_share_is_noticed_while_there_is_a_surplus(place: int) -> None:
    altered = bytes(SHARES[place][:-1]) + bytes([SHARES[place][-1] ^ 1])
    with pytest.raises(InvalidShareError, match="one polynomial"):
        combine(SHARES | {place: altered}, threshold=3)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (pick(1, 2) | {0: SHARES[3]}, "outside"),
        (pick(1, 2) | {65536: SHARES[3]}, "outside"),
        (pick(1, 2) | {3: SHARES[3][1:]}, "32 bytes instead of 33"),
        (pick(1, 2) | {3: b"\x00" + SHARES[3]}, "34 bytes"),
        (pick(1, 2) | {3: b""}, "0 bytes"),
        (pick(1, 2) | {3: PRIME.to_bytes(33, "big")}, "not a field element"),
        (pick(1, 2) | {3: b"\xff" * 33}, "not a field element"),
        (pick(1, 2, 3) | {4: b"\xff" * 33}, "not a field element"),
        ({}, "0 shares"),
    ],
)
def test_malformed_shares_are_refused(shares: dict[int, bytes], message: str) -> None:
    with pytest.raises(InvalidShareError, match=message):
        combine(shares, threshold=3)


def test_only_32_byte_results_are_secrets() -> None:
    assert combine(constant(2**256 - 1), threshold=2) == b"\xff" * 32
    for value in (2**256, PRIME - 1):
        with pytest.raises(InvalidShareError, match="no secret can have"):
            combine(constant(value), threshold=2)


def test_a_threshold_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        combine(pick(1, 2), threshold=1)


def test_weights_belong_to_their_places() -> None:
    weights = lagrange_weights_at_zero([5, 2, 9])
    assert (
        sum(w * (3 + 4 * x + 11 * x * x) for w, x in zip(weights, [5, 2, 9], strict=True)) % PRIME
        == 3
    )
    assert lagrange_weights_at_zero([9, 5, 2]) == (weights[2], weights[0], weights[1])


@pytest.mark.parametrize("abscissas", [[0, 1], [1, 1], [1, 65536]])
def test_there_are_no_weights_for_senseless_places(abscissas: list[int]) -> None:
    with pytest.raises(ValueError, match="abscissa"):
        lagrange_weights_at_zero(abscissas)


def test_one_set_of_survivors_costs_its_weights_once() -> None:
    _weights.cache_clear()
    for _ in range(10):
        combine(pick(2, 3, 5), threshold=3)
    assert _weights.cache_info().misses == 1
