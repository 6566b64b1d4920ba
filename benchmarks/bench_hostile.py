"""The aggregator's memory, threads and descriptors while it is attacked and a session runs.

A real `collabedit aggregator serve` is attacked by strangers and by a party of the plan, one attack
after the other, each against a fresh process. Three honest parties run their session meanwhile. The
hostile party is the fourth of the plan; without it the session needs its deadlines (`join` for a
party that does not come, `upload` for one that does not finish), with or without an attack, so the
seconds of an attack are to be compared with those deadlines. The script fails if a session does not
finish, if a bound is exceeded, or if an attack did not take place.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TypeAlias

import grpc
import numpy as np
import tomli_w
from plans import create_identities, create_plan
from raw_http2 import RawConnection, connect
from sessions import FixedEditor
from timing import write_record

from collabedit.aggregator import service
from collabedit.aggregator.connections import MAXIMUM_DELIVERY_BYTES, server_options
from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.errors import CollabEditError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.member import Member
from collabedit.party.session import run_session
from collabedit.plan import load_plan
from collabedit.proto import messages as m
from collabedit.proto.codec import encode_collect_request
from collabedit.proto.envelope import sign_message

HONEST = tuple(PartyId(party) for party in (1, 2, 3))
HOSTILE = PartyId(4)
MAPPED, OUTPUTS, CAPACITY, TILE_BYTES = 1024, 512, 64, 65_536
"""A contribution of 0.75 MiB in 12 tiles."""

JOIN_SECONDS = 15.0
UPLOAD_SECONDS = 8.0
SESSION_SECONDS = 75.0
"""Both deadlines, and what two busy cores need for the rest."""

STRANGERS = 300
HOSTILE_CLIENTS = 100
MIB = 1 << 20

Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
Streaming: TypeAlias = "grpc.StreamUnaryMultiCallable[bytes, bytes]"

CONNECTION_BYTES = 160 << 10
"""Allowed for a connection; see `settings` of the record for what one was measured to take."""

SESSION_BYTES = 64 * MIB
"""Allowed for the session itself and for what the allocator keeps."""


def bound_bytes() -> int:
    """Return how much memory above an idle process any attack may cost.

    Buffers of every call that can be let in, twice (received, and parsed), and every connection.
    """
    parties = len(HONEST) + 1
    options = dict(server_options(parties, tile_bytes=TILE_BYTES))
    buffers = 2 * service.CALLS_PER_CALLER * parties * options["grpc.max_receive_message_length"]
    held = options["grpc.max_allowed_incoming_connections"] * CONNECTION_BYTES
    return buffers + held + SESSION_BYTES


@dataclass(frozen=True)
class Place:
    """Files and address of one run; travels to every process."""

    directory: Path
    port: int = 0

    def tls_files(self, name: str) -> tuple[Path, Path, Path]:
        """Return certificate, key and authority of a name."""
        return (
            self.directory / f"{name}.pem",
            self.directory / f"{name}.key",
            self.directory / "ca.pem",
        )

    def client_tls(self, name: str) -> ClientTls:
        """Read what a party's own client takes."""
        certificate, key, authority = (path.read_bytes() for path in self.tls_files(name))
        return ClientTls(certificate, key, authority)

    def channel(self, name: str, number: int) -> grpc.Channel:
        """Return a bare channel on a connection of its own."""
        tls = self.client_tls(name)
        return grpc.secure_channel(
            f"127.0.0.1:{self.port}",
            grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate),
            options=[
                ("grpc.ssl_target_name_override", "aggregator"),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                ("hostile.number", number),
            ],
        )

    def ssl_context(self, name: str) -> ssl.SSLContext:
        """Return a context for bare TLS."""
        certificate, key, authority = self.tls_files(name)
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        return context

    def member(self, party: PartyId) -> Member:
        """Read who a party is."""
        pem = (self.directory / f"identity-{party}.pem").read_bytes()
        plan = load_plan(self.directory / "plan.toml")
        return Member(plan, party, SigningKey.from_pem(pem), SystemRandomness())


def prepare(directory: Path) -> Place:
    identities = create_identities(len(HONEST) + 1)
    plan = create_plan(
        identities, mapped=MAPPED, outputs=OUTPUTS, capacity=CAPACITY, tile_bytes=TILE_BYTES
    )
    values = plan.model_dump(mode="json", exclude_none=True)
    values["timing"] = {
        "join": JOIN_SECONDS,
        "compute": 60.0,
        "round": 30.0,
        "upload": UPLOAD_SECONDS,
        "liveness": 6.0,
    }
    (directory / "plan.toml").write_text(tomli_w.dumps(values))
    authority, foreign = create_authority("bench"), create_authority("another")
    (directory / "ca.pem").write_bytes(authority.certificate_pem)
    for party, key in identities.items():
        pem = directory / f"identity-{party}.pem"
        pem.write_bytes(key.to_pem())
        pem.chmod(0o600)
        name = "aggregator" if party == AGGREGATOR else plan.party_name(party)
        write_certificate(directory, authority, name)
    write_certificate(directory, foreign, "stranger")
    return Place(directory)


