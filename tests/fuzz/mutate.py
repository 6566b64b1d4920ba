"""A small seeded mutator, for where no coverage-guided fuzzer is installed."""

from collections.abc import Iterator, Sequence

from tests.fuzz.choices import Choices
from tests.support.randomness import InsecureTestRandomness

INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\xff" * 9 + b"\x01")
"""Edges of bytes, words and varints."""


def mutations(seeds: Sequence[bytes], *, count: int, seed: int, longest: int) -> Iterator[bytes]:
    """Yield `count` inputs: seeds with bytes changed, cut, doubled, inserted, or two joined."""
    randomness = InsecureTestRandomness(seed)
    for _ in range(count):
        choices = Choices(randomness.random_bytes(64))
        data = bytearray(choices.pick(seeds))
        for _ in range(1 + choices.below(4)):
            _once(choices, data, seeds)
        yield bytes(data[:longest])


def _once(choices: Choices, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = choices.below(max(257, len(data) + 1)) % (len(data) + 1)
    match choices.below(7):
        case 0 if at < len(data):
            data[at] ^= 1 << choices.below(8)
        case 1 if at < len(data):
            data[at] = choices.byte()
        case 2:
            del data[at:]
        case 3:
            data[at:at] = choices.take(1 + choices.below(8))
        case 4:
            data[at : at + 1] = choices.pick(INTERESTING)
        case 5:
            data[at:] = choices.pick(seeds)[at:]
        case _:
            data += choices.take(8)
