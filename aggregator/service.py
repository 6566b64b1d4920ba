"""The gRPC end of the aggregator: TLS identity, limits, deadlines, status mapping. No cryptography.

SPEC 5. All methods take and give raw bytes; the codec is called here and nowhere below. Who calls
is told by the common name of the client certificate, which must be the party's name in the plan;
what a message claims is then checked by its own signature. One driver thread closes rounds that
starve and opens sums; request threads only file messages.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn, Self, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from collabedit.aggregator.coordinator import Coordinator
from collabedit.errors import (
    CollabEditError,
    CryptoError,
    MalformedMessageError,
    ProtocolError,
    StorageError,
    TransportError,
)
from collabedit.exchange import FRAME_OVERHEAD
from collabedit.ids import PartyId, TaskIndex
from collabedit.proto.codec import (
    MAXIMUM_PACKET_BYTES,
    decode_collect_request,
    decode_packet,
    encode_collect_reply,
    encode_packet,
    encode_receipt,
)

COORDINATION = "collabedit.v1.Coordination"
DATA = "collabedit.v1.Data"
SETTLE_BYTES = 16 << 20
"""Bytes of an upload between two writes of its bitmap: what a crash makes a party send again."""

MAXIMUM_WAIT_SECONDS = 20.0
"""Longest hold of a long poll; well under the idle limits of common proxies (60 s)."""

DISK_SECONDS = 5.0
"""Pause after a disk that is full or read-only, before the driver tries again."""

_TICK_SECONDS = 0.2
_SLACK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM texts: own certificate and key, and the authority that issued the parties' ones."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


class _PermissionError(CollabEditError):
    """The caller's certificate does not entitle it to this call."""


