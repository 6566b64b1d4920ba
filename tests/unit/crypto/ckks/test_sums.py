"""Encrypting, adding and opening."""

import multiprocessing
import pickle
import tracemalloc

import numpy as np
import pytest

from collabedit.crypto.ckks.adding import Adder
from collabedit.crypto.ckks.encryption import Uploader, encrypt_vector
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.modular import add_mod
from collabedit.crypto.ckks.opening import Opening
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import LEAN, CkksParameters
from collabedit.crypto.ckks.wire import Chunk, Form, chunk_bytes, decode_chunk, encode_chunk
from collabedit.errors import (
    CryptoError,
    MalformedMessageError,
    NumericError,
    UnexpectedMessageError,
)
from collabedit.ids import PartyId
from tests.support.ckks import BOUND, SETTING, exact_sum, open_all, upload, vectors
from tests.support.randomness import InsecureTestRandomness

ONE, TWO, THREE, FOUR = (PartyId(number) for number in (1, 2, 3, 4))


@pytest.mark.parametrize("values", [1, 8191, 8192, 8193, 9 * 8192 + 5])
def test_the_opened_sum_is_the_exact_sum_of_the_rounded_inputs(values: int) -> None:
    inputs = vectors(3, values)
    task = upload(inputs)
    opened = open_all(task.opening(), task.summed())
    assert opened.shape == (values,)
    assert (opened == exact_sum(inputs)).all()
    assert np.abs(opened - sum(inputs.values())).max() <= 3 / 2 * 2.0**-32 + 2.0**-44


def test_under_the_public_key_too() -> None:
    inputs = vectors(3, 10000)
    task = upload(inputs, public=True)
    assert len(task.uploads[ONE][0]) == chunk_bytes(SETTING, Form.PAIR)
    assert (open_all(task.opening(bits=38), task.summed()) == exact_sum(inputs)).all()


@pytest.mark.parametrize(
    "parameters",
    [
        CkksParameters(moduli_bits=(56, 40, 32, 56), shift_bits=0),
        CkksParameters(moduli_bits=(60, 60), scale_bits=8, shift_bits=40),
        CkksParameters(4096, (36, 36, 37), scale_bits=16, shift_bits=0),
        CkksParameters(16384, (60, 60, 60)),
    ],
)
def test_with_other_rings_and_guards(parameters: CkksParameters) -> None:
    inputs = vectors(3, parameters.ring_degree + 3)
    task = upload(inputs, parameters=parameters)
    opened = open_all(task.opening(bits=10), task.summed())
    assert (opened == exact_sum(inputs, parameters)).all()


def test_sums_at_the_bound_do_not_wrap() -> None:
    inputs = {PartyId(i): np.full(4, BOUND) * [1, -1, 1, -1] for i in range(1, 4)}
    task = upload(inputs)
    assert open_all(task.opening(), task.summed()).tolist() == [300.0, -300.0, 300.0, -300.0]
    edge = SETTING.largest_real_sum / 3 * (1 - 1e-9)
    Packing(SETTING, edge, 3)
    with pytest.raises(NumericError, match="may exceed the data prime"):
        Packing(SETTING, edge * 1.001, 3)


def test_worker_processes_make_the_same_sum() -> None:
    inputs = vectors(3, 20 * 8192)
    key, packing = SecretKey.generate(SETTING), Packing(SETTING, BOUND, 3)
    uploads = {
        party: list(encrypt_vector(key, vector, packing, processes=2 if party == ONE else 0))
        for party, vector in inputs.items()
    }
    adder = Adder(SETTING, values=20 * 8192, contributors=inputs)
    for party, chunks in uploads.items():
        for index, chunk in enumerate(chunks):
            adder.add(party, index, chunk)
    opening = Opening(
        key,
        packing,
        values=20 * 8192,
        contributors=inputs,
        randomness=InsecureTestRandomness(1),
    )
    summed = [adder.take(index) for index in range(adder.chunks)]
    assert (open_all(opening, summed) == exact_sum(inputs)).all()
    assert not multiprocessing.active_children()


def test_a_vector_is_checked_before_its_first_chunk_leaves() -> None:
    key, packing = SecretKey.generate(SETTING), Packing(SETTING, BOUND, 3)
    vector = np.zeros(9 * 8192)
    vector[-1] = 2 * BOUND
    with pytest.raises(NumericError, match="nothing was sent"):
        next(encrypt_vector(key, vector, packing))
    vector[-1] = np.nan
    with pytest.raises(NumericError, match="not finite"):
        next(encrypt_vector(key, vector, packing))


