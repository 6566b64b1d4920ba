"""Seconds by phase."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by phase, in the order in which phases were entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        started = time.monotonic()
        self._running = name, started
        try:
            yield
        finally:
            with self._lock:
                self._running = None
                self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def so_far(self) -> dict[str, float]:
        """Return the seconds with those of the running phase. Safe from another thread."""
        with self._lock:
            running, seconds = self._running, dict(self.seconds)
        if running is not None:
            name, started = running
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
        return seconds
