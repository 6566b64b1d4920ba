"""Reproducible randomness for tests: whoever knows the seed knows every secret drawn from it."""

import hashlib
import threading


class InsecureTestRandomness:
    """A seeded twin of `SystemRandomness`: draw i is SHAKE-256 of (seed, i)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draws = 0
        self._lock = threading.Lock()

    def random_bytes(self, count: int) -> bytes:
        with self._lock:
            draw = self._draws
            self._draws += 1
        return hashlib.shake_256(f"insecure test randomness {self._seed} {draw}".encode()).digest(
            count
        )