def test_what_cannot_be_encrypted_is_refused() -> None:
    key, packing = SecretKey.generate(SETTING), Packing(SETTING, BOUND, 3)
    with pytest.raises(ValueError, match="one number at least"):
        next(encrypt_vector(key, np.zeros(0), packing))
    with pytest.raises(ValueError, match="one number at least"):
        next(encrypt_vector(key, np.zeros((2, 2)), packing))
    with pytest.raises(TypeError, match="float64"):
        next(encrypt_vector(key, np.zeros(2, np.float32), packing))
    with pytest.raises(ValueError, match="different parameters"):
        next(encrypt_vector(key, np.zeros(2), Packing(LEAN, BOUND, 3)))


def test_chunks_are_made_as_they_are_taken() -> None:
    # 100 chunks are 13 MB of uploads; a batch is 1 MB, and a few copies of it.
    key, packing = SecretKey.generate(SETTING), Packing(SETTING, BOUND, 3)
    vector = np.zeros(100 * 8192)
    made = encrypt_vector(key, vector, packing)
    next(made)
    tracemalloc.start()
    assert sum(1 for _ in made) == 99
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_uploads_of_one_vector_differ() -> None:
    key, packing = SecretKey.generate(SETTING), Packing(SETTING, BOUND, 3)
    uploader = Uploader(key)
    (first,), (second,) = (
        uploader.encrypt_integers(np.zeros(5, np.int64), packing, first=0, chunks=1)
        for _ in range(2)
    )
    assert first[:32] == second[:32]
    assert first[32:96] != second[32:96]
    assert first[96:] != second[96:]


def test_uploaders_and_openings_show_and_pickle_nothing() -> None:
    task = upload(vectors(3, 5))
    for thing in (Uploader(task.key), task.opening()):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(thing)
        assert task.key.to_bytes().hex()[80:96] not in repr(thing)


# The aggregator


def test_an_adder_takes_each_chunk_of_each_contributor_once() -> None:
    task = upload(vectors(3, 9000))
    adder = Adder(SETTING, values=9000, contributors=(ONE, TWO))
    assert adder.missing(0) == {ONE, TWO}
    adder.add(ONE, 0, task.uploads[ONE][0])
    assert adder.missing(0) == {TWO}
    with pytest.raises(UnexpectedMessageError, match="was added before"):
        adder.add(ONE, 0, task.uploads[ONE][0])
    with pytest.raises(UnexpectedMessageError, match="not in this sum"):
        adder.add(THREE, 0, task.uploads[THREE][0])
    with pytest.raises(UnexpectedMessageError, match="lacks 1"):
        adder.take(0)
    with pytest.raises(UnexpectedMessageError, match="lacks 2"):
        adder.take(1)
    adder.add(TWO, 0, task.uploads[TWO][0])
    adder.take(0)
    assert adder.missing(0) == set()
    with pytest.raises(UnexpectedMessageError, match="taken before"):
        adder.take(0)
    with pytest.raises(UnexpectedMessageError, match="was added before"):
        adder.add(TWO, 0, task.uploads[TWO][0])
    with pytest.raises(UnexpectedMessageError, match="no chunk 2 of 2"):
        adder.add(TWO, 2, task.uploads[TWO][0])


def test_a_refused_chunk_leaves_the_sum_as_it_was() -> None:
    inputs = vectors(3, 100)
    task = upload(inputs)
    adder = Adder(SETTING, values=100, contributors=task.contributors)
    adder.add(ONE, 0, task.uploads[ONE][0])
    wrong = task.uploads[TWO][0][:-8] + b"\xff" * 8
    with pytest.raises(MalformedMessageError, match="not below its prime"):
        adder.add(TWO, 0, wrong)
    adder.add(TWO, 0, task.uploads[TWO][0])
    adder.add(THREE, 0, task.uploads[THREE][0])
    assert (open_all(task.opening(), [adder.take(0)]) == exact_sum(inputs)).all()


def test_a_sum_has_contributors() -> None:
    with pytest.raises(ValueError, match="contributors"):
        Adder(SETTING, values=1, contributors=())


# Who opens


def test_a_key_opens_one_sum() -> None:
    task = upload(vectors(4, 10))
    open_all(task.opening(ONE, TWO, THREE), task.summed(ONE, TWO, THREE))
    with pytest.raises(UnexpectedMessageError, match="opens one sum"):
        task.opening(ONE, TWO, FOUR)


