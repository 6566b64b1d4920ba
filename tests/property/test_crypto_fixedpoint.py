from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.ring import Ring, RingArray, add_into
from collabedit.errors import NumericError


@st.composite
def accepted_settings(draw: st.DrawFn) -> FixedPoint:
    ring = draw(st.sampled_from(Ring))
    bound = draw(st.floats(min_value=1e-6, max_value=1e6))
    fractional_bits = draw(st.integers(min_value=0, max_value=ring.bits - 2))
    parties = draw(st.integers(min_value=1, max_value=20))
    try:
        return FixedPoint(ring, fractional_bits, bound, parties)
    except NumericError:
        assume(False)
        raise


@settings(max_examples=150, deadline=None)
@given(st.data(), accepted_settings())
def test_a_sum_is_off_by_at_most_half_a_step_per_party(
    data: st.DataObject, setting: FixedPoint
) -> None:
    bound = setting.magnitude_bound
    reals = st.one_of(
        st.floats(min_value=-bound, max_value=bound), st.sampled_from([bound, -bound])
    )
    values = data.draw(st.lists(reals, min_size=1, max_size=setting.parties))
    total: RingArray = np.zeros(1, dtype=setting.ring.dtype)
    for value in values:
        add_into(total, setting.encode(np.array([value])))
    opened = Fraction(float(setting.decode(total)[0]))
    exact = sum(map(Fraction, values), Fraction(0))
    allowed = Fraction(len(values), 2) * Fraction(setting.step)
    # The last term: the opened integer may have more than 53 bits.
    assert abs(opened - exact) <= allowed + abs(opened) * Fraction(1, 2**53)


@settings(max_examples=100, deadline=None)
@given(st.data(), accepted_settings())
def test_whatever_is_beyond_the_bound_is_refused(data: st.DataObject, setting: FixedPoint) -> None:
    above = float(np.nextafter(setting.magnitude_bound, np.inf))
    value = data.draw(st.floats(min_value=above) | st.just(float("nan")))
    sign = data.draw(st.sampled_from([1, -1]))
    with pytest.raises(NumericError):
        setting.encode(np.array([0.0, sign * value]))
