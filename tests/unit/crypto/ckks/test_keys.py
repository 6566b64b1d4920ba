import pickle

import numpy as np
import pytest

from collabedit.crypto.ckks.adding import Adder
from collabedit.crypto.ckks.encryption import encrypt_integers
from collabedit.crypto.ckks.keys import PublicKey, SecretKey, secret_key_bytes
from collabedit.crypto.ckks.opening import Opening
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import LEAN, CkksParameters
from collabedit.crypto.ckks.seal import seal_context
from collabedit.errors import (
    CryptoError,
    MalformedMessageError,
    NumericError,
    UnexpectedMessageError,
)
from collabedit.ids import PartyId
from tests.support.randomness import InsecureTestRandomness

SETTING = CkksParameters()
KEY = SecretKey.generate(SETTING)
DATA = KEY.to_bytes()


def test_a_secret_key_comes_back_from_its_bytes() -> None:
    assert len(DATA) == secret_key_bytes(SETTING) == 32 + 2048
    back = SecretKey.from_bytes(SETTING, DATA)
    assert back.to_bytes() == DATA
    assert back.fingerprint() == KEY.fingerprint()
    context = seal_context(SETTING)
    assert (context.save_key(back.seal_key()) == context.save_key(KEY.seal_key())).all()


def test_keys_are_fresh_and_ternary() -> None:
    other = SecretKey.generate(SETTING)
    assert other.fingerprint() != KEY.fingerprint()
    codes = np.frombuffer(DATA, np.uint8, offset=32)
    trits = np.concatenate([codes >> shift & 3 for shift in (0, 2, 4, 6)])
    shares = np.bincount(trits, minlength=4) / 8192
    assert shares[3] == 0
    assert np.abs(shares[:3] - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 8192)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "2080 bytes, not 0"),
        (DATA[:-1], "2080 bytes, not 2079"),
        (DATA + b"\0", "2080 bytes, not 2081"),
        (bytes(32) + DATA[32:], "other parameters"),
        (SecretKey.generate(LEAN).to_bytes(), "other parameters"),
        (DATA[:-1] + b"\xff", "ternary"),
        (DATA[:32] + bytes(2048), "ternary"),
    ],
)
def test_bytes_that_are_no_secret_key_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedMessageError, match=message):
        SecretKey.from_bytes(SETTING, data)


def test_a_deleted_key_does_nothing_more() -> None:
    key = SecretKey.from_bytes(SETTING, DATA)
    key.delete()
    for use in (key.to_bytes, key.fingerprint, key.public_key, key.seal_key):
        with pytest.raises(CryptoError, match="was deleted"):
            use()


def test_a_key_claims_one_opening() -> None:
    key = SecretKey.from_bytes(SETTING, DATA)
    key.claim_opening()
    with pytest.raises(UnexpectedMessageError, match="opens one sum"):
        key.claim_opening()


def test_a_key_shows_nothing() -> None:
    hexed = DATA.hex()
    for text in (repr(KEY), str(KEY), f"{KEY}", repr([KEY])):
        assert "<secret>" in text
        assert hexed[80:96] not in text
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(KEY, protocol)
    assert SecretKey.from_bytes(SETTING, DATA) != KEY


def test_a_refusal_shows_nothing_of_a_key() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        SecretKey.from_bytes(SETTING, DATA[:-1] + b"\xff")
    assert DATA[40:50].hex() not in repr(caught.value) + str(caught.value)


def test_a_public_key_comes_back_from_its_bytes() -> None:
    public = KEY.public_key()
    data = public.to_bytes()
    assert len(data) == 32 + 8 * 2 * 3 * 8192
    assert PublicKey.from_bytes(SETTING, data).to_bytes() == data
    assert PublicKey.from_bytes(SETTING, data).fingerprint() == public.fingerprint()
    assert KEY.public_key().fingerprint() != public.fingerprint()


def test_bytes_that_are_no_public_key_are_refused() -> None:
    data = KEY.public_key().to_bytes()
    for wrong, message in (
        (data[:-1], "bytes, not"),
        (bytes(32) + data[32:], "other parameters"),
        (data[:-8] + b"\xff" * 8, "not below its prime"),
    ):
        with pytest.raises(MalformedMessageError, match=message):
            PublicKey.from_bytes(SETTING, wrong)


def test_a_derived_key_is_the_same_each_time_and_uniform() -> None:
    seed = bytes(range(32))
    key = SecretKey.derive(SETTING, seed)
    again, other = SecretKey.derive(SETTING, seed), SecretKey.derive(SETTING, bytes(32))
    assert key.fingerprint() == again.fingerprint() != other.fingerprint()
    packed = np.frombuffer(key.to_bytes()[32:], np.uint8)
    codes = np.stack([packed >> shift & 3 for shift in range(0, 8, 2)], axis=1).reshape(-1)
    counts = np.bincount(codes, minlength=3)
    # Four standard deviations of a third of 8192.
    assert (np.abs(counts - SETTING.ring_degree / 3) < 4 * 43).all()


def test_a_derived_key_opens_integers_exactly() -> None:
    key = SecretKey.derive(SETTING, bytes(32))
    packing = Packing(SETTING, 100.0, 3)
    rng = np.random.default_rng(1)
    reach, parties = packing.largest_integer, [PartyId(1), PartyId(2), PartyId(3)]
    values = {party: rng.integers(-reach, reach, 8200, endpoint=True) for party in parties}
    adder = Adder(SETTING, values=8200, contributors=parties)
    for party, integers in values.items():
        for index, chunk in enumerate(encrypt_integers(key, integers, packing)):
            adder.add(party, index, chunk)
    opening = Opening(
        key, packing, values=8200, contributors=parties, randomness=InsecureTestRandomness(1)
    )
    summed = [adder.take(index) for index in range(adder.chunks)]
    opened = [opening.open_integers(each.index, each.data, each.seeds) for each in summed]
    np.testing.assert_array_equal(np.concatenate(opened), sum(values.values()))


def test_integers_beyond_the_bound_are_refused_before_anything_is_encrypted() -> None:
    key = SecretKey.derive(SETTING, bytes(32))
    packing = Packing(SETTING, 100.0, 3)
    integers = np.zeros(9000, np.int64)
    integers[-1] = -packing.largest_integer - 1
    with pytest.raises(NumericError, match="bound"):
        next(encrypt_integers(key, integers, packing))
