"""One party's upload over mutual TLS on loopback, against the same bytes over bare gRPC.

Ours is the deployed pair: `party.client.GrpcChannel` to `aggregator.service.AggregatorServer`,
whose handler parses each frame, checks its SHA-256, and acknowledges when bytes and journal are
synced to disk. Two peers take a raw client stream of the very same frames, with the same TLS and
the same message size: one only counts bytes, which is the limit of gRPC; the other also computes
SHA-256 and writes each payload to a file that it syncs at the end, which is the limit of what the
protocol asks for on this disk. Servers run in processes of their own. Every timed upload is another
party's, since a repeated tile would not be written again.
"""

import hashlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
from plans import create_identities, create_plan
from timing import write_record

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.crypto.certificates import (
    Authority,
    IssuedCertificate,
    create_authority,
    issue_certificate,
)
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.exchange import FRAME_HEADER, FRAME_OVERHEAD, TileLayout, encode_frame
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.task import receive, start_task
from collabedit.plan import Plan
from collabedit.proto.envelope import first_chain
from collabedit.proto.messages import Context

PARTIES = 6
MAPPED, OUTPUTS, CAPACITY = 6144, 2048, 1024
"""A contribution of 64 MiB."""

TASK = TaskIndex(0)
RAW = "limit: raw gRPC"
WRITING = "limit: raw gRPC, SHA-256, synced disk"
_PEER_METHOD = "Put"
_PEER_SERVICE = "benchmark.Raw"


@dataclass(frozen=True)
class Setting:
    """What the serving processes are given; identities as PEM, by id."""

    plan: Plan
    identities: dict[PartyId, bytes]
    authority: Authority


def certificate(setting: Setting, name: str) -> IssuedCertificate:
    hosts = ["localhost", "127.0.0.1"]
    return issue_certificate(setting.authority, name=name, hosts=hosts, lifetime_days=2)


def reach_uploads(setting: Setting, coordinator: Coordinator) -> None:
    """Take all parties through r0 to r2, straight at the coordinator."""
    plan = setting.plan
    chain = first_chain(plan.digest, coordinator.session_id)
    context = Context(plan.digest, coordinator.session_id, TASK, chain)
    states: dict[PartyId, s.State] = {}
    identities = {party: SigningKey.from_pem(pem) for party, pem in setting.identities.items()}
    for party in plan.party_ids:
        task_setup = s.TaskSetup(plan, context, party, identities[party], SystemRandomness())
        step = start_task(task_setup)
        states[party] = step.state
        for packet in step.outbound:
            coordinator.deliver(packet)
    for cursor in range(3):
        for party in plan.party_ids:
            (packet,) = coordinator.mailbox(party, cursor=cursor)
            step = receive(states[party], packet)
            states[party] = step.state
            for answer in step.outbound:
                coordinator.deliver(answer)
    if coordinator.round_name != "r3-contribute":
        raise RuntimeError(f"the coordinator is in {coordinator.round_name}")


def serve_ours(setting: Setting, pipe: Connection, directory: Path) -> None:
    issued = certificate(setting, "aggregator")
    tls = ServerTls(issued.certificate_pem, issued.key_pem, setting.authority.certificate_pem)
    coordinator = Coordinator(
        setting.plan,
        SigningKey.from_pem(setting.identities[AGGREGATOR]),
        directory=directory,
        randomness=SystemRandomness(),
        journal=Journal(directory / "journal.sqlite"),
    )
    reach_uploads(setting, coordinator)
    with AggregatorServer(coordinator, address="127.0.0.1:0", tls=tls) as server:
        pipe.send((server.port, coordinator.session_id))
        pipe.recv()


