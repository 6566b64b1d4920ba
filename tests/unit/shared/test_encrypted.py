"""What a plan fixes of ciphertexts is what `crypto.ckks` makes of it."""

import math
from typing import Any

import numpy as np
import pytest

from collabedit import encrypted
from collabedit.ciphertexts import (
    WORDS,
    check_words,
    chunk_words,
    offer_bytes,
    opened_layout,
    plan_packing,
    plan_parameters,
    split_chunks,
    task_chunks,
    upload_seeds,
)
from collabedit.crypto.ckks.flooding import DEFAULT_STATISTICAL_BITS, flooding_plan
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import FRESH_NOISE, CkksParameters
from collabedit.crypto.ckks.wire import Form, chunk_bytes
from collabedit.errors import InputError, NumericError, PlanError
from collabedit.exchange import TileLayout
from collabedit.ids import TaskIndex
from tests.support.federations import build_federation, encrypted_federation

FIRST = TaskIndex(0)
DEFAULT = CkksParameters()


def test_the_plans_arithmetic_is_that_of_crypto() -> None:
    assert DEFAULT.ring_degree == encrypted.RING_DEGREE
    assert DEFAULT.moduli_bits == encrypted.PRIME_BITS
    assert DEFAULT.wire_primes == (encrypted.DATA_PRIME, encrypted.GUARD_PRIME)
    assert encrypted.UPLOAD_NOISE == FRESH_NOISE
    assert encrypted.STATISTICAL_BITS == DEFAULT_STATISTICAL_BITS
    assert chunk_bytes(DEFAULT, Form.SEEDED) == encrypted.CHUNK_BYTES == 8 * encrypted.CHUNK_WORDS
    assert chunk_bytes(DEFAULT, Form.FIRST) == encrypted.SUM_CHUNK_BYTES


@pytest.mark.parametrize("values", [1, 8192, 8193, 10**6, 2**24, 2**27])
@pytest.mark.parametrize("parties", [3, 10, 500])
def test_the_guard_is_the_smallest_that_floods_enough(values: int, parties: int) -> None:
    bits = encrypted.guard_bits(values, parties)
    padded = encrypted.chunks(values) * encrypted.RING_DEGREE
    chosen = CkksParameters(scale_bits=20, shift_bits=bits)
    assert flooding_plan(chosen, parties=parties, values=padded).statistical_bits >= 40
    if bits:
        smaller = CkksParameters(scale_bits=20, shift_bits=bits - 1)
        with pytest.raises(NumericError, match="shift_bits"):
            flooding_plan(smaller, parties=parties, values=padded)


@pytest.mark.parametrize("fractional", [20, 30, 40, 47, 60])
@pytest.mark.parametrize("bound", [0.7, 1000.0, 123456.789, 2.0**25])
def test_room_is_what_a_packing_has(fractional: int, bound: float) -> None:
    sizes = {"values": 10**6, "parties": 7}

    def packs() -> bool:
        shift = encrypted.guard_bits(**sizes)
        try:
            Packing(CkksParameters(scale_bits=fractional, shift_bits=shift), bound, 7)
        except (InputError, NumericError, ValueError):
            return False
        return True

    def fits() -> bool:
        try:
            encrypted.check_room(**sizes, fractional_bits=fractional, magnitude_bound=bound)
        except ValueError:
            return False
        return True

    assert fits() == packs()


def test_a_plan_gives_the_same_parameters_to_both_ends() -> None:
    plan = encrypted_federation(4, layers=2).plan
    parameters = plan_parameters(plan)
    assert parameters.scale_bits == plan.aggregation.fractional_bits
    assert parameters.shift_bits == plan.guard_bits
    assert plan_packing(plan).fixed_point.magnitude_bound == plan.aggregation.magnitude_bound
    assert opened_layout(plan, FIRST).elements == plan.statistics_length(FIRST)


def test_an_upload_is_taken_apart_as_it_was_put_together() -> None:
    plan = encrypted_federation(4, capacity=150).plan
    count = task_chunks(plan, FIRST)
    assert count == 2
    rng = np.random.default_rng(1)
    pieces = [rng.bytes(encrypted.CHUNK_BYTES) for _ in range(count)]
    checks = rng.integers(0, 2**63, plan.check_length(FIRST), dtype=WORDS.dtype)
    words = np.concatenate([np.frombuffer(b"".join(pieces), "<u8").astype(WORDS.dtype), checks])
    assert len(words) == plan.upload_length(FIRST) == TileLayout.of(plan, FIRST).elements
    chunks = split_chunks(words[chunk_words(0, count)])
    assert [chunk.tobytes() for chunk in chunks] == pieces
    assert split_chunks(words[chunk_words(1, 2)]).tobytes() == pieces[1]
    np.testing.assert_array_equal(words[check_words(plan, FIRST)], checks)
    assert upload_seeds(plan, FIRST, words) == b"".join(piece[32:96] for piece in pieces)
    assert offer_bytes(plan, FIRST, 3) == count * (3 * 64 + encrypted.CHUNK_BYTES - 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"closed": None}, "add [closed], or use masked"),
        ({"ring_bits": 32, "fractional_bits": 10, "magnitude_bound": 10.0}, "must be 64"),
        ({"corruptions": 1}, "leave it out, or use masked"),
        ({"fractional_bits": 58, "magnitude_bound": 1.0}, "at most"),
        ({"magnitude_bound": 1e7}, "lower one of the two"),
        ({"closed": None, "epsilon": 8.0, "fractional_bits": 34}, "goes neither with privacy"),
        ({"backend": '"paillier"'}, "backend"),
    ],
)
def test_a_plan_that_does_not_hold_together_says_what_to_do(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError) as refused:
        encrypted_federation(5, **changes)
    assert said in str(refused.value)


def test_what_a_refused_bound_is_told_to_be_fits() -> None:
    with pytest.raises(PlanError, match="each: lower") as refused:
        encrypted_federation(5, magnitude_bound=1e7)
    (room,) = [float(word) for word in str(refused.value).split() if word[0].isdigit()][-1:]
    encrypted_federation(5, magnitude_bound=math.floor(room))


def test_masked_plans_are_as_they_were() -> None:
    plan = build_federation(4).plan
    assert not plan.is_encrypted
    assert plan.upload_length(FIRST) == plan.task_length(FIRST)
