"""Decisions out of a byte string, so that a fuzzer that changes bytes changes decisions."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Read bytes from the front; beyond the end everything is zero, the first choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_exhausted(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, bound: int) -> int:
        """Return 0 to bound - 1, from one byte if that can tell them apart, else from two."""
        value = self.byte()
        if bound > 256:
            value += self.byte() << 8
        return value % bound

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def take(self, count: int) -> bytes:
        return bytes(self.byte() for _ in range(count))

    def rest(self) -> bytes:
        left = self._data[self._at :]
        self._at = len(self._data)
        return left
