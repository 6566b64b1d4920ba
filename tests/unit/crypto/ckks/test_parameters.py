import math

import pytest
from tenseal import sealapi

from collabedit.crypto.ckks.parameters import (
    LEAN,
    STANDARD_128,
    CkksParameters,
    choose_primes,
    is_prime,
)
from collabedit.errors import InputError

SETTINGS = [
    CkksParameters(),
    LEAN,
    CkksParameters(moduli_bits=(56, 40, 32, 56), shift_bits=0),
    CkksParameters(4096, (36, 36, 37), scale_bits=16, shift_bits=8),
    CkksParameters(16384, (60, 60, 60, 60, 60)),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_primes_are_those_of_seal(setting: CkksParameters) -> None:
    chosen = sealapi.CoeffModulus.Create(setting.ring_degree, list(setting.moduli_bits))
    assert setting.primes == tuple(prime.value() for prime in chosen)


@pytest.mark.parametrize("degree", STANDARD_128)
def test_the_table_is_that_of_seal(degree: int) -> None:
    assert (
        sealapi.CoeffModulus.MaxBitCount(degree, sealapi.SEC_LEVEL_TYPE.TC128)
        == (STANDARD_128[degree])
    )


@pytest.mark.parametrize(
    ("degree", "bits"),
    [
        (8192, (60, 60, 60, 60)),  # 240 of 218
        (8192, (55, 55, 55, 54)),  # 219: one bit too many
        (4096, (60, 60)),
        (2048, (30, 30)),
    ],
)
def test_more_modulus_than_128_bits_of_security_allow_is_refused(
    degree: int, bits: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="below 128-bit security"):
        CkksParameters(degree, bits, scale_bits=10, shift_bits=0)


def test_all_that_the_table_allows_is_taken() -> None:
    assert sum(CkksParameters(8192, (55, 55, 54, 54)).moduli_bits) == 218


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ring_degree": 8191}, "not in the standard"),
        ({"ring_degree": 512}, "not in the standard"),
        ({"moduli_bits": (60,)}, "key-switching prime"),
        ({"moduli_bits": ()}, "key-switching prime"),
        ({"moduli_bits": (60, 61)}, "61 bits"),
        ({"moduli_bits": (60, 19)}, "19 bits"),
        ({"scale_bits": -1}, "0 or more"),
        ({"shift_bits": -1}, "0 or more"),
        ({"scale_bits": 45}, "56 together"),
        ({"ring_degree": 32768, "moduli_bits": (20,) * 12, "scale_bits": 2}, "not 12 primes"),
    ],
)
def test_other_parameters_are_refused_by_name(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CkksParameters(**given)  # type: ignore[arg-type]


def test_primality_is_exact_on_known_numbers() -> None:
    small = [n for n in range(2000) if all(n % d for d in range(2, math.isqrt(n) + 1)) and n > 1]
    assert [n for n in range(2000) if is_prime(n)] == small
    # Strong pseudoprimes to several bases (OEIS A014233), Carmichael numbers, and 2^61 - 1.
    for composite in (3215031751, 3474749660383, 341550071728321, 561, 1729, 2**61 - 3):
        assert not is_prime(composite)
    assert is_prime(2**61 - 1)


def test_primes_have_a_transform() -> None:
    for prime in choose_primes(8192, (60, 60, 60)):
        assert prime % 16384 == 1
        assert prime.bit_length() == 60


def test_the_guard_is_what_lies_below_the_sum() -> None:
    setting = CkksParameters()
    assert setting.guard == setting.primes[1] << 12
    assert setting.seal_scale == float(setting.guard) * 2.0**32
    assert setting.largest_sum * setting.guard * 2 < math.prod(setting.wire_primes)
    assert setting.largest_real_sum == pytest.approx(2**15, rel=1e-6)
    assert LEAN.guard == 1
    assert LEAN.guard_primes == ()


def test_sizes_on_the_wire() -> None:
    assert CkksParameters().polynomial_bytes == 16 * 8192
    assert CkksParameters(moduli_bits=(56, 40, 32, 56), shift_bits=0).polynomial_bytes == 16 * 8192
    assert LEAN.polynomial_bytes == 8 * 8192
    assert [CkksParameters().chunks(n) for n in (0, 1, 8192, 8193)] == [0, 1, 1, 2]


def test_every_setting_has_its_own_fingerprint() -> None:
    settings = [*SETTINGS, CkksParameters(scale_bits=31), CkksParameters(shift_bits=11)]
    prints = [setting.fingerprint() for setting in settings]
    assert len(set(prints)) == len(prints)
    assert CkksParameters().fingerprint() == CkksParameters().fingerprint()


def test_noise_under_the_public_key_is_bounded_by_the_rounding_of_seal() -> None:
    assert CkksParameters().fresh_noise() == 21
    # ceil(21 * 16385 / P) + ceil(8193 / 2)
    assert CkksParameters().fresh_noise(public_key=True) == 1 + 4097
    narrow = CkksParameters(moduli_bits=(60, 60, 20), shift_bits=0)
    assert narrow.fresh_noise(public_key=True) == 1 + 4097
