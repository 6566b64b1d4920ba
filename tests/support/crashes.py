"""A party that dies at a chosen moment: at its n-th write to disk or call of the network.

A dead process says nothing more, so after the crash every write and every call fails. Only writes
of the thread that `CrashPoints.alive` marks count, since parties run as threads of one process.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collabedit.ids import TaskIndex
from collabedit.party.channel import Frames
from collabedit.proto.messages import Packet
from tests.support.loopback import LoopbackChannel


class CrashError(BaseException):
    """What a killed process does not raise; nothing may catch it."""


@dataclass
class CrashPoints:
    """Counts moments, and dies at one of them.

    Attributes:
        deadly: which moment, from 0; None to live.
        passed: moments so far.
        dead: whether it has happened.
        room: writes that still fit on the disk; None for a disk without end.
    """

    deadly: int | None = None
    passed: int = 0
    dead: bool = False
    room: int | None = None
    _thread: threading.Thread | None = None

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Count the writes of this thread."""
        self._thread = threading.current_thread()
        try:
            yield
        finally:
            self._thread = None

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Spare what the other end does with a call, in the same thread."""
        thread, self._thread = self._thread, None
        try:
            yield
        finally:
            self._thread = thread

    def ours(self) -> bool:
        return self._thread is threading.current_thread()

    def point(self) -> None:
        if self.passed == self.deadly:
            self.dead = True
        if self.dead:
            raise CrashError
        self.passed += 1

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make every durable step of the marked thread two moments, before and after it."""
        for place, name in (
            (os, "ftruncate"),
            *((Path, name) for name in ("unlink", "replace", "mkdir")),
        ):
            monkeypatch.setattr(place, name, self._around(getattr(place, name)))
        monkeypatch.setattr(os, "write", self._torn(os.write))
        # A killed process leaves what it wrote to the system, so the disk itself may take its time.
        monkeypatch.setattr(os, "fsync", self._around(lambda _descriptor: None))

    def _around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  stands for any of them
            if not self.ours():
                return real(*arguments, **options)
            self.point()
            result = real(*arguments, **options)
            self.point()
            return result

        return call

    def _torn(self, real: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def write(descriptor: int, data: Any) -> int:  # noqa: ANN401  anything with a buffer
            if not self.ours():
                return real(descriptor, data)
            self.point()
            if self.room is not None:
                self.room -= 1
                if self.room < 0:
                    real(descriptor, bytes(data)[: len(data) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                self.point()
            except CrashError:
                real(descriptor, bytes(data)[: len(data) // 2])
                raise
            written = real(descriptor, data)
            self.point()
            return written

        return write


@dataclass
class MortalChannel(LoopbackChannel):
    """A channel whose calls are moments, before and after they take effect.

    Attributes:
        attempted: what the party let go, whether or not it arrived.
        frames_sent: tile frames that it let go, by task and index.
    """

    points: CrashPoints = field(default_factory=CrashPoints)
    attempted: list[Packet] = field(default_factory=list)
    frames_sent: list[tuple[TaskIndex, bytes]] = field(default_factory=list)

    def join(self, packet: Packet) -> Packet:
        self.points.point()
        answer = super().join(packet)
        self.points.point()
        return answer

    def open(self, session_id: bytes, *, cursor: int = 0) -> None:
        self.points.point()
        super().open(session_id, cursor=cursor)

    def deliver(self, packet: Packet) -> None:
        self.points.point()
        self.attempted.append(packet)
        with self.points.elsewhere():
            super().deliver(packet)
        self.points.point()

    def next_packet(self, timeout: float) -> Packet | None:
        self.points.point()
        packet = super().next_packet(timeout)
        if packet is None:
            self.points.passed -= 1  # waiting in vain is no moment: its number is up to chance
        return packet

    def upload(self, task: TaskIndex, frames: Frames) -> None:
        def mortal(have: frozenset[int]) -> Iterable[bytes]:
            for frame in frames(have):
                self.points.point()
                self.frames_sent.append((task, frame))
                yield frame

        super().upload(task, mortal)
        self.points.point()

    def download(self, task: TaskIndex, *, limit: int) -> bytes:
        self.points.point()
        bundle = super().download(task, limit=limit)
        self.points.point()
        return bundle

    def close(self, *, finished: bool) -> None:
        super().close(finished=finished)
