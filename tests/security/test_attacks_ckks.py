"""What one opening of a CKKS sum tells about the key: all of it in tutorials, nothing in ours."""

import numpy as np
import pytest
import tenseal as ts

from collabedit.attacks.ckks_key import (
    chosen_pair,
    key_from_chosen_pair,
    key_from_coefficients,
    key_from_slots,
    published_with_error,
    read_upload,
)
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.parameters import LEAN, CkksParameters
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import Chunk, Form, decode_chunk, encode_chunk
from collabedit.errors import CryptoError, MalformedMessageError, NumericError
from collabedit.ids import PartyId
from tests.support.ckks import SETTING, Task, exact_sum, open_all, upload, vectors

ONE, TWO, THREE = (PartyId(number) for number in (1, 2, 3))
PLAIN = {
    "tutorial": (60, 40, 40, 60),
    "NVFlare": (60, 40, 40),
    "additions only": (60, 60),
}


def pair_of(task: Task) -> np.ndarray:
    """The first chunk of the sum as the aggregator has it: seeds expand to Σc₁."""
    parameters = task.packing.parameters
    chunk = task.summed()[0]
    count = len(task.contributors)
    first = decode_chunk(
        parameters,
        chunk.data,
        form=Form.FIRST,
        index=0,
        chunks=parameters.chunks(task.values),
        terms=count,
    ).residues[0]
    second = np.zeros(first.shape, object)
    for seed in chunk.seeds.values():
        second = second + seal_context(parameters).expand_seed(seed).astype(object)
    primes = np.array(parameters.wire_primes, object)[:, None]
    return np.stack([first, (second % primes).astype(np.uint64)])


def test_without_flooding_one_published_chunk_gives_the_key() -> None:
    inputs = vectors(3, 8192)
    task = upload(inputs, parameters=LEAN)
    pair = pair_of(task)
    released = published_with_error(task.key, pair)
    assert np.abs(released - sum(inputs.values())).max() < 2.0**-33
    found = key_from_coefficients(LEAN, pair, released)
    assert found is not None
    assert found.fingerprint() == task.key.fingerprint()
    # And with it everything that anybody uploaded.
    for party, vector in inputs.items():
        read = read_upload(found, task.uploads[party][0], index=0, chunks=1)
        assert np.abs(read - vector).max() < 2.0**-35


@pytest.mark.parametrize("moduli", PLAIN.values(), ids=PLAIN)
def test_a_published_ckks_vector_gives_the_key(moduli: tuple[int, ...]) -> None:
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        8192,
        coeff_mod_bit_sizes=list(moduli),
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**40
    inputs = [vector / 100 for vector in vectors(3, 8192).values()]
    uploads = [ts.ckks_vector(context, vector) for vector in inputs]
    total = uploads[0] + uploads[1] + uploads[2]
    released = np.array(total.decrypt())
    parameters = CkksParameters(moduli_bits=moduli, scale_bits=40, shift_bits=0)
    bridge = seal_context(parameters)
    found = key_from_slots(
        parameters,
        bridge.read_vector(total),
        [released[:4096], released[4096:]],
        scale=2.0**40,
    )
    assert found is not None
    # It is the key: the first party's upload, which was never opened, opens.
    first, second = bridge.read_vector(uploads[0])[0]
    phase = bridge.phase(found.seal_key(), first, second)
    message = bridge.encode_slots(inputs[0][:4096], 2.0**40)
    prime = parameters.data_prime
    error = (phase[0].astype(object) - message[0].astype(object)) % prime
    coefficients = bridge.from_ntt(error.astype(np.uint64)[None])[0].astype(object)
    centred = np.where(coefficients > prime // 2, coefficients - prime, coefficients)
    assert np.abs(centred).max() <= 23


def test_the_opening_of_ours_gives_no_key() -> None:
    inputs = vectors(3, 8192)
    task = upload(inputs)
    pair = pair_of(task)
    released = open_all(task.opening(), task.summed())
    assert (released == exact_sum(inputs)).all()
    assert key_from_coefficients(SETTING, pair, released) is None


def test_float64_hides_errors_below_a_wide_guard_but_is_no_defence() -> None:
    # The same equation is solved from the whole phase: what saves is that it is not released.
    task = upload(vectors(3, 8192))
    pair, context = pair_of(task), seal_context(SETTING)
    phase = context.phase(task.key.seal_key(), *pair)
    prime = SETTING.data_prime
    quotient = (phase[0].astype(object) - pair[0, 0].astype(object)) % prime
    inverse = np.array([pow(int(value), -1, prime) for value in pair[1, 0]], object)
    secret = (quotient * inverse % prime).astype(np.uint64)
    assert (secret == context.save_key(task.key.seal_key())[0]).all()
    assert key_from_coefficients(SETTING, pair, published_with_error(task.key, pair)) is None


@pytest.mark.slow
def test_a_thousand_openings_of_ours_give_no_key() -> None:
    # Chance of one success by luck: a wrong solution is ternary with probability (3/p)^8192.
    controls = 0
    for seed in range(1000):
        inputs = vectors(3, 8192, seed=seed)
        task = upload(inputs)
        pair = pair_of(task)
        assert key_from_coefficients(SETTING, pair, open_all(task.opening(), task.summed())) is None
        if seed % 50 == 0:
            control = upload(inputs, parameters=LEAN)
            pair = pair_of(control)
            released = published_with_error(control.key, pair)
            controls += key_from_coefficients(LEAN, pair, released) is not None
    assert controls == 20


def test_a_chosen_pair_is_the_key_in_the_clear() -> None:
    # Why the opener expands seeds: flooding alone does not stop it.
    public = upload(vectors(3, 8192), public=True)
    forged = encode_chunk(SETTING, Chunk(Form.PAIR, 3, 0, 1, chosen_pair(SETTING)))
    released = public.opening(bits=30).open_pair(0, forged)
    found = key_from_chosen_pair(SETTING, released)
    assert found is not None
    assert found.fingerprint() == public.key.fingerprint()


def test_an_opener_that_expands_seeds_does_not_take_a_chosen_pair() -> None:
    task = upload(vectors(3, 8192))
    (honest,) = task.summed()
    pair = chosen_pair(SETTING)
    opening = task.opening()
    both = encode_chunk(SETTING, Chunk(Form.PAIR, 3, 0, 1, pair))
    with pytest.raises(CryptoError, match="use open"):
        opening.open_pair(0, both)
    with pytest.raises(MalformedMessageError, match="truncated"):
        opening.open(0, both, honest.seeds)
    first = encode_chunk(SETTING, Chunk(Form.FIRST, 3, 0, 1, pair[:1]))
    with pytest.raises(NumericError, match="beyond"):
        opening.open(0, first, honest.seeds)


def test_the_aggregator_and_any_one_party_read_every_upload() -> None:
    # The stated weakness of a key in common: a masked sum needs all other parties for this.
    inputs = vectors(3, 9000)
    task = upload(inputs)
    colluder = SecretKey.from_bytes(SETTING, task.key.to_bytes())
    for party in (ONE, TWO, THREE):
        read = np.concatenate(
            [
                read_upload(colluder, data, index=index, chunks=2)
                for index, data in enumerate(task.uploads[party])
            ]
        )[:9000]
        assert np.abs(read - inputs[party]).max() <= 2.0**-33


def test_another_key_reads_nothing() -> None:
    task = upload(vectors(3, 8192))
    read = read_upload(SecretKey.generate(SETTING), task.uploads[ONE][0], index=0, chunks=1)
    assert abs(np.corrcoef(read, vectors(3, 8192)[ONE])[0, 1]) < 5 / np.sqrt(8192)