class AggregatorServer:
    """Serves one session until it is over.

    Args:
        coordinator: the session.
        address: `host:port`; port 0 lets the system choose.
        tls: own identity on the network.
    """

    def __init__(self, coordinator: Coordinator, *, address: str, tls: ServerTls) -> None:
        self._coordinator = coordinator
        self._timing = coordinator.plan.timing
        self._contact: dict[PartyId, float] = {}
        self._cursors: dict[PartyId, int] = {}
        parties = len(coordinator.plan.federation.parties)
        limit = max(MAXIMUM_PACKET_BYTES, coordinator.plan.aggregation.tile_bytes + FRAME_OVERHEAD)
        # Each party holds one long poll and at most one other call at a time.
        self._pool = ThreadPoolExecutor(max_workers=2 * parties + 8, thread_name_prefix="rpc")
        self._server = grpc.server(
            self._pool,
            options=[
                ("grpc.max_receive_message_length", limit + _SLACK_BYTES),
                ("grpc.max_send_message_length", limit + _SLACK_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                # Clients ping every 30 s; the default of 300 s would end in GOAWAY.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    COORDINATION,
                    {
                        "Join": grpc.unary_unary_rpc_method_handler(self._guard(self._join)),
                        "Deliver": grpc.unary_unary_rpc_method_handler(self._guard(self._deliver)),
                        "Collect": grpc.unary_unary_rpc_method_handler(self._guard(self._collect)),
                    },
                ),
                grpc.method_handlers_generic_handler(
                    DATA,
                    {
                        "Upload": grpc.stream_unary_rpc_method_handler(self._guard(self._upload)),
                        "Stored": grpc.unary_unary_rpc_method_handler(self._guard(self._stored)),
                        "Download": grpc.unary_stream_rpc_method_handler(self._download),
                    },
                ),
            )
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)],
            root_certificates=tls.authority,
            require_client_auth=True,
        )
        try:
            self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise TransportError(f"cannot listen on {address}: is the port in use?") from error
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._server.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return self

    def __exit__(self, *exception: object) -> None:
        self._health.enter_graceful_shutdown()
        self._coordinator.interrupt()
        self._server.stop(grace=2.0).wait()
        self._pool.shutdown()

    def request_stop(self) -> None:
        """Make `run` return soon. Safe in a signal handler."""
        self._stop.set()

    def run(self, *, linger: float = 15.0) -> bool:
        """Drive the session to its end.

        Args:
            linger: seconds to stay after the end, so that parties can fetch what is left.

        Returns:
            Whether the session ended by itself; False after `request_stop`.
        """
        coordinator = self._coordinator
        position, since = coordinator.position, time.monotonic()
        while not coordinator.finished:
            if self._stop.is_set():
                return False
            try:
                coordinator.open_pending()
                coordinator.wait_change(position, _TICK_SECONDS)
                if coordinator.position != position:
                    position, since = coordinator.position, time.monotonic()
                elif self._is_starved(position, since):
                    coordinator.close_round()
            except StorageError as error:
                # Nothing has changed and nothing is lost: go on when the disk does.
                coordinator.note_refusal(error)
                self._stop.wait(DISK_SECONDS)
        deadline = time.monotonic() + linger
        while time.monotonic() < deadline and not self._stop.is_set():
            if not coordinator.unread(self._reachable()):
                break
            time.sleep(_TICK_SECONDS)
        return True

    def _reachable(self) -> dict[PartyId, int]:
        """Return the cursors of parties that polled lately; the others will fetch nothing more.

        After a restart nobody has polled yet, and whoever was cut off is still to come back.
        """
        if self._coordinator.replayed:
            nobody = dict.fromkeys(self._coordinator.plan.party_ids, 0)
            return {**nobody, **self._cursors}
        since = time.monotonic() - MAXIMUM_WAIT_SECONDS / 2 - 2.0
        return {
            party: cursor
            for party, cursor in self._cursors.items()
            if self._contact.get(party, 0.0) >= since
        }

    def _is_starved(self, position: tuple[TaskIndex, str], since: float) -> bool:
        task, round_name = position
        now = time.monotonic()
        timing = self._timing
        limit = timing.round
        if round_name.startswith("r0"):
            limit = timing.compute if task else timing.join
        elif round_name.startswith("r3"):
            limit = timing.upload
        if now - since > limit:
            return True
        waiting = self._coordinator.waiting_for
        # Nobody is given up before it was ever seen: that is what the join deadline is for.
        return bool(waiting) and all(
            party in self._contact and now - max(self._contact[party], since) > timing.liveness
            for party in waiting
        )

    def _caller(self, context: grpc.ServicerContext) -> PartyId:
        # The stubs say bytes, gRPC gives lists of them.
        properties = cast("Mapping[str, Sequence[bytes]]", context.auth_context())
        name = b"".join(properties.get("x509_common_name", ())[:1]).decode("utf-8", "replace")
        plan = self._coordinator.plan
        for party in plan.party_ids:
            if plan.party_name(party) == name:
                self._contact[party] = time.monotonic()
                return party
        raise _PermissionError("your certificate's name is no party of this session's plan")

    def _guard(
        self, method: Callable[..., bytes]
    ) -> Callable[[object, grpc.ServicerContext], bytes]:
        def guarded(request: object, context: grpc.ServicerContext) -> bytes:
            try:
                return method(request, context)
            except CollabEditError as error:
                self._refuse(context, error)

        return guarded

    def _refuse(self, context: grpc.ServicerContext, error: CollabEditError) -> NoReturn:
        self._coordinator.note_refusal(error)
        context.abort(_status(error), str(error))
        raise AssertionError from error  # pragma: no cover  abort raises

    def _join(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        caller, packet = self._caller(context), decode_packet(request)
        self._check_sender(caller, packet.envelope.sender)
        return encode_packet(self._coordinator.welcome(packet))

    def _deliver(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        caller, packet = self._caller(context), decode_packet(request)
        self._check_sender(caller, packet.envelope.sender)
        self._coordinator.deliver(packet)
        return encode_receipt()

    def _check_sender(self, caller: PartyId, sender: PartyId) -> None:
        if caller != sender:
            raise _PermissionError(
                f"your certificate is {self._coordinator.plan.party_name(caller)}'s, the message "
                f"is from {self._coordinator.plan.party_name(sender)}"
            )

    def _collect(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        caller = self._caller(context)
        session_id, cursor, wait = decode_collect_request(request)
        self._check_session(session_id)
        self._cursors[caller] = cursor
        packets = self._coordinator.wait_mailbox(
            caller, cursor=cursor, seconds=min(wait, MAXIMUM_WAIT_SECONDS)
        )
        self._contact[caller] = time.monotonic()
        return encode_collect_reply(packets)

    def _check_session(self, session_id: bytes) -> None:
        if session_id != self._coordinator.session_id:
            raise MalformedMessageError("that session is over: the aggregator was started anew")

    def _task(self, context: grpc.ServicerContext) -> TaskIndex:
        metadata = dict(context.invocation_metadata())
        try:
            session_id = bytes.fromhex(str(metadata["session-id"]))
            task = int(str(metadata["task"]))
        except (KeyError, ValueError) as error:
            raise MalformedMessageError("metadata lacks session-id or task") from error
        self._check_session(session_id)
        if not 0 <= task < len(self._coordinator.plan.tasks):
            raise MalformedMessageError(f"task {task} is not in the plan")
        return TaskIndex(task)

    def _upload(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        caller, task = self._caller(context), self._task(context)
        unsettled = 0
        for frame in frames:
            self._contact[caller] = time.monotonic()
            self._coordinator.put_frame(caller, task, frame)
            unsettled += len(frame)
            if unsettled >= SETTLE_BYTES:
                self._coordinator.settle_upload(caller, task)
                unsettled = 0
        self._coordinator.settle_upload(caller, task)
        return b""

    def _stored(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        caller = self._caller(context)
        return self._coordinator.stored_tiles(caller, self._task(context))

    def _download(self, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            self._caller(context)
            yield from self._coordinator.bundle_chunks(self._task(context))
        except CollabEditError as error:
            self._refuse(context, error)


def _status(error: CollabEditError) -> grpc.StatusCode:
    """Map every error that a call may raise to its status (SPEC 5.4)."""
    if isinstance(error, _PermissionError):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, CryptoError):
        return grpc.StatusCode.UNAUTHENTICATED
    if isinstance(error, MalformedMessageError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, ProtocolError):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, StorageError):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return grpc.StatusCode.INTERNAL
