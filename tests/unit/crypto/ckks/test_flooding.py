import math
from fractions import Fraction

import numpy as np
import pytest

from collabedit.crypto.ckks.flooding import (
    expected_error,
    flooding_plan,
    lmss_deviation,
    uniform_residues,
)
from collabedit.crypto.ckks.packing import Packing, rescale_flooded
from collabedit.crypto.ckks.parameters import LEAN, CkksParameters
from collabedit.crypto.keystream import Keystream
from collabedit.errors import NumericError

SETTING = CkksParameters()
STREAM = Keystream(bytes(range(32)))
SETTINGS = [
    SETTING,
    CkksParameters(moduli_bits=(56, 40, 32, 56), shift_bits=5),
    CkksParameters(moduli_bits=(60, 60), scale_bits=8, shift_bits=40),
    CkksParameters(moduli_bits=(40, 60, 60), scale_bits=20, shift_bits=0),
]


def phase_of(parameters: CkksParameters, phases: list[int]) -> np.ndarray:
    rows = [[phase % prime for phase in phases] for prime in parameters.wire_primes]
    return np.array(rows, np.uint64)


def test_the_distance_is_that_of_the_docstring() -> None:
    plan = flooding_plan(SETTING, parties=10, values=1 << 20)
    assert plan.noise == 210
    assert plan.distance == pytest.approx(210 * 2**20 / (SETTING.primes[1] << 12))
    assert 44 < plan.statistical_bits < 45
    assert plan.deviation == pytest.approx(SETTING.guard / math.sqrt(12))


def test_a_plan_that_is_not_met_says_what_is_missing() -> None:
    with pytest.raises(NumericError, match=r"flooded to 32\.3 bits, not 40: raise shift_bits by 8"):
        flooding_plan(CkksParameters(shift_bits=0), parties=10, values=1 << 20)
    flooding_plan(CkksParameters(shift_bits=8), parties=10, values=1 << 20)
    with pytest.raises(NumericError, match=r"flooded to 0\.0 bits, not 40: raise shift_bits by 68"):
        flooding_plan(LEAN, parties=10, values=1 << 20)


def test_more_decryptions_cost_bits() -> None:
    once = flooding_plan(SETTING, parties=3, values=8192)
    often = flooding_plan(SETTING, parties=3, values=8192, decryptions=8)
    assert once.statistical_bits - often.statistical_bits == pytest.approx(3)
    public = flooding_plan(SETTING, parties=3, values=8192, public_key=True)
    assert once.statistical_bits - public.statistical_bits == pytest.approx(math.log2(4098 / 21))


@pytest.mark.parametrize("wrong", [{"parties": 0}, {"values": 0}, {"decryptions": 0}])
def test_counts_are_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        flooding_plan(SETTING, **{"parties": 3, "values": 10, **wrong})  # type: ignore[arg-type]


def test_the_gaussian_of_li_et_al_at_equal_distance() -> None:
    plan = flooding_plan(SETTING, parties=10, values=1 << 20)
    # Their s for our distance: 2^(-s/2)/√48 = δ.
    bits = -2 * math.log2(plan.distance * math.sqrt(48))
    theirs = lmss_deviation(
        statistical_bits=bits, decryptions=1, values=plan.values, noise=plan.noise
    )
    assert plan.gaussian_deviation == pytest.approx(theirs)
    # Pinsker, from the divergence t²/(2σ²) of two shifted Gaussians.
    divergence = (plan.noise * math.sqrt(plan.values)) ** 2 / (2 * theirs**2)
    assert math.sqrt(divergence / 2) == pytest.approx(plan.distance)
    assert theirs == pytest.approx(math.sqrt(12) * 2 ** (bits / 2) * 210 * 1024)


def test_the_expected_error_is_that_of_rounding() -> None:
    typical, largest = expected_error(SETTING, parties=12)
    assert (typical, largest) == (2.0**-32, 6 * 2.0**-32)


