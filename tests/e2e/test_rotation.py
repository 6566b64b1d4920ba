"""Certificates that change under a running aggregator, over real TLS."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2

from collabedit.aggregator import rotation
from collabedit.aggregator.health import is_serving
from collabedit.aggregator.rotation import RotatedTls
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.api.credentials import read_tls
from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.errors import KeyFileError, TransportError
from tests.support.federations import build_federation
from tests.support.networks import Network, client_tls

NAME = "aggregator"


@dataclass
class Live:
    """A server whose identity lies in files."""

    authority: Authority
    folder: Path
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    server: AggregatorServer = field(init=False)
    tls: RotatedTls = field(init=False)

    @property
    def files(self) -> tuple[Path, Path, Path]:
        return self.folder / "tls.pem", self.folder / "tls-key.pem", self.folder / "ca.pem"

    def issue(self) -> int:
        """Write a new certificate and its key as an operator does; return its serial number."""
        issued = issue_certificate(
            self.authority, name=NAME, hosts=["localhost", "127.0.0.1"], lifetime_days=2
        )
        certificate, key, ca = self.files
        for path, data in ((key, issued.key_pem), (certificate, issued.certificate_pem)):
            partial = path.with_suffix(".new")
            partial.write_bytes(data)
            partial.chmod(0o600)
            partial.replace(path)
        ca.write_bytes(self.authority.certificate_pem)
        return x509.load_pem_x509_certificate(issued.certificate_pem).serial_number

    def read(self) -> ServerTls:
        read = read_tls(*self.files, name=NAME)
        return ServerTls(read.certificate, read.key, read.authority)

    def serial(self) -> int:
        """Serial number of the certificate that a new connection is shown."""
        own = client_tls(self.authority, "party-1")
        pem = self.folder / "client.pem"
        pem.write_bytes(own.key + own.certificate)
        context = ssl.create_default_context(cadata=self.authority.certificate_pem.decode())
        context.load_cert_chain(pem)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as link,
        ):
            shown = link.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.setattr(rotation, "WATCH_SECONDS", 3600.0)
    authority = create_authority("test authority")
    network = Network(build_federation(3), tmp_path / "state", authority=authority)
    found = Live(authority, tmp_path)
    found.first = found.issue()  # type: ignore[attr-defined]
    found.tls = RotatedTls(
        found.read, found.files, lambda event, fields: found.events.append((event, dict(fields)))
    )
    with (
        found.tls,
        AggregatorServer(
            network.coordinator(),
            address="127.0.0.1:0",
            tls=found.tls.current,
            renewed=found.tls.renewed,
        ) as found.server,
    ):
        yield found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def first_of(live: Live) -> int:
    serial: int = live.first  # type: ignore[attr-defined]
    return serial


def test_new_connections_are_shown_the_new_certificate(live: Live) -> None:
    assert live.serial() == first_of(live)
    second = live.issue()
    assert live.serial() == second != first_of(live)
    third = live.issue()
    assert live.serial() == third
    assert len(live.told("certificate-renewed")) == 2


def test_a_connection_that_is_open_goes_on(live: Live) -> None:
    own = client_tls(live.authority, "party-1")
    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    options = [("grpc.ssl_target_name_override", NAME)]
    states: list[grpc.ChannelConnectivity] = []
    with grpc.secure_channel(f"127.0.0.1:{live.server.port}", credentials, options) as channel:
        channel.subscribe(states.append)
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/grpc.health.v1.Health/Check"
        )
        serving = health_pb2.HealthCheckResponse.SERVING
        for _ in range(3):
            reply = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=10))
            assert reply.status == serving
            issued = live.issue()
            assert live.serial() == issued
        until(lambda: grpc.ChannelConnectivity.READY in states)
        ready = states.index(grpc.ChannelConnectivity.READY)
        assert states[ready:] == [grpc.ChannelConnectivity.READY]  # it never had to connect again


def spoil_text(live: Live) -> None:
    live.files[0].write_text("nothing of the kind")


def spoil_key(live: Live) -> None:
    issued = issue_certificate(live.authority, name=NAME, hosts=["localhost"], lifetime_days=2)
    live.files[1].write_bytes(issued.key_pem)


def spoil_authority(live: Live) -> None:
    live.authority = create_authority("somebody else")
    issued = issue_certificate(live.authority, name=NAME, hosts=["localhost"], lifetime_days=2)
    live.files[0].write_bytes(issued.certificate_pem)
    live.files[1].write_bytes(issued.key_pem)


def spoil_name(live: Live) -> None:
    issued = issue_certificate(live.authority, name="party-1", hosts=["localhost"], lifetime_days=2)
    live.files[0].write_bytes(issued.certificate_pem)
    live.files[1].write_bytes(issued.key_pem)


def spoil_mode(live: Live) -> None:
    live.issue()
    live.files[1].chmod(0o644)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_text, "tls.pem"),
        (spoil_key, "does not match"),
        (spoil_authority, "not issued by this authority"),
        (spoil_name, "'party-1', not of 'aggregator'"),
        (spoil_mode, "chmod 600"),
        (lambda live: live.files[0].unlink(), "No such file"),
    ],
)
def test_a_broken_file_keeps_the_old_certificate_and_is_told_once(
    live: Live, spoil: Callable[[Live], None], said: str
) -> None:
    trusted = live.authority
    spoil(live)
    live.authority = trusted
    assert live.serial() == live.serial() == first_of(live)
    (fields,) = live.told("certificate-refused")
    assert said in str(fields["why"])
    assert "PRIVATE KEY" not in str(fields)
    repaired = live.issue()
    assert live.serial() == repaired
    assert len(live.told("certificate-refused")) == 1


def test_asking_reads_the_files_though_nobody_connects(live: Live) -> None:
    live.issue()
    live.tls.ask()
    until(lambda: len(live.told("certificate-renewed")) == 1)
    # Asked again with nothing new, there is nothing to tell; a broken file is told each time.
    live.tls.ask()
    spoil_text(live)
    live.tls.ask()
    until(lambda: len(live.told("certificate-refused")) == 1)
    assert len(live.told("certificate-renewed")) == 1


def test_files_are_looked_at_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "WATCH_SECONDS", 0.02)
    live = Live(create_authority("test authority"), tmp_path)
    live.issue()
    with RotatedTls(
        live.read, live.files, lambda event, fields: live.events.append((event, dict(fields)))
    ) as tls:
        before = tls.current
        assert tls.renewed() is None
        live.issue()
        until(lambda: len(live.told("certificate-renewed")) == 1)
        assert tls.renewed() is tls.current is not before
        assert tls.renewed() is None


def test_the_first_identity_must_be_good(tmp_path: Path) -> None:
    live = Live(create_authority("test authority"), tmp_path)
    live.issue()
    spoil_key(live)
    with pytest.raises(KeyFileError, match="does not match"):
        RotatedTls(live.read, live.files, lambda _event, _fields: None)


def test_health_is_asked_with_ones_own_certificate(live: Live) -> None:
    address = f"127.0.0.1:{live.server.port}"
    assert is_serving(address, tls=live.read(), server_name=NAME, seconds=5)
    live.server.request_stop()
    assert not is_serving(address, tls=live.read(), server_name=NAME, seconds=5)
    stranger = client_tls(create_authority("somebody else"), NAME)
    other = ServerTls(stranger.certificate, stranger.key, stranger.authority)
    with pytest.raises(TransportError, match=address):
        is_serving(address, tls=other, server_name=NAME, seconds=2)
