import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.crypto.ckks.flooding import expected_error
from collabedit.crypto.ckks.parameters import STANDARD_128, CkksParameters
from collabedit.crypto.ckks.wire import Form, decode_chunk
from collabedit.errors import InputError, MalformedMessageError
from collabedit.ids import PartyId
from tests.support.ckks import SETTING, Task, exact_sum, open_all, upload, vectors

VALUES = 8192 + 100


@settings(max_examples=15, deadline=None)
@given(
    st.integers(3, 6),
    st.sets(st.integers(1, 6), min_size=3),
    st.integers(0, 2**32),
    st.sampled_from([1.0, 1e-6, 1e-12]),
    st.booleans(),
)
def test_any_subset_opens_to_its_plain_sum(
    count: int, chosen: set[int], seed: int, size: float, public: bool
) -> None:
    inputs = {party: size * vector for party, vector in vectors(count, VALUES, seed=seed).items()}
    subset = {PartyId(party) for party in chosen if party <= count} | {
        PartyId(party) for party in (1, 2, 3)
    }
    task = upload(inputs, public=public)
    opened = open_all(task.opening(*subset, bits=38), task.summed(*subset))
    taken = {party: inputs[party] for party in subset}
    assert (opened == exact_sum(taken)).all()
    _, largest = expected_error(SETTING, parties=len(subset))
    # Besides the rounding to steps, numpy's own sum of 10^2 rounds in its last bits.
    assert np.abs(opened - sum(taken.values())).max() <= largest + 2.0**-43


GOOD: Task = upload(vectors(3, 10))
UPLOAD = GOOD.uploads[PartyId(1)][0]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(UPLOAD)), st.booleans())
def test_no_bytes_are_read_but_a_chunk(junk: bytes, place: int, keep: bool) -> None:
    data = UPLOAD[:place] + junk + UPLOAD[place + len(junk) * keep :]
    try:
        chunk = decode_chunk(SETTING, data, form=Form.SEEDED, index=0, chunks=1)
    except MalformedMessageError:
        return
    assert len(data) == len(UPLOAD)
    for position, prime in enumerate(SETTING.wire_primes):
        assert int(chunk.residues[:, position].max()) < prime


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*STANDARD_128, 512, 65536, 8191]),
    st.lists(st.integers(15, 64), max_size=5),
    st.integers(-1, 62),
    st.integers(-1, 62),
)
def test_no_parameters_below_128_bits_exist(
    degree: int, bits: list[int], scale: int, shift: int
) -> None:
    try:
        made = CkksParameters(degree, tuple(bits), scale_bits=scale, shift_bits=shift)
    except InputError:
        return
    product = 1
    for prime in made.primes:
        product *= prime
    assert product.bit_length() <= STANDARD_128[degree]
    assert made.largest_sum >= 1
    assert len(set(made.primes)) == len(bits)
