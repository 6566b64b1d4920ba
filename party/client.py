"""The gRPC end of a party: mutual TLS, retries, the background long poll.

SPEC 5. A call that fails because the aggregator cannot be reached, stops, or has no room left is
repeated with growing pauses until `patience` seconds have passed; a call that it answered with a
refusal is not. Repeating is harmless: control messages are idempotent, and so are the tiles of an
upload, of which those that arrived for good are not sent again.
"""

import contextlib
import io
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from collabedit.errors import (
    AbortReason,
    CollabEditError,
    ProtocolError,
    SessionAbortedError,
    StorageError,
    TransportError,
)
from collabedit.exchange import bitmap_tiles
from collabedit.ids import TaskIndex
from collabedit.party.channel import Frames
from collabedit.proto.codec import (
    MAXIMUM_PACKET_BYTES,
    decode_collect_reply,
    decode_packet,
    encode_collect_request,
    encode_packet,
)
from collabedit.proto.messages import Packet

T = TypeVar("T")

POLL_SECONDS = 10.0
CALL_SECONDS = 30.0
FAREWELL_SECONDS = 2.0
MAXIMUM_BITMAP_BYTES = 1 << 20
"""Tiles beyond are sent whatever the aggregator says: no answer of it may fill our memory."""

# A server that is killed gives UNAVAILABLE to every open call, one that stops UNAVAILABLE or
# CANCELLED (seen with grpcio 1.85: six servers killed and six stopped under five calls each).
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
# Other builds of gRPC and proxies report a connection that broke under a stream like this; the same
# codes with other words are an answer.
_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_BROKEN_WORDS = ("RST_STREAM", "Stream removed", "Socket closed", "Connection reset", "GOAWAY")
_REASONS = {reason.name: reason for reason in AbortReason}


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM texts: own certificate and key, and the authority that issued the aggregator's one."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


