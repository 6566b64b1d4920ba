"""What a caller that does not behave can hold: its own places, and nobody else's."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from collabedit.aggregator import connections, service
from collabedit.aggregator.calls import CallKind
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.service import AggregatorServer
from collabedit.ids import PartyId
from collabedit.proto.codec import encode_collect_request
from tests.support.federations import build_federation
from tests.support.networks import Network, client_tls

STATUS = grpc.StatusCode
ENDED = {STATUS.CANCELLED, STATUS.FAILED_PRECONDITION}
"""A poll that is held says why it ends; one whose message is still being read is cut off."""


class Hostile:
    """A client with a certificate of the plan's authority, on connections of its own."""

    def __init__(
        self, network: Network, coordinator: Coordinator, server: AggregatorServer
    ) -> None:
        self.network, self.coordinator, self.server = network, coordinator, server
        self._channels: list[grpc.Channel] = []

    def channel(self, name: str = "party-1") -> grpc.Channel:
        tls = client_tls(self.network.authority, name)
        made = grpc.secure_channel(
            f"127.0.0.1:{self.server.port}",
            grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate),
            options=[
                ("grpc.ssl_target_name_override", "aggregator"),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._channels.append(made)
        return made

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("session-id", self.coordinator.session_id.hex()), ("task", "0"))

    def poll(self, channel: grpc.Channel) -> "grpc.Future[bytes]":
        collect: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/collabedit.v1.Coordination/Collect"
        )
        request = encode_collect_request(self.coordinator.session_id, cursor=0, wait_seconds=1000.0)
        return collect.future(request, timeout=60)

    def unfinished(self, method: str) -> "grpc.Future[bytes]":
        """Open a call and never say anything in it."""
        endless = threading.Event()

        def silence() -> Iterator[bytes]:
            endless.wait(60)
            yield from ()

        call: grpc.StreamUnaryMultiCallable[bytes, bytes] = self.channel().stream_unary(
            f"/collabedit.v1.{method}"
        )
        future = call.future(silence(), metadata=self.metadata, timeout=60)
        future.add_done_callback(lambda _: endless.set())
        return future


@contextmanager
def attacked(tmp_path: Path) -> Iterator[Hostile]:
    network = Network(build_federation(3), tmp_path)
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        hostile = Hostile(network, coordinator, server)
        try:
            yield hostile
        finally:
            hostile.close()


def status(call: "grpc.Future[bytes]") -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call.result(timeout=10)
    code: grpc.StatusCode = caught.value.code()
    return code


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_polls_of_one_party_hold_one_place(tmp_path: Path) -> None:
    with attacked(tmp_path) as hostile:
        server = hostile.server
        polls = [hostile.poll(hostile.channel()) for _ in range(20)]
        await_true(lambda: sum(poll.done() for poll in polls) == 19)
        assert len(server._calls) == 1
        (last,) = [poll for poll in polls if not poll.done()]
        assert {status(poll) for poll in polls if poll is not last} <= ENDED
        # The threads of the others are free, though they asked for twenty seconds.
        await_true(lambda: len(hostile.coordinator._changed._waiters) == 1)  # type: ignore[attr-defined]
        other = hostile.poll(hostile.channel("party-2"))
        await_true(lambda: len(server._calls) == 2)
        assert not last.done()
        last.cancel()
        other.cancel()
        await_true(lambda: len(server._calls) == 0)


def test_calls_without_their_message_do_not_keep_others_out(tmp_path: Path) -> None:
    methods = ("Coordination/Join", "Coordination/Deliver", "Coordination/Collect", "Data/Upload")
    with attacked(tmp_path) as hostile:
        # More than the pool has threads.
        count = hostile.server._pool._max_workers
        silent = [hostile.unfinished(methods[n % 4]) for n in range(2 * count)]
        await_true(lambda: sum(call.done() for call in silent) >= 2 * count - len(CallKind))
        started = time.monotonic()
        stored: grpc.UnaryUnaryMultiCallable[bytes, bytes] = hostile.channel("party-2").unary_unary(
            "/collabedit.v1.Data/Stored"
        )
        with pytest.raises(grpc.RpcError) as caught:
            stored(b"", metadata=hostile.metadata, timeout=5)
        assert caught.value.code() is STATUS.FAILED_PRECONDITION
        assert time.monotonic() - started < 4


def test_a_call_that_never_says_anything_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MESSAGE_SECONDS", 0.3)
    network = Network(build_federation(3), tmp_path)
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        # The default of an argument is bound already.
        hostile = Hostile(network, coordinator, server)
        call = hostile.unfinished("Coordination/Join")
        await_true(lambda: len(server._calls) == 1)
        (entered,) = server._calls._calls.values()
        entered.deadline = time.monotonic()
        driver = threading.Thread(target=server.run)
        driver.start()
        assert status(call) is STATUS.CANCELLED
        server.request_stop()
        driver.join(10)
        hostile.close()


