"""The gRPC end of the aggregator: TLS identity, limits, deadlines, status mapping. No cryptography.

SPEC 5. All methods take and give raw bytes; the codec is called here and nowhere below. Who calls
is told by the common name of the client certificate, which must be the party's name in the plan;
what a message claims is then checked by its own signature. One driver thread closes rounds that
starve and opens sums; request threads only file messages.

Every method, also one that takes a single message, is registered as one that takes a stream: gRPC
would otherwise wait for the message in one of the pool's threads before anybody has looked at whose
it is. So a call is judged by its certificate first, then has to find its place (`calls`), and only
then is a byte of it read. On the wire there is no difference.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn, Self, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from collabedit.aggregator.calls import GUEST, Call, CallKind, CallTable, RefusalLog
from collabedit.aggregator.connections import server_options
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.liveness import LONGEST_POLL_SECONDS, Liveness
from collabedit.aggregator.reflection import reflect
from collabedit.aggregator.traffic import Traffic
from collabedit.aggregator.turns import Turns
from collabedit.aggregator.uploads import Intake
from collabedit.errors import (
    CollabEditError,
    CryptoError,
    MalformedMessageError,
    ProtocolError,
    StorageError,
    TransportError,
)
from collabedit.ids import PartyId, TaskIndex
from collabedit.proto.codec import (
    decode_collect_request,
    decode_packet,
    encode_collect_reply,
    encode_packet,
    encode_receipt,
)

T = TypeVar("T")

COORDINATION = "collabedit.v1.Coordination"
DATA = "collabedit.v1.Data"
HEALTH = "grpc.health.v1.Health"

DISK_SECONDS = 5.0
"""Pause after a disk that is full or read-only, before the driver tries again."""

MESSAGE_SECONDS = 60.0
"""Longest a call of one message may last; a party's client gives it 30 s."""

CALLS_PER_CALLER = len(CallKind)

SPARE_THREADS = 8
"""For calls that are about to be refused or replaced: those of guests, and second ones."""

QUEUED_CALLS = 1024
"""Calls that may wait for a thread; more are refused before they are read, whosever they are, and
a party's client tries again. Each costs some 10 KiB and is gone in a millisecond."""

REFUSALS_LOGGED = 60
REFUSAL_PERIOD_SECONDS = 60.0
"""A caller is refused as often as it likes, but does not fill the disk with lines about it."""

FAREWELL_SECONDS = 2.0
"""For answers on their way, once no call is served any more."""

_TICK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM texts: own certificate and key, and the authority that issued the parties' ones."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


class _PermissionError(CollabEditError):
    """The caller's certificate does not entitle it to this call."""


_Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[bytes, bytes]]"
_Method: TypeAlias = Callable[[Call, Iterator[bytes], grpc.ServicerContext], T]