def write_certificate(directory: Path, authority: Authority, name: str) -> None:
    issued = issue_certificate(
        authority, name=name, hosts=["localhost", "127.0.0.1"], lifetime_days=2
    )
    (directory / f"{name}.pem").write_bytes(issued.certificate_pem)
    key = directory / f"{name}.key"
    key.write_bytes(issued.key_pem)
    key.chmod(0o600)


def take_part(place: Place, party: PartyId, kind: type[GrpcChannel] = GrpcChannel) -> None:
    member = place.member(party)
    channel = kind(
        f"127.0.0.1:{place.port}",
        tls=place.client_tls(member.plan.party_name(party)),
        server_name="aggregator",
        patience=30.0,
        poll_seconds=2.0,
    )
    run_session(member, channel, FixedEditor(member.plan, party))


# Attacks. Each runs in a process of its own until `over`, and returns how often it struck.


def repeat(over: Event, threads: int, strike: Callable[[int], None]) -> int:
    """Call `strike` in many threads, again and again; refusals are what it is about."""
    counts = [0] * threads

    def body(number: int) -> None:
        while not over.is_set():
            with contextlib.suppress(grpc.RpcError, OSError, ValueError, CollabEditError):
                strike(number)
            counts[number] += 1
            time.sleep(0.01)

    workers = [threading.Thread(target=body, args=(n,), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    over.wait()
    return sum(counts)


def silent_connections(place: Place, over: Event) -> int:
    """Connections that never speak; whatever is closed is opened anew."""
    return hold_connections(place, over, b"")


def stalled_handshakes(place: Place, over: Event) -> int:
    """Handshakes that stop after the first message."""
    outgoing, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    hello = context.wrap_bio(incoming, outgoing, server_hostname="aggregator")
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    return hold_connections(place, over, outgoing.read())


def hold_connections(place: Place, over: Event, first_words: bytes) -> int:
    held: list[socket.socket] = []
    opened = 0
    while not over.wait(0.2):
        kept = []
        for connection in held:
            connection.setblocking(False)
            try:
                gone = first_words == b"" and connection.recv(1) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                connection.close()
            else:
                kept.append(connection)
        held = kept
        while len(held) < STRANGERS:
            try:
                connection = socket.create_connection(("127.0.0.1", place.port), timeout=2)
                connection.sendall(first_words)
            except OSError:
                break
            held.append(connection)
            opened += 1
    return opened


def foreign_certificates(place: Place, over: Event) -> int:
    """Whole handshakes with a certificate of another authority."""
    context = place.ssl_context("stranger")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def strike(_number: int) -> None:
        with socket.create_connection(("127.0.0.1", place.port), timeout=5) as plain:
            context.wrap_socket(plain).recv(1)

    return repeat(over, 20, strike)


def garbage(place: Place, over: Event) -> int:
    """Random bytes where TLS, or inside TLS where HTTP/2 is spoken."""
    context = place.ssl_context("party-4")
    rng = np.random.default_rng(0)

    def strike(number: int) -> None:
        with socket.create_connection(("127.0.0.1", place.port), timeout=5) as plain:
            if number % 2:
                plain.sendall(rng.bytes(4096))
                plain.recv(1)
            else:
                inside = context.wrap_socket(plain, server_hostname="localhost")
                inside.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.bytes(4096))
                inside.recv(1)

    return repeat(over, 20, strike)


def collect_request(place: Place) -> bytes:
    session_id = json.loads((place.directory / "session.json").read_text())["session"]
    return encode_collect_request(bytes.fromhex(session_id), cursor=0, wait_seconds=1e6)


def long_polls(place: Place, over: Event) -> int:
    """Long polls of one party, from many clients at once, without end."""
    channels = [place.channel("party-4", number) for number in range(HOSTILE_CLIENTS)]
    request = collect_request(place)

    def strike(number: int) -> None:
        collect: Unary = channels[number].unary_unary("/collabedit.v1.Coordination/Collect")
        collect(request, timeout=30)

    return repeat(over, HOSTILE_CLIENTS, strike)


def unfinished_messages(place: Place, over: Event) -> int:
    """Calls whose message, slightly under the limit, is fed as far as it goes and never ends."""
    context = place.ssl_context("party-4")
    session_id = json.loads((place.directory / "session.json").read_text())["session"]
    connections: list[RawConnection] = []
    paths = ("Coordination/Join", "Coordination/Deliver", "Coordination/Collect", "Data/Upload")
    opened = 0
    while not over.wait(0.05):
        if len(connections) < HOSTILE_CLIENTS:
            with contextlib.suppress(OSError):
                connection = connect(place.port, context)
                for path in paths:
                    connection.open(
                        f"/collabedit.v1.{path}",
                        announced=MAXIMUM_DELIVERY_BYTES - 1,
                        metadata={"session-id": session_id, "task": "0"},
                    )
                    opened += 1
                connections.append(connection)
        for connection in connections:
            connection.feed(1 << 14)
        connections = [c for c in connections if not c.closed]
    return opened


def huge_frames(place: Place, over: Event) -> int:
    """Frames far over the limit, in parallel."""
    channels = [place.channel("party-4", number) for number in range(8)]
    session_id = json.loads((place.directory / "session.json").read_text())["session"]
    metadata = (("session-id", session_id), ("task", "0"))
    frame = bytes(64 * MIB)

    def strike(number: int) -> None:
        upload: Streaming = channels[number].stream_unary("/collabedit.v1.Data/Upload")
        upload(iter([frame]), metadata=metadata, timeout=20)

    return repeat(over, len(channels), strike)


def largest_packets(place: Place, over: Event) -> int:
    """Deliver of 16 MiB, in parallel."""
    channels = [place.channel("party-4", number) for number in range(16)]
    packet = bytes(16 * MIB)

    def strike(number: int) -> None:
        deliver: Unary = channels[number].unary_unary("/collabedit.v1.Coordination/Deliver")
        deliver(packet, timeout=20)

    return repeat(over, len(channels), strike)


class _EndlessTile(GrpcChannel):
    """Takes part honestly up to its upload, then sends the first tile for ever."""

    struck = 0

    def upload(self, task: TaskIndex, frames: Callable[[frozenset[int]], Iterable[bytes]]) -> None:
        first = next(iter(frames(frozenset())))

        def endless(_stored: frozenset[int]) -> Iterator[bytes]:
            while True:
                type(self).struck += 1
                yield first

        super().upload(task, endless)


class _SlowTiles(GrpcChannel):
    """Takes part honestly up to its upload, then opens many, each of which never finishes."""

    struck = 0

    def upload(self, task: TaskIndex, frames: Callable[[frozenset[int]], Iterable[bytes]]) -> None:
        own = list(frames(frozenset()))

        def body() -> None:
            def slowly(_stored: frozenset[int]) -> Iterator[bytes]:
                for frame in own[:-1]:
                    type(self).struck += 1
                    yield frame
                    time.sleep(2.0)

            while True:
                with contextlib.suppress(CollabEditError):
                    super(_SlowTiles, self).upload(task, slowly)
                time.sleep(0.05)

        for _ in range(50):
            threading.Thread(target=body, daemon=True).start()
        time.sleep(3600)


def endless_tile(place: Place, over: Event) -> int:
    """A party that uploads the same tile for as long as it may."""
    return misbehave(place, over, _EndlessTile)


def slow_tiles(place: Place, over: Event) -> int:
    """A party with fifty uploads at once, none of which finishes."""
    return misbehave(place, over, _SlowTiles)


def misbehave(place: Place, over: Event, kind: type[_EndlessTile] | type[_SlowTiles]) -> int:
    def body() -> None:
        with contextlib.suppress(CollabEditError):
            take_part(place, HOSTILE, kind)

    threading.Thread(target=body, daemon=True).start()
    over.wait()
    return kind.struck


ATTACKS: dict[str, Callable[[Place, Event], int]] = {
    "silent connections": silent_connections,
    "stalled handshakes": stalled_handshakes,
    "foreign certificates": foreign_certificates,
    "garbage": garbage,
    "long polls": long_polls,
    "unfinished messages": unfinished_messages,
    "huge frames": huge_frames,
    "largest packets": largest_packets,
    "endless tile": endless_tile,
    "slow tiles": slow_tiles,
}


def run_attack(place: Place, name: str, over: Event, struck: "multiprocessing.Queue[int]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    struck.put(ATTACKS[name](place, over))
    # Threads that still strike are not waited for.
    struck.close()
    struck.join_thread()
    os._exit(0)


@dataclass
class Watch:
    """Samples one process until told to stop."""

    pid: int
    memory: list[int] = field(default_factory=list)
    threads: int = 0
    descriptors: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def sample(self) -> None:
        """Look once."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in status)
        self.memory.append(1024 * int(values["VmRSS"].split()[0]))
        self.threads = max(self.threads, int(values["Threads"]))
        self.descriptors = max(self.descriptors, len([*Path(f"/proc/{self.pid}/fd").iterdir()]))

    def run(self) -> None:
        """Look until told to stop."""
        while not self._stop.wait(0.05):
            with contextlib.suppress(OSError, KeyError):
                self.sample()

    def stop(self) -> None:
        """Make `run` return."""
        self._stop.set()


def serve(place: Place, log: Path, source: Path | None) -> "subprocess.Popen[bytes]":
    certificate, key, authority = place.tls_files("aggregator")
    program = (sys.executable, "-c", "from collabedit.cli import main; main()")
    options = {
        "plan": place.directory / "plan.toml",
        "identity": place.directory / f"identity-{AGGREGATOR}.pem",
        "tls-cert": certificate,
        "tls-key": key,
        "tls-ca": authority,
        "state": place.directory / "state",
        "listen": "127.0.0.1:0",
        "port-file": place.directory / "port",
        "linger": 2,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with log.open("wb") as stream:
        return subprocess.Popen(  # noqa: S603  our own program
            [*program, "aggregator", "serve", *arguments, "--json-logs"],
            env=os.environ | ({"PYTHONPATH": str(source)} if source else {}),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def read_session(place: Place) -> None:
    """Note the session's id for attacks that need it, as a party of the plan can learn it."""
    member = place.member(HOSTILE)
    nowhere = m.Context(
        member.plan.digest, bytes(m.SESSION_ID_BYTES), TaskIndex(0), bytes(m.DIGEST_BYTES)
    )
    join = sign_message(m.Join(), context=nowhere, sender=HOSTILE, key=member.identity)
    channel = GrpcChannel(
        f"127.0.0.1:{place.port}", tls=place.client_tls("party-4"), server_name="aggregator"
    )
    answer = channel.join(m.Packet(join)).envelope
    channel.close(finished=True)
    (place.directory / "session.json").write_text(
        json.dumps({"session": answer.context.session_id.hex()})
    )


def measure(name: str | None, source: Path | None) -> dict[str, object]:
    """Run one session, attacked or not, and return its row."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        place = prepare(Path(temporary))
        server = serve(place, place.directory / "log", source)
        processes: list[multiprocessing.process.BaseProcess] = []
        over, struck = spawn.Event(), spawn.Queue()
        try:
            port_file = place.directory / "port"
            while not port_file.exists():
                if server.poll() is not None:
                    raise SystemExit((place.directory / "log").read_text())
                time.sleep(0.02)
            place = Place(place.directory, int(port_file.read_text()))
            read_session(place)
            watch = Watch(server.pid)
            time.sleep(0.5)
            watch.sample()
            idle = watch.memory[-1]
            watcher = threading.Thread(target=watch.run)
            watcher.start()
            if name is not None:
                attack = spawn.Process(target=run_attack, args=(place, name, over, struck))
                attack.start()
                processes.append(attack)
                time.sleep(3.0)
            started = time.monotonic()
            honest = [spawn.Process(target=take_part, args=(place, number)) for number in HONEST]
            for party in honest:
                party.start()
            processes += honest
            for party in honest:
                party.join(max(0.0, started + SESSION_SECONDS - time.monotonic()))
            seconds = time.monotonic() - started
            finished = all(party.exitcode == 0 for party in honest)
            over.set()
            strikes = struck.get(timeout=30) if name is not None else 0
            watch.stop()
            watcher.join()
        finally:
            over.set()
            for process in processes:
                process.join(2)
                if process.is_alive():
                    process.kill()
            server.kill()
            server.wait()
        log_bytes = (place.directory / "log").stat().st_size
    return {
        "attack": name or "none",
        "strikes": strikes,
        "finished": finished,
        "seconds": round(seconds, 1),
        "idle_mib": round(idle / MIB, 1),
        "peak_mib": round(max(watch.memory) / MIB, 1),
        "rise_mib": round((max(watch.memory) - idle) / MIB, 1),
        "threads": watch.threads,
        "descriptors": watch.descriptors,
        "log_kib": round(log_bytes / 1024, 1),
        "every_second_mib": [round(value / MIB, 1) for value in watch.memory[::20]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", action="append", choices=[*ATTACKS, "none"])
    parser.add_argument("--server-source", type=Path, help="src of another version to attack")
    options = parser.parse_args()
    chosen = options.attack or ["none", *ATTACKS]
    rows = [measure(None if name == "none" else name, options.server_source) for name in chosen]
    limit = bound_bytes()
    write_record(
        "hostile",
        rows,
        parties=len(HONEST) + 1,
        join_seconds=JOIN_SECONDS,
        upload_seconds=UPLOAD_SECONDS,
        bound_mib=round(limit / MIB, 1),
    )
    bad = [
        f"{row['attack']}: {row}"
        for row in rows
        if not row["finished"]
        or float(str(row["rise_mib"])) * MIB > limit
        or (row["attack"] != "none" and not row["strikes"])
    ]
    if bad:
        raise SystemExit("\n".join(bad))


if __name__ == "__main__":
    main()