def test_a_packet_larger_than_any_party_sends_is_not_read(tmp_path: Path) -> None:
    with attacked(tmp_path) as hostile:
        deliver: grpc.UnaryUnaryMultiCallable[bytes, bytes] = hostile.channel().unary_unary(
            "/collabedit.v1.Coordination/Deliver"
        )
        for size, want in (
            (connections.MAXIMUM_DELIVERY_BYTES, STATUS.INVALID_ARGUMENT),
            (connections.MAXIMUM_DELIVERY_BYTES + (128 << 10), STATUS.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                deliver(bytes(size), timeout=10)
            assert caught.value.code() is want


def test_a_certificate_of_nobody_in_the_plan_may_ask_for_the_health_only(tmp_path: Path) -> None:
    with attacked(tmp_path) as hostile:
        channel = hostile.channel("monitor")
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/grpc.health.v1.Health/Check"
        )
        reply = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=10))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        other = health_pb2.HealthCheckRequest(service="other").SerializeToString()
        for request, want in ((other, STATUS.NOT_FOUND), (b"\xff", STATUS.INVALID_ARGUMENT)):
            with pytest.raises(grpc.RpcError) as caught:
                check(request, timeout=10)
            assert caught.value.code() is want
        assert status(hostile.poll(channel)) is STATUS.PERMISSION_DENIED
        assert len(hostile.server._calls) == 0


def test_refusals_do_not_fill_the_log(tmp_path: Path) -> None:
    with attacked(tmp_path) as hostile:
        deliver: grpc.UnaryUnaryMultiCallable[bytes, bytes] = hostile.channel().unary_unary(
            "/collabedit.v1.Coordination/Deliver"
        )
        for _ in range(service.REFUSALS_LOGGED + 20):
            with pytest.raises(grpc.RpcError):
                deliver(b"\xff", timeout=10)
        refused = [event for event, _ in hostile.network.events if event == "refused"]
        assert len(refused) == service.REFUSALS_LOGGED


def test_every_channel_limit_reaches_grpc(tmp_path: Path) -> None:
    options = dict(connections.server_options(10, tile_bytes=4 << 20))
    assert options["grpc.max_receive_message_length"] == (4 << 20) + 48 + (64 << 10)
    assert options["grpc.max_allowed_incoming_connections"] == 552
    small = dict(connections.server_options(10, tile_bytes=4096))
    assert small["grpc.max_receive_message_length"] == (2 << 20) + (64 << 10)


def closings(hostile: Hostile, count: int, *, seconds: float) -> int:
    """Open silent connections; return how many the server closes within so many seconds."""
    held = [
        socket.create_connection(("127.0.0.1", hostile.server.port), timeout=10)
        for _ in range(count)
    ]
    deadline = time.monotonic() + seconds
    closed = 0
    for connection in held:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            closed += connection.recv(1) == b""
    for connection in held:
        connection.close()
    return closed


def test_connections_beyond_the_limit_are_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_PER_PARTY", 0)
    monkeypatch.setattr(connections, "SPARE_CONNECTIONS", 5)
    with attacked(tmp_path) as hostile:
        assert closings(hostile, 9, seconds=1.5) >= 4
        # And there is room again for a party, once the server has noticed that they are gone.
        polls: list[grpc.Future[bytes]] = []

        def admitted() -> bool:
            if not polls or polls[-1].done():
                polls.append(hostile.poll(hostile.channel()))
            return len(hostile.server._calls) == 1

        await_true(admitted)
        polls[-1].cancel()


def test_a_handshake_that_stalls_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.5)
    with attacked(tmp_path) as hostile:
        assert closings(hostile, 4, seconds=8.0) == 4


def test_the_upload_of_one_party_takes_the_place_of_its_older_one(tmp_path: Path) -> None:
    with attacked(tmp_path) as hostile:
        first = hostile.unfinished("Data/Upload")
        await_true(lambda: len(hostile.server._calls) == 1)
        second = hostile.unfinished("Data/Upload")
        assert status(first) is STATUS.CANCELLED
        assert not second.done()
        assert hostile.coordinator.plan.party_name(PartyId(1)) == "party-1"
        second.cancel()


def test_a_second_process_of_a_party_ends_the_first_one(tmp_path: Path) -> None:
    with attacked(tmp_path) as hostile:
        first = hostile.poll(hostile.channel())
        await_true(lambda: any(call.is_held for call in hostile.server._calls._calls.values()))
        second = hostile.poll(hostile.channel())
        # A status that no client repeats: else the two would end each other's polls for ever.
        assert status(first) is STATUS.FAILED_PRECONDITION
        assert not second.done()
        second.cancel()
