"""Records on one's own disk: each opens under its key in its place only."""

import pytest

from collabedit.crypto.storage import OVERHEAD_BYTES, FileKey, record_digest
from collabedit.errors import InvalidSealError
from tests.support.randomness import InsecureTestRandomness

KEY, SALT = b"k" * 32, b"s" * 32
PREVIOUS = record_digest(b"header")


def file_key(key: bytes = KEY, name: str = "file", salt: bytes = SALT) -> FileKey:
    return FileKey(key, name=name, salt=salt)


def sealed(plaintext: bytes = b"inputs") -> bytes:
    randomness = InsecureTestRandomness(1)
    return file_key().seal(plaintext, index=3, previous=PREVIOUS, randomness=randomness)


@pytest.mark.parametrize("plaintext", [b"", b"x", bytes(100_000)])
def test_what_was_sealed_opens(plaintext: bytes) -> None:
    stored = sealed(plaintext)
    assert len(stored) == len(plaintext) + OVERHEAD_BYTES
    assert file_key().open(stored, index=3, previous=PREVIOUS) == plaintext


def test_nothing_opens_in_another_place_file_or_under_another_key() -> None:
    stored = sealed()
    for key, index, previous in (
        (file_key(), 2, PREVIOUS),
        (file_key(), 3, record_digest(b"another header")),
        (file_key(name="other"), 3, PREVIOUS),
        (file_key(salt=b"S" * 32), 3, PREVIOUS),
        (file_key(key=b"K" * 32), 3, PREVIOUS),
    ):
        with pytest.raises(InvalidSealError):
            key.open(stored, index=index, previous=previous)


@pytest.mark.parametrize("bit", range(0, 8 * len(sealed()), 13))
def test_an_altered_bit_is_seen(bit: int) -> None:
    damaged = bytearray(sealed())
    damaged[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(InvalidSealError):
        file_key().open(bytes(damaged), index=3, previous=PREVIOUS)


def test_a_short_record_is_refused() -> None:
    with pytest.raises(InvalidSealError, match="shorter"):
        file_key().open(bytes(OVERHEAD_BYTES - 1), index=0, previous=PREVIOUS)


def test_two_seals_of_one_text_differ() -> None:
    randomness = InsecureTestRandomness(2)
    key = file_key()
    texts = {
        key.seal(b"same", index=0, previous=PREVIOUS, randomness=randomness) for _ in range(20)
    }
    assert len(texts) == 20


def test_the_check_tells_the_right_key_and_nothing_else() -> None:
    check = file_key().check
    assert file_key().fits(check)
    assert not file_key(key=b"K" * 32).fits(check)
    assert not file_key(name="other").fits(check)
    assert KEY not in check


@pytest.mark.parametrize(("key", "salt"), [(b"k" * 31, SALT), (KEY, b"s" * 33)])
def test_keys_and_salts_have_one_length(key: bytes, salt: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        FileKey(key, name="file", salt=salt)


def test_a_file_key_does_not_show_itself() -> None:
    assert repr(file_key()) == "FileKey(<secret>)"
