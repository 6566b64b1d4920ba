"""What crosses the aggregator's wire, counted: calls and how they ended, messages, bytes.

An interceptor around every method, so that no method has to count by itself. It sees sizes and
status codes, never contents, and keeps one row for each method that the server has: a caller who
invents methods makes no rows.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import grpc

RATE_SECONDS = 60
"""Over how long the rates are: long enough that one frame does not make them jump."""

UPLOAD = "Upload"
"""The method whose messages are frames of a contribution."""


_Unary: TypeAlias = Callable[[Iterator[bytes], grpc.ServicerContext], bytes]
_Streaming: TypeAlias = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]


@dataclass(slots=True)
class MethodTraffic:
    """Counts of one method since the server began.

    Attributes:
        received_bytes: of messages of parties; without gRPC's and TLS's own bytes.
        sent_bytes: of answers, likewise.
        received_messages: for `Upload`, these are frames.
        sent_messages: answers, or chunks of a download.
        is_open: calls that are being served now.
        ended: calls by the name of their status code.
    """

    received_bytes: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    sent_messages: int = 0
    is_open: int = 0
    ended: Counter[str] = field(default_factory=Counter)


class Traffic(grpc.ServerInterceptor):
    """Counts of all methods. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._methods: dict[str, MethodTraffic] = {}
        self._recent: deque[tuple[int, int, int]] = deque(maxlen=RATE_SECONDS)

    def methods(self) -> dict[str, MethodTraffic]:
        """Return a copy of the counts of each method that was called."""
        with self._lock:
            return {
                name: replace(counts, ended=counts.ended.copy())
                for name, counts in self._methods.items()
            }

    def rates(self, now: float | None = None) -> tuple[float, float]:
        """Return bytes per second, received and sent, over the last `RATE_SECONDS`."""
        since = int(time.monotonic() if now is None else now) - RATE_SECONDS
        with self._lock:
            recent = [entry for entry in self._recent if entry[0] > since]
        received, sent = sum(entry[1] for entry in recent), sum(entry[2] for entry in recent)
        return received / RATE_SECONDS, sent / RATE_SECONDS

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401  gRPC's handlers are generic in both messages
        """Wrap a method's handler; see `grpc.ServerInterceptor`."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None  # no such method: gRPC says so
        name = handler_call_details.method.rpartition("/")[2]
        with self._lock:
            counts = self._methods.setdefault(name, MethodTraffic())
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._unary(handler.stream_unary, counts))
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler.stream_stream, counts)
            )
        return handler

    def _unary(self, method: _Unary, counts: MethodTraffic) -> _Unary:
        def counted(frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            returned = False
            self._open(counts, 1)
            try:
                answer = method(self._received(frames, counts), context)
                returned = True
            finally:
                self._ended(counts, context, returned=returned)
            self._count(counts, sent=len(answer))
            return answer

        return counted

    def _streaming(self, method: _Streaming, counts: MethodTraffic) -> _Streaming:
        def counted(frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            returned = False
            self._open(counts, 1)
            try:
                for chunk in method(self._received(frames, counts), context):
                    yield chunk
                    self._count(counts, sent=len(chunk))
                returned = True
            finally:
                self._ended(counts, context, returned=returned)

        return counted

    def _received(self, frames: Iterator[bytes], counts: MethodTraffic) -> Iterator[bytes]:
        for frame in frames:
            self._count(counts, received=len(frame))
            yield frame

    def _open(self, counts: MethodTraffic, change: int) -> None:
        with self._lock:
            counts.is_open += change

    def _count(
        self, counts: MethodTraffic, *, received: int | None = None, sent: int | None = None
    ) -> None:
        second = int(time.monotonic())
        with self._lock:
            if received is not None:
                counts.received_bytes += received
                counts.received_messages += 1
            if sent is not None:
                counts.sent_bytes += sent
                counts.sent_messages += 1
            before = (0, 0)
            if self._recent and self._recent[-1][0] == second:
                before = self._recent.pop()[1:]
            self._recent.append((second, before[0] + (received or 0), before[1] + (sent or 0)))

    def _ended(
        self, counts: MethodTraffic, context: grpc.ServicerContext, *, returned: bool
    ) -> None:
        # Not in the stubs, but in every server context since grpcio 1.36.
        code = context.code()  # type: ignore[attr-defined]
        if isinstance(code, int):
            code = next((each for each in grpc.StatusCode if each.value[0] == code), None)
        if code is None:
            code = grpc.StatusCode.OK if returned else grpc.StatusCode.UNKNOWN
            if not returned and not context.is_active():
                code = grpc.StatusCode.CANCELLED
        with self._lock:
            counts.is_open -= 1
            counts.ended[code.name] += 1