def serve_peer(
    setting: Setting,
    pipe: Connection,
    directory: Path,
    handle: Callable[[Path, Iterator[bytes]], int],
) -> None:
    issued = certificate(setting, "aggregator")
    limit = ("grpc.max_receive_message_length", setting.plan.aggregation.tile_bytes + (64 << 10))
    server = grpc.server(ThreadPoolExecutor(4), options=[limit])
    uploads = itertools.count()

    def put(frames: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        return str(handle(directory / f"{next(uploads)}.tiles", frames)).encode()

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(put)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_PEER_SERVICE, {_PEER_METHOD: handler}),)
    )
    credentials = grpc.ssl_server_credentials(
        [(issued.key_pem, issued.certificate_pem)],
        root_certificates=setting.authority.certificate_pem,
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    pipe.send((port, b""))
    pipe.recv()
    server.stop(0).wait()


def count(_path: Path, frames: Iterator[bytes]) -> int:
    return sum(len(frame) for frame in frames)


def hash_and_write(path: Path, frames: Iterator[bytes]) -> int:
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


def serve_counting(setting: Setting, pipe: Connection, directory: Path) -> None:
    serve_peer(setting, pipe, directory, count)


def serve_writing(setting: Setting, pipe: Connection, directory: Path) -> None:
    serve_peer(setting, pipe, directory, hash_and_write)


class Server:
    """A serving function in a process of its own."""

    def __init__(
        self, serve: Callable[[Setting, Connection, Path], None], setting: Setting, directory: Path
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(setting, other, directory))
        self._process.start()
        self.port, self.session_id = self._pipe.recv()

    def stop(self) -> None:
        """End the process, without waiting for long polls to run out."""
        self._process.terminate()
        self._process.join()


def upload_ours(setting: Setting, server: Server, party: PartyId, frames: list[bytes]) -> float:
    issued = certificate(setting, setting.plan.party_name(party))
    channel = GrpcChannel(
        f"127.0.0.1:{server.port}",
        tls=ClientTls(issued.certificate_pem, issued.key_pem, setting.authority.certificate_pem),
        server_name="aggregator",
    )
    channel.open(server.session_id)
    if channel.next_packet(10.0) is None:  # the connection stands once a packet came through
        raise RuntimeError("no packet from the aggregator")
    started = time.perf_counter()
    channel.upload(TASK, lambda _have: frames)
    seconds = time.perf_counter() - started
    channel.close(finished=True)
    return seconds


def upload_peer(setting: Setting, server: Server, party: PartyId, frames: list[bytes]) -> float:
    issued = certificate(setting, setting.plan.party_name(party))
    credentials = grpc.ssl_channel_credentials(
        setting.authority.certificate_pem, issued.key_pem, issued.certificate_pem
    )
    override = ("grpc.ssl_target_name_override", "aggregator")
    with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, [override]) as channel:
        put: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
            f"/{_PEER_SERVICE}/{_PEER_METHOD}"
        )
        grpc.channel_ready_future(channel).result(timeout=10)
        started = time.perf_counter()
        received = put(iter(frames), timeout=600)
        seconds = time.perf_counter() - started
    if int(received) != sum(map(len, frames)):
        raise RuntimeError("the peer lost bytes")
    return seconds


def main() -> None:
    identities = create_identities(PARTIES)
    plan = create_plan(identities, mapped=MAPPED, outputs=OUTPUTS, capacity=CAPACITY)
    pems = {party: key.to_pem() for party, key in identities.items()}
    setting = Setting(plan, pems, create_authority("benchmark"))
    layout = TileLayout.of(plan, TASK)
    frames = [
        encode_frame(index, os.urandom(layout.tile_bytes(index))) for index in range(layout.tiles)
    ]
    seconds: dict[str, list[float]] = {"ours": [], RAW: [], WRITING: []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        places = [root / "ours", root / "counting", root / "writing"]
        for place in places:
            place.mkdir()
        serves = (serve_ours, serve_counting, serve_writing)
        servers = [Server(serve, setting, p) for serve, p in zip(serves, places, strict=True)]
        for number, party in enumerate(plan.party_ids):
            measured = {
                "ours": upload_ours(setting, servers[0], party, frames),
                RAW: upload_peer(setting, servers[1], party, frames),
                WRITING: upload_peer(setting, servers[2], party, frames),
            }
            if number:  # the first round warms the servers up
                for what, value in measured.items():
                    seconds[what].append(value)
        for server in servers:
            server.stop()
    size = sum(map(len, frames))
    medians = {what: statistics.median(values) for what, values in seconds.items()}
    rows: list[dict[str, object]] = [
        {
            "what": what,
            "wall_s": round(medians[what], 4),
            "best_s": round(min(values), 4),
            "mb_per_s": round(size / medians[what] / 1e6, 1),
            "ratio_to_raw": round(medians[what] / medians[RAW], 3),
            "ratio_to_writing": round(medians[what] / medians[WRITING], 3),
        }
        for what, values in seconds.items()
    ]
    write_record("transport", rows, bytes=size, runs=PARTIES - 1, frame_bytes=1 << 20, tls="mutual")


if __name__ == "__main__":
    main()
