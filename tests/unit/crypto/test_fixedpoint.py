import dataclasses

import numpy as np
import pytest

from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.ring import Ring, add_into
from collabedit.errors import NumericError

NARROW = FixedPoint(Ring.Z32, fractional_bits=16, magnitude_bound=100.0, parties=10)
WIDE = FixedPoint(Ring.Z64, fractional_bits=40, magnitude_bound=1000.0, parties=16)


def test_the_headroom_is_exact() -> None:
    # ceil(B + 1/2) = 2^31 - 1, the largest integer of 32 bits, and one more.
    FixedPoint(Ring.Z32, fractional_bits=0, magnitude_bound=2.0**31 - 2, parties=1)
    with pytest.raises(NumericError):
        FixedPoint(Ring.Z32, fractional_bits=0, magnitude_bound=2.0**31 - 1, parties=1)


def test_the_headroom_counts_parties() -> None:
    FixedPoint(Ring.Z64, fractional_bits=52, magnitude_bound=500.0, parties=4)
    with pytest.raises(NumericError):
        FixedPoint(Ring.Z64, fractional_bits=52, magnitude_bound=500.0, parties=5)


def test_an_overflow_names_the_setting_and_what_to_change() -> None:
    with pytest.raises(NumericError) as narrow:
        FixedPoint(Ring.Z32, fractional_bits=24, magnitude_bound=100.0, parties=12)
    for part in ("12 parties", "up to 100", "24 fractional bits", "32-bit", "use the 64-bit ring"):
        assert part in str(narrow.value)
    with pytest.raises(NumericError) as wide:
        FixedPoint(Ring.Z64, fractional_bits=60, magnitude_bound=100.0, parties=12)
    assert "use the 64-bit ring" not in str(wide.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"fractional_bits": -1},
        {"fractional_bits": 31},
        {"magnitude_bound": 0.0},
        {"magnitude_bound": -1.0},
        {"magnitude_bound": float("nan")},
        {"magnitude_bound": float("inf")},
        {"parties": 0},
    ],
)
def test_senseless_settings_are_refused(changed: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changed))):
        dataclasses.replace(NARROW, **changed)  # type: ignore[arg-type]


def test_halves_are_rounded_to_even() -> None:
    whole = FixedPoint(Ring.Z64, fractional_bits=0, magnitude_bound=10.0, parties=1)
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    assert whole.decode(whole.encode(values)).tolist() == [0, 2, 2, 0, -2, -2]


def test_negative_numbers_are_in_twos_complement() -> None:
    assert NARROW.encode(np.array([-1.0])).tolist() == [2**32 - 2**16]
    assert WIDE.encode(np.array([-1.0])).tolist() == [2**64 - 2**40]


@pytest.mark.parametrize("setting", [NARROW, WIDE])
def test_a_value_comes_back_within_half_a_step(setting: FixedPoint) -> None:
    bound = setting.magnitude_bound
    values = np.linspace(-bound, bound, 1001).reshape(7, 143)
    back = setting.decode(setting.encode(values))
    assert back.shape == values.shape
    assert np.abs(back - values).max() <= setting.step / 2


@pytest.mark.parametrize("setting", [NARROW, WIDE])
def test_every_party_at_the_bound_does_not_wrap(setting: FixedPoint) -> None:
    for sign in (1, -1):
        values = np.array([sign * setting.magnitude_bound])
        total = np.zeros(1, dtype=setting.ring.dtype)
        for _ in range(setting.parties):
            add_into(total, setting.encode(values))
        assert setting.decode(total).tolist() == [setting.parties * values[0]]


@pytest.mark.parametrize("value", [100.0001, -100.0001, 1e300, -1e300])
@pytest.mark.parametrize("place", [0, 2])
def test_a_value_beyond_the_bound_is_refused_and_not_shown(value: float, place: int) -> None:
    values = np.full(3, 12.125)
    values[place] = value
    with pytest.raises(NumericError, match="bound 100") as caught:
        NARROW.encode(values)
    assert str(value) not in str(caught.value)
    assert "12.125" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_value_that_is_not_finite_is_refused(value: float, place: int) -> None:
    values = np.array([-1.0, 0.0, 1.0])
    values[place] = value
    with pytest.raises(NumericError, match="not finite"):
        NARROW.encode(values)


def test_the_input_is_left_alone() -> None:
    values = np.array([0.3, -0.7])
    NARROW.encode(values)
    assert values.tolist() == [0.3, -0.7]


def test_nothing_encodes_to_nothing() -> None:
    assert NARROW.decode(NARROW.encode(np.zeros((0, 4)))).shape == (0, 4)


def test_other_precisions_and_rings_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        NARROW.encode(np.zeros(1, dtype=np.float32))
    with pytest.raises(TypeError, match="32-bit ring"):
        NARROW.decode(np.zeros(1, dtype="<u8"))


def test_the_step() -> None:
    assert NARROW.step == 2.0**-16
