"""The one door through which randomness comes in.

Everything that draws randomness takes a `Randomness`, so that tests can be reproducible without any
production code path that could be seeded. The seeded twin lives in `tests/support/randomness.py`,
out of the installed package.
"""

import os
from typing import Protocol


class Randomness(Protocol):
    """A source of independent, uniform, unpredictable bytes."""

    def random_bytes(self, count: int) -> bytes:
        """Draw `count` bytes (0 or more). Safe to call from several threads."""
        ...


class SystemRandomness:
    """The operating system's generator (`os.urandom`). The only implementation for production."""

    def random_bytes(self, count: int) -> bytes:
        """Draw `count` bytes.

        Raises:
            ValueError: `count` is negative.
        """
        return os.urandom(count)