@pytest.mark.parametrize("parameters", SETTINGS)
def test_the_release_is_the_floor_of_the_flooded_phase(parameters: CkksParameters) -> None:
    # Python's integers, and the noise that the definition implies, taken from the same stream.
    guards, shift = parameters.guard_primes, parameters.shift_bits
    modulus, product = math.prod(parameters.wire_primes), math.prod(parameters.guard_primes)
    largest = parameters.largest_sum
    rng = np.random.default_rng(3)
    sums = [int(z) for z in rng.integers(-largest, largest + 1, 200)] + [largest, -largest, 0]
    errors = [int(e) for e in rng.integers(-63, 64, 200)] + [63, -63, 0]
    phases = [(z * parameters.guard + e) % modulus for z, e in zip(sums, errors, strict=True)]
    released = rescale_flooded(parameters, phase_of(parameters, phases), STREAM, 7)
    places = len(guards) + 1
    first = 7 * places << 16
    digits = [
        uniform_residues(STREAM, first + (place << 16), len(phases), guard).tolist()
        for place, guard in enumerate(guards)
    ]
    low = uniform_residues(STREAM, first + (len(guards) << 16), len(phases), 2**61 - 1)
    for place, phase in enumerate(phases):
        target, radix = 0, 1
        for digit, guard in zip(digits, guards, strict=True):
            target += digit[place] * radix
            radix *= guard
        centred = phase - modulus if phase > modulus // 2 else phase
        flood = (target - centred) % product
        flood += product * (int(low[place]) % 2**shift)
        assert 0 <= flood < parameters.guard
        assert int(released[place]) == (centred + flood) // parameters.guard


@pytest.mark.parametrize("parameters", SETTINGS)
def test_honest_sums_are_released_exactly(parameters: CkksParameters) -> None:
    rng = np.random.default_rng(4)
    largest = parameters.largest_sum
    sums = rng.integers(-largest, largest + 1, 2000)
    errors = rng.integers(-63, 64, 2000)
    phases = [int(z) * parameters.guard + int(e) for z, e in zip(sums, errors, strict=True)]
    for tile in range(3):
        released = rescale_flooded(parameters, phase_of(parameters, phases), STREAM, tile)
        assert (released == sums).all()


def test_an_offset_of_half_the_guard_tells_nothing_of_the_noise() -> None:
    # What an aggregator would add to c₀ to see the sign of each error. With the rounding alone it
    # sees it; flooded, the released bits are coin tosses of the stream.
    rng = np.random.default_rng(5)
    errors = rng.integers(-20, 21, 8192)
    half = SETTING.guard // 2
    phases = [half + int(e) for e in errors]
    rounded = np.array([(phase + half) // SETTING.guard for phase in phases])
    assert (rounded == (errors >= 0)).all()
    released = rescale_flooded(SETTING, phase_of(SETTING, phases), STREAM, 1)
    assert set(released.tolist()) == {0, 1}
    agreement = (released == (errors >= 0)).mean()
    assert abs(agreement - 0.5) < 5 * 0.5 / math.sqrt(8192)
    zero = rescale_flooded(SETTING, phase_of(SETTING, [half] * 8192), STREAM, 1)
    assert (zero == released).all()


def test_flooding_residues_are_uniform_and_below_their_prime() -> None:
    for prime in (SETTING.primes[1], 2**59 + 55, 1032193):
        drawn = uniform_residues(STREAM, 0, 1 << 15, prime)
        assert len(drawn) == 1 << 15
        assert int(drawn.max()) < prime
        sample = drawn.astype(np.float64) / prime
        assert abs(sample.mean() - 0.5) < 5 / math.sqrt(12 * (1 << 15))
        assert sample.max() > 0.999
    assert (uniform_residues(STREAM, 0, 10, 97) != uniform_residues(STREAM, 1, 10, 97)).any()


def test_messages_are_multiples_of_the_guard() -> None:
    packing = Packing(SETTING, 100.0, 3)
    values = np.array([0.0, 2.0**-32, -(2.0**-32), 100.0, -100.0, 0.3])
    (message,) = packing.encode(values)
    assert message.shape == (8192,)
    prime, guard = SETTING.data_prime, SETTING.guard
    for value, residue in zip(values, message.tolist(), strict=False):
        assert residue == round(Fraction(value) * 2**32) * guard % prime
    assert not message[len(values) :].any()
