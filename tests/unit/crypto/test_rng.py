import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from collabedit.crypto.kdf import derive_key
from collabedit.crypto.rng import Randomness, ReplayableRandomness, SystemRandomness
from tests.support.randomness import InsecureTestRandomness


def test_system_randomness_gives_fresh_bytes_of_the_length_asked_for() -> None:
    randomness: Randomness = SystemRandomness()
    draws = {randomness.random_bytes(32) for _ in range(50)}
    assert len(draws) == 50
    assert {len(draw) for draw in draws} == {32}
    assert randomness.random_bytes(0) == b""


def test_the_test_twin_repeats_by_seed_and_never_within_a_seed() -> None:
    first, again, other = (InsecureTestRandomness(seed) for seed in (1, 1, 2))
    draws = [first.random_bytes(16) for _ in range(20)]
    assert draws == [again.random_bytes(16) for _ in range(20)]
    assert len(set(draws)) == 20
    assert other.random_bytes(16) not in draws


SEED = b"seed" * 8


def test_the_same_seed_and_context_give_the_same_draws_however_they_are_cut() -> None:
    first, again = (ReplayableRandomness(SEED, b"task 3") for _ in range(2))
    assert [first.random_bytes(count) for count in (32, 0, 33, 7)] == [
        again.random_bytes(count) for count in (32, 0, 33, 7)
    ]
    assert first.random_bytes(100) == again.random_bytes(40) + again.random_bytes(60)


def test_another_seed_or_context_gives_other_draws() -> None:
    draws = {
        ReplayableRandomness(seed, context).random_bytes(32)
        for seed in (SEED, b"SEED" * 8)
        for context in (b"task 3", b"task 4")
    }
    assert len(draws) == 4


def test_the_draws_are_aes_in_counter_mode_under_a_derived_key() -> None:
    key = derive_key(SEED, label="task-randomness", context=b"c")
    blocks = b"".join(i.to_bytes(16, "big") for i in range(4))
    want = Cipher(AES(key), ECB()).encryptor().update(blocks)  # noqa: S305  the counter is ours
    assert ReplayableRandomness(SEED, b"c").random_bytes(64) == want


def test_a_seed_of_another_length_and_a_negative_count_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ReplayableRandomness(bytes(31), b"")
    with pytest.raises(ValueError, match="negative"):
        ReplayableRandomness(SEED, b"").random_bytes(-1)


def test_a_seeded_generator_does_not_show_its_seed() -> None:
    assert repr(ReplayableRandomness(SEED, b"")) == "ReplayableRandomness(<secret>)"