def test_a_chunk_is_opened_once() -> None:
    task = upload(vectors(3, 10))
    opening, (chunk,) = task.opening(), task.summed()
    opening.open(0, chunk.data, chunk.seeds)
    with pytest.raises(UnexpectedMessageError, match="opened before"):
        opening.open(0, chunk.data, chunk.seeds)
    with pytest.raises(UnexpectedMessageError, match="no chunk 1 of 1"):
        opening.open(1, chunk.data, chunk.seeds)


def test_two_parties_are_not_opened() -> None:
    task = upload(vectors(3, 10))
    with pytest.raises(CryptoError, match="3 is the least"):
        task.opening(ONE, TWO)
    task.opening()  # the refusal has not spent the key


def test_a_guard_that_is_too_small_is_refused_and_the_key_not_spent() -> None:
    task = upload(vectors(3, 10), parameters=LEAN)
    with pytest.raises(NumericError, match=r"flooded to 0\.0 bits, not 40"):
        task.opening()
    assert not task.key._opened


def test_a_deleted_key_opens_nothing() -> None:
    task = upload(vectors(3, 10))
    task.key.delete()
    with pytest.raises(CryptoError, match="was deleted"):
        task.opening()


def test_a_single_upload_cannot_be_passed_off_as_the_sum() -> None:
    # The aggregator puts one party's polynomial where the sum should be; the seeds of the
    # contributors do not fit it, and what is opened is beyond every bound.
    task = upload(vectors(3, 8192))
    (honest,) = task.summed()
    alone = decode_chunk(SETTING, task.uploads[ONE][0], form=Form.SEEDED, index=0, chunks=1)
    forged = encode_chunk(SETTING, Chunk(Form.FIRST, 3, 0, 1, alone.residues))
    with pytest.raises(NumericError, match="beyond what the parties may contribute"):
        task.opening().open(0, forged, honest.seeds)


@pytest.mark.parametrize("lie", ["leaves one out", "names another", "doubles one", "cuts one"])
def test_seeds_of_others_than_the_contributors_are_refused(lie: str) -> None:
    task = upload(vectors(4, 10))
    (chunk,) = task.summed(ONE, TWO, THREE)
    seeds = dict(chunk.seeds)
    if lie == "leaves one out":
        del seeds[ONE]
    elif lie == "names another":
        seeds[FOUR] = seeds.pop(ONE)
    elif lie == "doubles one":
        seeds[TWO] = seeds[ONE]
    else:
        seeds[ONE] = seeds[ONE][:-1]
    with pytest.raises((CryptoError, MalformedMessageError), match="seed"):
        task.opening(ONE, TWO, THREE).open(0, chunk.data, seeds)


def test_the_wrong_door_is_refused() -> None:
    secret, public = upload(vectors(3, 10)), upload(vectors(3, 10), public=True)
    (chunk,), (pair,) = secret.summed(), public.summed()
    with pytest.raises(CryptoError, match="use open"):
        secret.opening().open_pair(0, chunk.data)
    with pytest.raises(CryptoError, match="use open_pair"):
        public.opening().open(0, pair.data, {})


def test_a_sum_under_another_key_is_refused() -> None:
    task, other = upload(vectors(3, 8192)), upload(vectors(3, 8192))
    (chunk,) = other.summed()
    with pytest.raises(NumericError, match="under another key"):
        task.opening().open(0, chunk.data, chunk.seeds)


def test_settings_that_do_not_fit_together_are_refused() -> None:
    task = upload(vectors(3, 10))
    for packing in (Packing(CkksParameters(scale_bits=30), BOUND, 3), Packing(SETTING, BOUND, 2)):
        with pytest.raises(ValueError, match=r"parameters|more contributors"):
            Opening(
                task.key,
                packing,
                values=10,
                contributors=task.contributors,
                randomness=InsecureTestRandomness(1),
            )


def test_an_adder_adds_modulo_every_prime() -> None:
    task = upload(vectors(3, 10))
    parts = [
        decode_chunk(SETTING, task.uploads[party][0], form=Form.SEEDED, index=0, chunks=1)
        for party in task.contributors
    ]
    (chunk,) = task.summed()
    total = decode_chunk(SETTING, chunk.data, form=Form.FIRST, index=0, chunks=1, terms=3)
    for place, prime in enumerate(SETTING.wire_primes):
        expected = add_mod(
            add_mod(parts[0].residues[0, place], parts[1].residues[0, place], prime),
            parts[2].residues[0, place],
            prime,
        )
        assert (total.residues[0, place] == expected).all()