class GrpcChannel:
    """A `Channel` over gRPC with mutual TLS.

    Args:
        address: `host:port` of the aggregator.
        tls: own identity on the network.
        server_name: name on the aggregator's certificate.
        patience: seconds to keep trying an aggregator that cannot be reached.
        upload_seconds: longest upload.
        poll_seconds: longest hold of the background poll; well under the plan's liveness, since a
            poll is the party's sign of life.
        rate_limit: bytes per second of an upload; None for no limit.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ClientTls,
        server_name: str,
        patience: float = 60.0,
        upload_seconds: float = 3600.0,
        poll_seconds: float = POLL_SECONDS,
        rate_limit: float | None = None,
    ) -> None:
        self._address = address
        self._server_name = server_name
        self._patience = patience
        self._upload_seconds = upload_seconds
        self._poll_seconds = poll_seconds
        self._rate_limit = rate_limit
        self._session_id = b""
        self._cursor = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self._inbox: queue.SimpleQueue[Packet | CollabEditError] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._poller: threading.Thread | None = None
        self._channel = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate),
            options=[
                ("grpc.ssl_target_name_override", server_name),
                ("grpc.max_receive_message_length", MAXIMUM_PACKET_BYTES + (64 << 10)),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.max_reconnect_backoff_ms", 2_000),
                ("grpc.enable_retries", 0),
            ],
        )
        coordination, data = "/collabedit.v1.Coordination", "/collabedit.v1.Data"
        # Without serialisers every method takes and gives raw bytes.
        unary = self._channel.unary_unary
        self._join: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary(f"{coordination}/Join")
        self._deliver: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary(f"{coordination}/Deliver")
        self._collect: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary(f"{coordination}/Collect")
        self._upload: grpc.StreamUnaryMultiCallable[bytes, bytes] = self._channel.stream_unary(
            f"{data}/Upload"
        )
        self._stored: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary(f"{data}/Stored")
        self._download: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(
            f"{data}/Download"
        )

    def join(self, packet: Packet) -> Packet:
        """See `Channel`."""
        data = encode_packet(packet)
        return decode_packet(self._call(lambda: self._join(data, timeout=CALL_SECONDS)))

    def open(self, session_id: bytes, *, cursor: int = 0) -> None:
        """See `Channel`."""
        self._session_id = session_id
        self._cursor = cursor
        self._poller = threading.Thread(target=self._poll, name="collect", daemon=True)
        self._poller.start()

    def _poll(self) -> None:
        while not self._closing.is_set():
            request = encode_collect_request(
                self._session_id, cursor=self._cursor, wait_seconds=self._poll_seconds
            )
            try:
                reply = self._call(
                    lambda request=request: self._collect(  # type: ignore[misc]
                        request, timeout=self._poll_seconds + CALL_SECONDS
                    )
                )
                packets = decode_collect_reply(reply)
            except CollabEditError as error:
                if not self._closing.is_set():
                    self._inbox.put(error)
                return
            for packet in packets:
                self._cursor += 1
                self._inbox.put(packet)

    def deliver(self, packet: Packet) -> None:
        """See `Channel`."""
        data = encode_packet(packet)
        self._call(lambda: self._deliver(data, timeout=CALL_SECONDS))
        self.bytes_sent += len(data)

    def next_packet(self, timeout: float) -> Packet | None:
        """See `Channel`."""
        try:
            item = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(item, CollabEditError):
            raise item
        self.bytes_received += len(item.envelope.body)
        return item

    def stored(self, task: TaskIndex) -> frozenset[int]:
        """See `Channel`."""
        return self._call(lambda: self._fetch_stored(task))

    def _fetch_stored(self, task: TaskIndex) -> frozenset[int]:
        bitmap = self._stored(b"", timeout=CALL_SECONDS, metadata=self._metadata(task))
        return bitmap_tiles(bitmap[:MAXIMUM_BITMAP_BYTES])

    def upload(self, task: TaskIndex, frames: Frames) -> None:
        """See `Channel`."""
        known = 0
        advanced = False

        def send() -> None:
            nonlocal known, advanced
            have = self._fetch_stored(task)
            advanced, known = len(have) > known, len(have)
            unreadable: list[StorageError] = []
            try:
                self._upload(
                    self._counted(_noting(frames(have), unreadable)),
                    timeout=self._upload_seconds,
                    metadata=self._metadata(task),
                )
            except grpc.RpcError:
                if unreadable:
                    raise unreadable[0] from None
                raise

        # A long upload may break often, as long as each attempt leaves more tiles there.
        self._call(send, advanced=lambda: advanced)

    def _counted(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        start, sent = time.monotonic(), 0
        for frame in frames:
            yield frame
            sent += len(frame)
            self.bytes_sent += len(frame)
            if self._rate_limit is not None:
                ahead = sent / self._rate_limit - (time.monotonic() - start)
                if ahead > 0 and self._closing.wait(ahead):
                    return

    def download(self, task: TaskIndex, *, limit: int) -> bytes:
        """See `Channel`."""
        held = io.BytesIO()
        self.fetch(task, limit=limit, file=held)
        return held.getvalue()

    def fetch(self, task: TaskIndex, *, limit: int, file: io.BufferedIOBase) -> None:
        """See `Channel`."""

        def receive() -> int:
            file.seek(0)
            file.truncate()
            received = 0
            stream = self._download(
                b"", timeout=self._upload_seconds, metadata=self._metadata(task)
            )
            for chunk in stream:
                received += len(chunk)
                if received > limit:
                    stream.cancel()
                    raise ProtocolError(
                        f"the update is larger than the plan allows ({limit} bytes)"
                    )
                file.write(chunk)
            return received

        self.bytes_received += self._call(receive)

    def _metadata(self, task: TaskIndex) -> tuple[tuple[str, str], ...]:
        return (("session-id", self._session_id.hex()), ("task", str(task)))

    def close(self, *, finished: bool) -> None:
        """See `Channel`."""
        self._closing.set()
        if self._session_id:
            request = encode_collect_request(
                self._session_id, cursor=self._cursor, wait_seconds=0.0, finished=finished
            )
            # If the aggregator is gone, nothing is owed to it.
            with contextlib.suppress(grpc.RpcError):
                self._collect(request, timeout=2.0)
        self._channel.close()

    def _call(self, call: Callable[[], T], *, advanced: Callable[[], bool] = lambda: False) -> T:
        patience = self._patience
        # Counted from the first failure: a call that broke late has not been failing for long.
        deadline: float | None = None
        pause = 0.2
        while True:
            try:
                return call()
            except ValueError as error:
                # gRPC's word for a channel that was closed under the call.
                raise TransportError("the channel is closed") from error
            except grpc.RpcError as error:
                if self._closing.is_set():
                    raise TransportError("the channel is closed") from error
                if not _is_temporary(error):
                    raise _translate(error) from error
                if deadline is None or advanced():
                    deadline, pause = time.monotonic() + patience, 0.2
                left = deadline - time.monotonic()
                if left <= 0:
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise _translate(error) from error
                    # Whoever still has something to say, a farewell say, need not wait as long.
                    self._patience = min(patience, FAREWELL_SECONDS)
                    raise TransportError(self._unreachable(error, patience)) from error
            self._closing.wait(min(pause, left))
            pause = min(2 * pause, 5.0)

    def _unreachable(self, error: grpc.RpcError, patience: float) -> str:
        details = error.details() or ""
        if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details:
            return (
                f"the aggregator at {self._address} shows a certificate of another authority: "
                "check --tls-ca, it must be the CA that issued the aggregator's certificate"
            )
        if "Peer name" in details or "Hostname" in details:
            return (
                f"the aggregator at {self._address} shows a certificate that is not "
                f"{self._server_name}'s: check the address and the plan"
            )
        return (
            f"no aggregator answers at {self._address} for {patience:.0f} s: check that it "
            "runs, the address, and that your certificate is of the CA which it trusts"
        )


def _noting(frames: Iterable[bytes], unreadable: list[StorageError]) -> Iterator[bytes]:
    """Keep an error of our own disk: gRPC asks for frames in a thread that it is lost in."""
    try:
        yield from frames
    except StorageError as error:
        unreadable.append(error)
        raise


def _is_temporary(error: grpc.RpcError) -> bool:
    """Tell whether the same call may succeed later."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # The aggregator's disk; gRPC itself says it of a message that is too large.
        return "larger than max" not in details
    if code in _BROKEN:
        return any(words in details for words in _BROKEN_WORDS)
    return code in _RETRIED


def _translate(error: grpc.RpcError) -> CollabEditError:
    """Turn a refusal of the aggregator back into the error that it was there."""
    code, details = error.code(), error.details() or ""
    name, _, detail = details.partition(": ")
    if name in _REASONS:
        return SessionAbortedError(_REASONS[name], detail)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TransportError(f"the aggregator: {details}")
    return ProtocolError(f"the aggregator refused ({code.name}): {details}")
