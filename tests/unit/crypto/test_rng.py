from collabedit.crypto.rng import Randomness, SystemRandomness
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
