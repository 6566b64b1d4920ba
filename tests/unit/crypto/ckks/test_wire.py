import struct

import numpy as np
import pytest

from collabedit.crypto.ckks.parameters import LEAN, CkksParameters
from collabedit.crypto.ckks.wire import (
    HEADER_BYTES,
    Chunk,
    Form,
    chunk_bytes,
    decode_chunk,
    encode_chunk,
)
from collabedit.errors import MalformedMessageError

SETTING = CkksParameters()
MIXED = CkksParameters(moduli_bits=(56, 40, 32, 56), shift_bits=0)


def make(form: Form, parameters: CkksParameters = SETTING, *, terms: int = 1) -> Chunk:
    rng = np.random.default_rng(form.value)
    residues = np.stack(
        [
            [
                rng.integers(0, prime, parameters.ring_degree, dtype=np.uint64)
                for prime in parameters.wire_primes
            ]
            for _ in range(form.polynomials)
        ]
    )
    for place, prime in enumerate(parameters.wire_primes):
        residues[:, place, 0] = prime - 1
    return Chunk(form, terms, 3, 9, residues, bytes(range(form.seed_bytes)))


def read(data: bytes, form: Form = Form.SEEDED, parameters: CkksParameters = SETTING) -> Chunk:
    return decode_chunk(parameters, data, form=form, index=3, chunks=9)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("parameters", [SETTING, LEAN, MIXED])
def test_a_chunk_comes_back(form: Form, parameters: CkksParameters) -> None:
    made = make(form, parameters)
    data = encode_chunk(parameters, made)
    assert len(data) == chunk_bytes(parameters, form)
    back = read(data, form, parameters)
    assert (back.residues == made.residues).all()
    assert back.seed == made.seed
    assert (back.form, back.terms, back.index, back.chunks) == (form, 1, 3, 9)


def test_a_seeded_chunk_costs_16_bytes_a_number() -> None:
    assert chunk_bytes(SETTING, Form.SEEDED) == 32 + 64 + 16 * 8192


GOOD = encode_chunk(SETTING, make(Form.SEEDED))


def altered(offset: int, data: bytes) -> bytes:
    return GOOD[:offset] + data + GOOD[offset + len(data) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not 0: truncated"),
        (GOOD[:-1], "truncated"),
        (GOOD[: HEADER_BYTES - 1], "truncated"),
        (GOOD + b"\0", "truncated, or of other parameters"),
        (encode_chunk(LEAN, make(Form.SEEDED, LEAN)), "of other parameters"),
        (encode_chunk(MIXED, make(Form.SEEDED, MIXED)), "ring, primes or scale"),
        (bytes(len(GOOD)), "no chunk"),
        (np.random.default_rng(0).bytes(len(GOOD)), "no chunk"),
        (altered(4, b"\x02"), "version 2"),
        (altered(5, b"\x02"), "form 2, expected 1"),
        (altered(5, b"\x63"), "form 99"),
        (altered(6, b"\x02"), "2 uploads, expected 1"),
        (altered(8, struct.pack("<I", 4)), "chunk 4 of 9, expected 3 of 9"),
        (altered(12, struct.pack("<I", 10)), "chunk 3 of 10, expected 3 of 9"),
        (altered(16, b"\xff"), "other parameters: ring, primes or scale"),
        (altered(96, b"\xff" * 8), "not below its prime"),
        (altered(96, struct.pack("<Q", SETTING.data_prime)), "not below its prime"),
        (altered(len(GOOD) - 8, b"\xff" * 8), "not below its prime"),
    ],
)
def test_bytes_that_are_not_the_expected_chunk_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedMessageError, match=message):
        read(data)


@pytest.mark.parametrize(
    "other", [CkksParameters(scale_bits=31), CkksParameters(shift_bits=11)], ids=["scale", "level"]
)
def test_another_scale_of_the_same_length_is_refused(other: CkksParameters) -> None:
    data = encode_chunk(other, make(Form.SEEDED, other))
    assert len(data) == len(GOOD)
    with pytest.raises(MalformedMessageError, match="other parameters"):
        read(data)


def test_a_chunk_does_not_print_what_it_holds() -> None:
    assert "residues" not in repr(make(Form.SEEDED))
    assert "seed=" not in repr(make(Form.SEEDED))
