"""Taking in uploads: frames are checked and written by a few threads while the next ones arrive.

The thread of a call only waits for its frames. Hashes, writes and syncs let go of the interpreter's
lock, so they run beside each other and beside the network. Frames that were received and are not
written yet are bounded over all uploads together: who brings more is not read any further, and
waits by HTTP/2's flow control.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from collabedit.aggregator.coordinator import Coordinator
from collabedit.ahead import LEAST_BYTES, usable_threads
from collabedit.ids import PartyId, TaskIndex

SETTLE_BYTES = 16 << 20
"""Bytes of an upload between two writes of its bitmap: what a crash makes a party send again."""

SETTLING_THREADS: Final = 2
"""Beyond the cores' number: threads that wait for the disk leave it to others to use the cores."""


class Intake:
    """Writes frames of all uploads.

    Args:
        coordinator: takes them.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        threads = usable_threads(LEAST_BYTES) + SETTLING_THREADS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
        self.frames = 2 * threads
        """That are received and not written, at most, beside one in the hand of each upload."""
        self._room = threading.BoundedSemaphore(self.frames)

    def close(self) -> None:
        """End the threads, once they have written what they were given."""
        self._pool.shutdown()

    def take(
        self,
        party: PartyId,
        task: TaskIndex,
        frames: Iterator[bytes],
        next_turn: Callable[[], bool],
    ) -> bool:
        """Take an upload to its end; then every frame of it is on the disk for good.

        Args:
            party: whose.
            task: to which task.
            frames: as they arrive.
            next_turn: called after each frame, may wait; False ends the upload early.

        Returns:
            Whether the upload came to its end.

        Raises:
            CollabEditError: see `Coordinator.put_frame` and `settle_upload`.
        """
        upload = _Upload(self._coordinator, party, task)
        under_way: list[Future[None]] = []
        try:
            for frame in frames:
                self._room.acquire()
                under_way.append(self._pool.submit(self._write, upload, frame))
                del frame  # not to be held while the next one is awaited
                under_way = _unfinished(under_way)
                if not next_turn():
                    return False
        finally:
            # Whatever ends the upload, nothing of it may be written after this call is over.
            errors = [error for future in under_way if (error := future.exception()) is not None]
        for error in errors:
            raise error
        upload.settle()
        return True

    def _write(self, upload: "_Upload", frame: bytes) -> None:
        try:
            upload.put(frame)
        finally:
            self._room.release()


class _Upload:
    """One upload, and how much of it is not settled yet."""

    def __init__(self, coordinator: Coordinator, party: PartyId, task: TaskIndex) -> None:
        self._coordinator = coordinator
        self._party = party
        self._task = task
        self._lock = threading.Lock()
        self._unsettled = 0

    def put(self, frame: bytes) -> None:
        self._coordinator.put_frame(self._party, self._task, frame)
        with self._lock:
            self._unsettled += len(frame)
            is_due = self._unsettled >= SETTLE_BYTES
            if is_due:
                self._unsettled = 0
        if is_due:
            self.settle()

    def settle(self) -> None:
        self._coordinator.settle_upload(self._party, self._task)


def _unfinished(under_way: list[Future[None]]) -> list[Future[None]]:
    """Return those that are not done; raises the error of one that failed."""
    left = []
    for future in under_way:
        if future.done():
            future.result()
        else:
            left.append(future)
    return left
