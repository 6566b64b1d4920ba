"""Bare streams over mutual TLS: what an upload is held against, each end in a process of its own.

A stream takes frames, and says how many bytes of them arrived. One goes over a TLS socket, with
large buffers at both ends; the others over gRPC's client stream.
"""

import hashlib
import itertools
import multiprocessing
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from collabedit.crypto.certificates import Authority, IssuedCertificate, issue_certificate
from collabedit.exchange import FRAME_HEADER, FRAME_OVERHEAD
from collabedit.ids import PartyId
from collabedit.plan import Plan

SOCKET_BYTES = 4 << 20
"""Of the kernel's buffers of a TLS socket, as far as it allows: with its default a sender that
shares cores with the receiver is stopped and woken for every few records."""

_METHOD = "Put"
_SERVICE = "benchmark.Raw"


@dataclass(frozen=True)
class Setting:
    """What the serving processes are given; identities as PEM, by id."""

    plan: Plan
    identities: dict[PartyId, bytes]
    authority: Authority

    def certificate(self, name: str) -> IssuedCertificate:
        """Issue one of the authority of this run."""
        hosts = ["localhost", "127.0.0.1"]
        return issue_certificate(self.authority, name=name, hosts=hosts, lifetime_days=2)


@dataclass(frozen=True)
class Measured:
    """One upload: seconds by the wall clock, and processor seconds of either end."""

    wall: float
    sender: float
    receiver: float


Serve = Callable[[Setting, Connection, Path], object]
"""Serves uploads in a thread of its own; sends port and session id over the pipe, and returns what
must be kept."""


class Server:
    """A serving function in a process of its own."""

    def __init__(self, serve: Serve, setting: Setting, directory: Path) -> None:
        directory.mkdir()
        context = multiprocessing.get_context("forkserver")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_keep, args=(serve, setting, other, directory))
        self._process.start()
        self.port, self.session_id = self._pipe.recv()

    def cpu(self) -> float:
        """Return its processor seconds, all threads."""
        self._pipe.send(None)
        return float(self._pipe.recv())

    def stop(self) -> None:
        """End the process, without waiting for long polls to run out."""
        self._process.terminate()
        self._process.join()

    def measure(self, send: Callable[[], None]) -> Measured:
        """Time one upload to this server."""
        used, own = self.cpu(), time.process_time()
        started = time.perf_counter()
        send()
        wall = time.perf_counter() - started
        return Measured(wall, time.process_time() - own, self.cpu() - used)


def _keep(serve: Serve, setting: Setting, pipe: Connection, directory: Path) -> None:
    kept = serve(setting, pipe, directory)
    while kept is not None:
        pipe.recv()
        pipe.send(time.process_time())


def count(_path: Path, frames: Iterator[bytes]) -> int:
    """Only count bytes."""
    return sum(len(frame) for frame in frames)


def hash_and_write(path: Path, frames: Iterator[bytes]) -> int:
    """Check digests, write payloads, and sync them once at the end."""
    total = 0
    with path.open("wb", buffering=0) as file:
        for frame in frames:
            payload = memoryview(frame)[FRAME_OVERHEAD:]
            digest = hashlib.sha256(frame[: FRAME_HEADER.size])
            digest.update(payload)
            if digest.digest() != frame[FRAME_HEADER.size : FRAME_OVERHEAD]:
                raise RuntimeError("damaged frame")
            file.write(payload)
            total += len(frame)
        os.fsync(file.fileno())
    return total


def serve_grpc(
    setting: Setting,
    pipe: Connection,
    directory: Path,
    handle: Callable[[Path, Iterator[bytes]], int],
) -> object:
    """Serve gRPC streams."""
    issued = setting.certificate("aggregator")
    limit = ("grpc.max_receive_message_length", setting.plan.aggregation.tile_bytes + (64 << 10))
    server = grpc.server(ThreadPoolExecutor(4), options=[limit])
    uploads = itertools.count()

    def put(frames: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        return str(handle(directory / f"{next(uploads)}.tiles", frames)).encode()

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(put)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),)
    )
    credentials = grpc.ssl_server_credentials(
        [(issued.key_pem, issued.certificate_pem)],
        root_certificates=setting.authority.certificate_pem,
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    pipe.send((port, b""))
    return server


def serve_counting(setting: Setting, pipe: Connection, directory: Path) -> object:
    """Serve gRPC streams whose bytes are only counted."""
    return serve_grpc(setting, pipe, directory, count)


def serve_writing(setting: Setting, pipe: Connection, directory: Path) -> object:
    """Serve gRPC streams that are hashed, written and synced."""
    return serve_grpc(setting, pipe, directory, hash_and_write)


def send_grpc(
    setting: Setting, server: Server, party: PartyId, frames: Iterable[bytes], size: int
) -> Measured:
    """Send frames over gRPC's client stream, on a connection that stands."""
    issued = setting.certificate(setting.plan.party_name(party))
    credentials = grpc.ssl_channel_credentials(
        setting.authority.certificate_pem, issued.key_pem, issued.certificate_pem
    )
    override = ("grpc.ssl_target_name_override", "aggregator")
    with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, [override]) as channel:
        put: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
            f"/{_SERVICE}/{_METHOD}"
        )
        grpc.channel_ready_future(channel).result(timeout=10)

        def send() -> None:
            if int(put(iter(frames), timeout=600)) != size:
                raise RuntimeError("the peer lost bytes")

        return server.measure(send)


def _context(setting: Setting, name: str, purpose: int) -> ssl.SSLContext:
    issued = setting.certificate(name)
    context = ssl.SSLContext(purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_bytes(issued.certificate_pem)
        key.write_bytes(issued.key_pem)
        context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=setting.authority.certificate_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def serve_socket(setting: Setting, pipe: Connection, _directory: Path) -> object:
    """Serve TLS sockets: eight bytes say how many follow; a byte answers once they are there."""
    context = _context(setting, "aggregator", ssl.PROTOCOL_TLS_SERVER)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    buffer = memoryview(bytearray(setting.plan.aggregation.tile_bytes))

    def serve() -> None:
        while True:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.sendall(b"r")
                left = int.from_bytes(connection.recv(8), "big")
                while left:
                    left -= connection.recv_into(buffer)
                connection.sendall(b"k")
                connection.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    pipe.send((listener.getsockname()[1], b""))
    return listener


def send_socket(
    setting: Setting, server: Server, party: PartyId, frames: Iterable[bytes], size: int
) -> Measured:
    """Send frames over a TLS socket that is connected."""
    context = _context(setting, setting.plan.party_name(party), ssl.PROTOCOL_TLS_CLIENT)
    plain = socket.create_connection(("127.0.0.1", server.port))
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        if connection.recv(1) != b"r":
            raise RuntimeError("the peer is not there")

        def send() -> None:
            connection.sendall(size.to_bytes(8, "big"))
            for frame in frames:
                connection.sendall(frame)
            if connection.recv(1) != b"k":
                raise RuntimeError("the peer lost bytes")

        return server.measure(send)