class AggregatorServer:
    """Serves one session until it is over.

    Args:
        coordinator: the session.
        address: `host:port`; port 0 lets the system choose.
        tls: own identity on the network.
        traffic: counts what crosses the wire; None counts nothing.
        renewed: asked at each handshake for another identity; None keeps `tls`.
        grace: seconds that calls have to end when the server stops.
        reflection: whether tools may ask which methods there are.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        *,
        address: str,
        tls: ServerTls,
        traffic: Traffic | None = None,
        renewed: Callable[[], ServerTls | None] | None = None,
        grace: float = 2.0,
        reflection: bool = False,
    ) -> None:
        self._coordinator = coordinator
        self._timing = coordinator.plan.timing
        self._liveness = Liveness(coordinator.plan)
        plan = coordinator.plan
        self._names = {plan.party_name(party): party for party in plan.party_ids}
        self._calls = CallTable()
        self._turns = Turns()
        self._intake = Intake(coordinator)
        self._refusals = RefusalLog(limit=REFUSALS_LOGGED, seconds=REFUSAL_PERIOD_SECONDS)
        parties = len(coordinator.plan.federation.parties)
        places = CALLS_PER_CALLER * parties + SPARE_THREADS
        self._pool = ThreadPoolExecutor(max_workers=places, thread_name_prefix="rpc")
        self._server = grpc.server(
            self._pool,
            interceptors=None if traffic is None else [traffic],
            maximum_concurrent_rpcs=QUEUED_CALLS + places,
            options=server_options(parties, tile_bytes=coordinator.plan.aggregation.tile_bytes),
        )
        stream = max(self._timing.upload, self._timing.round)
        poll = LONGEST_POLL_SECONDS + MESSAGE_SECONDS
        unary, streaming = (
            grpc.stream_unary_rpc_method_handler,
            grpc.stream_stream_rpc_method_handler,
        )
        message, transfer = CallKind.MESSAGE, CallKind.STREAM
        coordination: _Handlers = {
            "Join": unary(self._serve(message, self._join)),
            "Deliver": unary(self._serve(message, self._deliver)),
            "Collect": unary(self._serve(CallKind.POLL, self._collect, seconds=poll)),
        }
        data: _Handlers = {
            "Upload": unary(self._serve(transfer, self._upload, seconds=stream)),
            "Stored": unary(self._serve(message, self._stored)),
            "Download": streaming(self._serve(transfer, self._download, seconds=stream)),
        }
        health: _Handlers = {"Check": unary(self._serve(message, self._check, guests=True))}
        services = {COORDINATION: coordination, DATA: data, HEALTH: health}
        if reflection:
            name, tell = reflect(HEALTH)
            answer = self._serve(message, lambda _call, frames, context: tell(frames, context))
            services[name] = {"ServerReflectionInfo": streaming(answer)}
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(name, methods)
                for name, methods in services.items()
            )
        )
        try:
            self.port = self._server.add_secure_port(address, _credentials(tls, renewed))
        except RuntimeError as error:
            raise TransportError(f"cannot listen on {address}: is the port in use?") from error
        self._stop = threading.Event()
        self._grace = grace

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Polls return at once. If somebody asked for the end, what else is under way may end, too.
        self._coordinator.interrupt()
        deadline = time.monotonic() + (self._grace if self._stop.is_set() else 0.0)
        self._stop.set()
        while len(self._calls) and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS / 4)
        self._server.stop(grace=min(self._grace, FAREWELL_SECONDS)).wait()
        self._pool.shutdown()
        self._intake.close()

    @property
    def reachable(self) -> frozenset[PartyId]:
        """Who polled lately, and still needs something of the session."""
        return self._liveness.reachable()

    @property
    def is_serving(self) -> bool:
        """Whether new calls are taken."""
        return not self._stop.is_set()

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
                self._calls.cancel_overdue()
                coordinator.open_pending()
                coordinator.wait_change(position, _TICK_SECONDS)
                if coordinator.position != position:
                    position, since = coordinator.position, time.monotonic()
                elif self._liveness.is_starved(
                    position, since=since, waiting=coordinator.waiting_for
                ):
                    coordinator.close_round()
            except StorageError as error:
                # Nothing has changed and nothing is lost: go on when the disk does.
                coordinator.note_refusal(error)
                self._stop.wait(DISK_SECONDS)
        deadline = time.monotonic() + linger
        while time.monotonic() < deadline and not self._stop.is_set():
            if not self._awaited():
                break
            time.sleep(_TICK_SECONDS)
        return True

    def _awaited(self) -> frozenset[PartyId]:
        """Return who may still fetch how the session ended."""
        coordinator = self._coordinator
        if coordinator.replayed:
            # Whoever was cut off by the restart is still to come back.
            return self._liveness.expected_back(coordinator.plan.party_ids)
        return self._liveness.reachable()

    def _caller(self, context: grpc.ServicerContext) -> PartyId:
        # The stubs say bytes, gRPC gives lists of them.
        properties = cast("Mapping[str, Sequence[bytes]]", context.auth_context())
        name = b"".join(properties.get("x509_common_name", ())[:1]).decode("utf-8", "replace")
        return self._names.get(name, GUEST)

    def _serve(
        self,
        kind: CallKind,
        method: _Method[T],
        *,
        seconds: float = MESSAGE_SECONDS,
        guests: bool = False,
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], T]:
        def served(frames: Iterator[bytes], context: grpc.ServicerContext) -> T:
            if self._stop.is_set() and not guests:
                # A status that clients repeat: whoever is started again goes on with the session.
                context.abort(grpc.StatusCode.UNAVAILABLE, "the aggregator is stopping")
            try:
                caller = self._caller(context)
                if caller != GUEST:
                    self._liveness.hear(caller)
                elif not guests:
                    raise _PermissionError(
                        "your certificate's name is no party of this session's plan"
                    )
                call = self._calls.enter(
                    caller, kind, seconds=seconds, cancel=lambda call: self._cancel(call, context)
                )
                # It keeps its place until gRPC has done with it, not only until the method returns.
                if not context.add_callback(lambda: self._over(call)):
                    self._calls.leave(call)
                return method(call, frames, context)
            except CollabEditError as error:
                self._refuse(context, error)

        return served

    def _cancel(self, call: Call, context: grpc.ServicerContext) -> None:
        if call.is_replaced and call.is_held:
            # Its thread can answer, and has to say why: a client repeats a call that was cancelled,
            # and two processes of one party would end each other's polls for ever.
            self._coordinator.release_polls()
        else:
            context.cancel()

    def _over(self, call: Call) -> None:
        self._calls.leave(call)
        self._turns.leave(call)
        if call.is_held:
            # Nobody is there any more to read the answer that its thread waits for.
            self._coordinator.release_polls()

    def _refuse(self, context: grpc.ServicerContext, error: CollabEditError) -> NoReturn:
        if self._refusals.admits(time.monotonic()):
            self._coordinator.note_refusal(error)
        context.abort(_status(error), str(error))
        raise AssertionError from error  # pragma: no cover  abort raises

    def _join(self, call: Call, frames: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        packet = decode_packet(_single(frames))
        self._check_sender(call.caller, packet.envelope.sender)
        return encode_packet(self._coordinator.welcome(packet))

    def _deliver(
        self, call: Call, frames: Iterator[bytes], _context: grpc.ServicerContext
    ) -> bytes:
        packet = decode_packet(_single(frames))
        self._check_sender(call.caller, packet.envelope.sender)
        self._coordinator.deliver(packet)
        return encode_receipt()

    def _check(self, _call: Call, frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            request = health_pb2.HealthCheckRequest.FromString(_single(frames))
        except DecodeError as error:
            raise MalformedMessageError("not a HealthCheckRequest") from error
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "only the server as a whole has a health")
        states = health_pb2.HealthCheckResponse
        status = states.SERVING if self.is_serving else states.NOT_SERVING
        reply = health_pb2.HealthCheckResponse(status=status)
        return bytes(reply.SerializeToString())

    def _check_sender(self, caller: PartyId, sender: PartyId) -> None:
        if caller != sender:
            raise _PermissionError(
                f"your certificate is {self._coordinator.plan.party_name(caller)}'s, the message "
                f"is from {self._coordinator.plan.party_name(sender)}"
            )

    def _collect(self, call: Call, frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        session_id, cursor, wait, finished = decode_collect_request(_single(frames))
        self._check_session(session_id)
        self._liveness.poll(call.caller, finished=finished)
        call.is_held = True
        packets = self._coordinator.wait_mailbox(
            call.caller,
            cursor=cursor,
            seconds=min(wait, LONGEST_POLL_SECONDS),
            is_wanted=lambda: not (call.is_over or call.is_replaced),
        )
        call.is_held = False
        if call.is_replaced:
            # Not for the log: a party's farewell does this, too.
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "a newer poll took the place of this one: another process uses your certificate",
            )
        if not call.is_over:
            self._liveness.hear(call.caller)
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

    def _upload(self, call: Call, frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        caller, task = call.caller, self._task(context)

        def next_turn() -> bool:
            self._liveness.hear(caller)
            return self._turns.keep(call)

        if self._turns.enter(call):
            try:
                self._intake.take(caller, task, frames, next_turn)
            finally:
                self._turns.leave(call)
        return b""

    def _stored(self, call: Call, _frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return self._coordinator.stored_tiles(call.caller, self._task(context))

    def _download(
        self, call: Call, _frames: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        return self._chunks(call, self._task(context), context)

    def _chunks(
        self, call: Call, task: TaskIndex, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        try:
            if not self._turns.enter(call):
                return
            for chunk in self._coordinator.download(call.caller, task):
                yield chunk
                if not self._turns.keep(call):
                    return
        except CollabEditError as error:
            self._refuse(context, error)
        finally:
            self._turns.leave(call)


def _credentials(
    tls: ServerTls, renewed: Callable[[], ServerTls | None] | None
) -> grpc.ServerCredentials:
    def configuration(own: ServerTls) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(own.key, own.certificate)], root_certificates=own.authority
        )

    if renewed is None:
        return grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], root_certificates=tls.authority, require_client_auth=True
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        own = renewed()
        return None if own is None else configuration(own)

    return grpc.dynamic_ssl_server_credentials(
        configuration(tls),
        # None says that nothing changed; the stubs leave that out.
        cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch),
        require_client_authentication=True,
    )


def _single(frames: Iterator[bytes]) -> bytes:
    """Return the message of a call that has one."""
    for message in frames:
        return message
    raise MalformedMessageError("the call has no message")


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
