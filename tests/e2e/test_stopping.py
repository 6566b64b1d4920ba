"""An aggregator that is asked to stop: calls under way end, new ones wait, nothing is lost."""

import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from collabedit.aggregator.service import AggregatorServer
from collabedit.party import client
from tests.support.federations import build_federation
from tests.support.networks import Network, client_tls, server_tls
from tests.support.standins import PROGRAM, StandInSession, lay_out

STATUS = grpc.StatusCode


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(network: Network, server: AggregatorServer, name: str) -> grpc.Channel:
    own = client_tls(network.authority, name)
    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    options = [("grpc.ssl_target_name_override", "aggregator")]
    return grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options)


@pytest.mark.parametrize("ends_in_time", [True, False])
def test_calls_under_way_may_end_and_new_ones_are_sent_away(
    tmp_path: Path, *, ends_in_time: bool
) -> None:
    network = Network(build_federation(3), tmp_path)
    coordinator = network.coordinator()
    frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def upload() -> Iterator[bytes]:
        while (frame := frames.get()) is not None:
            yield frame

    with AggregatorServer(
        coordinator,
        address="127.0.0.1:0",
        tls=server_tls(network.authority, "aggregator"),
        grace=20.0 if ends_in_time else 0.5,
    ) as server:
        channel, monitor = (connect(network, server, name) for name in ("party-1", "monitor"))
        unary = channel.unary_unary
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = monitor.unary_unary(
            "/grpc.health.v1.Health/Check"
        )
        join: grpc.UnaryUnaryMultiCallable[bytes, bytes] = unary("/collabedit.v1.Coordination/Join")
        deliver: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
            "/collabedit.v1.Coordination/Deliver"
        )

        def health() -> int:
            reply = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=10))
            return int(reply.status)

        assert health() == health_pb2.HealthCheckResponse.SERVING
        # A message that is on its way for as long as we like.
        call = deliver.future(upload(), timeout=60)
        until(lambda: len(server._calls) == 1)
        server.request_stop()
        assert not server.run()
        ending = threading.Thread(target=server.__exit__)
        started = time.monotonic()
        ending.start()
        if ends_in_time:
            assert health() == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.RpcError) as caught:
                join(b"", timeout=10)
            assert caught.value.code() is STATUS.UNAVAILABLE
            assert client._is_temporary(caught.value)  # so a party tries again
            frames.put(b"\xff")  # read, and answered, though the server stops
        error = call.exception(timeout=30)
        assert isinstance(error, grpc.RpcError)
        cut_off = {STATUS.UNAVAILABLE, STATUS.CANCELLED}
        assert error.code() in ({STATUS.INVALID_ARGUMENT} if ends_in_time else cut_off)
        ending.join(30)
        assert not ending.is_alive()
        assert time.monotonic() - started < 15
        frames.put(None)
        channel.close()
        monitor.close()


def test_a_poll_does_not_hold_up_the_end(tmp_path: Path) -> None:
    network = Network(build_federation(3), tmp_path)
    coordinator = network.coordinator()
    with AggregatorServer(
        coordinator,
        address="127.0.0.1:0",
        tls=server_tls(network.authority, "aggregator"),
        grace=30.0,
    ) as server:
        channel = network.channel(next(iter(network.federation.plan.party_ids)), server.port)
        channel.open(coordinator.session_id)
        until(lambda: len(server._calls) == 1)
        server.request_stop()
        started = time.monotonic()
    assert time.monotonic() - started < 10
    channel.close(finished=True)


def command_of(session: StandInSession, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("event", ["joined", "opened"])
def test_a_stopped_process_ends_with_0_and_its_session_goes_on(event: str, tmp_path: Path) -> None:
    stands = lay_out(tmp_path / "stands", build_federation(3, layers=2, tile_bytes=1024))
    with StandInSession(stands, tmp_path / "session", patience=240.0) as session:
        aggregator = session.aggregator
        until(lambda: any(each["event"] == event for each in aggregator.events), 120)
        assert aggregator.running is not None
        aggregator.running.send_signal(signal.SIGTERM)
        assert aggregator.running.wait(60) == 0
        last = aggregator.log.read_text().splitlines()[-1]
        assert "the same command resumes it" in last
        state = str(session.directory / "state")
        logged = command_of(session, "aggregator", "log", "--state", state)
        assert logged.returncode == 0, logged.stderr  # closed, complete, not altered
        aggregator.start()
        for _ in session.wait(300):
            pass
        assert session.faults() == []
        assert any(each["event"] == "resumed" for each in aggregator.events)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_is_told_from_a_stop_and_the_probe_says_how_it_is(tmp_path: Path) -> None:
    stands = lay_out(tmp_path / "stands", build_federation(3))
    session = StandInSession(stands, tmp_path / "session")
    aggregator = session.aggregator
    aggregator.start()
    try:
        until(lambda: any(each["event"] == "listening" for each in aggregator.events), 120)
        (listening,) = [each for each in aggregator.events if each["event"] == "listening"]
        folder = stands.directory / session.aggregator.name
        probe = (
            *("aggregator", "health", "--connect", str(listening["address"])),
            *("--tls-cert", str(folder / "tls.pem"), "--tls-key", str(folder / "tls-key.pem")),
            *("--tls-ca", str(stands.directory / "ca.pem")),
        )
        healthy = command_of(session, *probe)
        assert (healthy.returncode, healthy.stdout) == (0, "serving\n"), healthy.stderr
        assert aggregator.running is not None
        aggregator.running.send_signal(signal.SIGINT)
        assert aggregator.running.wait(60) == 130
        gone = command_of(session, *probe, "--seconds", "1")
        assert gone.returncode == 6
        assert gone.stderr.startswith("error: ")
    finally:
        aggregator.kill()
