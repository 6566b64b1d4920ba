"""One party's upload over mutual TLS on loopback, against bare streams of the same bytes.

Ours is the deployed pair: `party.client.GrpcChannel` to `aggregator.service.AggregatorServer`,
whose handler parses each frame, checks its SHA-256, and acknowledges when bytes and journal are
synced to disk; once with frames that are ready, and once with the party's masks and digests made
while they are sent. `streams` has the peers: a TLS socket, which is the raw rate of mutual TLS; a
raw client stream of gRPC, with its defaults; and one that also computes SHA-256 and writes each
payload to a file that it syncs at the end. Servers run in processes of their own, and every timed
upload is another party's, since a repeated tile would not be written again.

Sender and receiver share this machine's cores. So there is a limit that no program passes: the
processor time of what cannot be left out, over the cores. `limit: ...` rows have it: the TLS socket
at both ends as it was measured here, SHA-256 once at each end, the bare keystreams and additions of
the masks, and writing to the page cache, each measured in this run on one thread; or the disk, if
that is slower. `share_of_processor` is that processor time over what both ends took, which a busy
machine changes least.
"""

import hashlib
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from plans import create_identities, create_plan
from streams import (
    Measured,
    Server,
    Setting,
    send_grpc,
    send_socket,
    serve_counting,
    serve_socket,
    serve_writing,
)
from timing import time_in_turn, write_record

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.crypto.certificates import create_authority
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.exchange import TileLayout, encode_frame
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.contribution import MaskedUpload, masked_upload
from collabedit.party.task import receive, start_task
from collabedit.proto.envelope import first_chain
from collabedit.proto.messages import Context

PARTIES = 10
MAPPED, OUTPUTS, CAPACITY = 6144, 2048, 1024
"""A contribution of 64 MiB, with ten masks."""

TASK = TaskIndex(0)
OURS, MASKED = "ours", "ours, masks included"
SOCKET = "peer: mutual TLS socket"
RAW = "peer: raw gRPC"
WRITING = "peer: raw gRPC, SHA-256, synced disk"
_MASK_TILE = 1 << 18
"""Bytes; keystream, tile and zeros of the bare masks fit a core's second-level cache."""


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


def serve_ours(setting: Setting, pipe: Connection, directory: Path) -> object:
    issued = setting.certificate("aggregator")
    tls = ServerTls(issued.certificate_pem, issued.key_pem, setting.authority.certificate_pem)
    coordinator = Coordinator(
        setting.plan,
        SigningKey.from_pem(setting.identities[AGGREGATOR]),
        directory=directory,
        randomness=SystemRandomness(),
        journal=Journal(directory / "journal.sqlite"),
    )
    reach_uploads(setting, coordinator)
    server = AggregatorServer(coordinator, address="127.0.0.1:0", tls=tls)
    server.__enter__()
    pipe.send((server.port, coordinator.session_id))
    return server


def upload_ours(
    setting: Setting, server: Server, party: PartyId, frames: Callable[[], Iterable[bytes]]
) -> Measured:
    issued = setting.certificate(setting.plan.party_name(party))
    channel = GrpcChannel(
        f"127.0.0.1:{server.port}",
        tls=ClientTls(issued.certificate_pem, issued.key_pem, setting.authority.certificate_pem),
        server_name="aggregator",
    )
    channel.open(server.session_id)
    if channel.next_packet(10.0) is None:  # the connection stands once a packet came through
        raise RuntimeError("no packet from the aggregator")
    measured = server.measure(lambda: channel.upload(TASK, lambda _have: frames()))
    channel.close(finished=True)
    return measured


def masked(setting: Setting) -> MaskedUpload:
    """Make a contribution with as many masks as a party has in the full graph."""
    elements = TileLayout.of(setting.plan, TASK).elements
    encoded = np.random.default_rng(0).integers(0, 1 << 64, elements, dtype=np.uint64)
    masks = tuple(
        SignedMask(1 if number % 2 else -1, Keystream(os.urandom(32))) for number in range(PARTIES)
    )
    return masked_upload(setting.plan, TASK, encoded, masks)


def needed_seconds(payload: bytes, folder: Path) -> dict[str, float]:
    """Measure what cannot be left out, on one thread: processor seconds for these bytes.

    `disk` is seconds by the wall clock, of writing and syncing them. Each write takes a file of its
    own, as each upload does: what it costs a kernel to find pages for it is part of it.
    """
    files = itertools.count()
    keys = [AESGCM(os.urandom(32)) for _ in range(PARTIES)]
    zeros, buffer = bytes(_MASK_TILE), np.empty(_MASK_TILE + 16, dtype=np.uint8)
    stream = buffer[:_MASK_TILE].view(np.uint64)
    vector = np.frombuffer(payload, dtype=np.uint64).copy()
    step = _MASK_TILE // 8

    def mask() -> None:
        for number, start in enumerate(range(0, len(vector), step)):
            nonce = number.to_bytes(12, "big")
            for key in keys:
                key.encrypt_into(nonce, zeros, None, buffer.data)
                np.add(vector[start : start + step], stream, out=vector[start : start + step])

    def write(*, sync: bool) -> None:
        path = folder / f"{next(files)}.tiles"
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(payload), 1 << 20):
                file.write(memoryview(payload)[start : start + (1 << 20)])
            if sync:
                os.fsync(file.fileno())

    times = time_in_turn(
        {
            "sha256": lambda: hashlib.sha256(payload).digest(),
            "masks": mask,
            "write": lambda: write(sync=False),
            "disk": lambda: write(sync=True),
        },
        runs=5,
    )
    needed = {name: timed.cpu for name, timed in times.items()}
    return {**needed, "disk": times["disk"].wall}


def medians(runs: list[Measured]) -> Measured:
    return Measured(
        statistics.median(run.wall for run in runs),
        statistics.median(run.sender for run in runs),
        statistics.median(run.receiver for run in runs),
    )


def least_processor(tls: Measured, needed: dict[str, float]) -> dict[str, float]:
    """Return the least processor seconds of both ends, with frames ready and with masks."""
    receiver = tls.receiver + needed["sha256"] + needed["write"]
    return {
        OURS: tls.sender + receiver,
        MASKED: tls.sender + needed["masks"] + needed["sha256"] + receiver,
    }


def main() -> None:
    identities = create_identities(PARTIES)
    plan = create_plan(identities, mapped=MAPPED, outputs=OUTPUTS, capacity=CAPACITY)
    pems = {party: key.to_pem() for party, key in identities.items()}
    setting = Setting(plan, pems, create_authority("benchmark"))
    layout = TileLayout.of(plan, TASK)
    frames = [
        encode_frame(index, os.urandom(layout.tile_bytes(index))) for index in range(layout.tiles)
    ]
    size = sum(map(len, frames))
    runs: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        serves = (serve_ours, serve_ours, serve_socket, serve_counting, serve_writing)
        servers = [Server(serve, setting, root / str(n)) for n, serve in enumerate(serves)]
        for number, party in enumerate(plan.party_ids):
            upload = masked(setting)
            measured = {
                OURS: upload_ours(setting, servers[0], party, lambda: frames),
                MASKED: upload_ours(setting, servers[1], party, upload.frames),
                SOCKET: send_socket(setting, servers[2], party, frames, size),
                RAW: send_grpc(setting, servers[3], party, frames, size),
                WRITING: send_grpc(setting, servers[4], party, frames, size),
            }
            if number:  # the first round warms the servers up
                for what, value in measured.items():
                    runs.setdefault(what, []).append(value)
        for server in servers:
            server.stop()
        # Behind the uploads, when the kernel has to look as far for pages as it had for them.
        needed = needed_seconds(os.urandom(layout.elements * layout.element_bytes), root)
    middle = {what: medians(values) for what, values in runs.items()}
    cores = len(os.sched_getaffinity(0))
    work = least_processor(middle[SOCKET], needed)
    least = {what: max(seconds / cores, needed["disk"]) for what, seconds in work.items()}
    mib = size / 2**20
    rows: list[dict[str, object]] = [
        {
            "what": what,
            "wall_s": round(middle[what].wall, 4),
            "best_s": round(min(run.wall for run in values), 4),
            "mb_per_s": round(size / middle[what].wall / 1e6, 1),
            "sender_cpu_ms_per_mib": round(1e3 * middle[what].sender / mib, 3),
            "receiver_cpu_ms_per_mib": round(1e3 * middle[what].receiver / mib, 3),
            "ratio_to_socket": round(middle[what].wall / middle[SOCKET].wall, 3),
            "ratio_to_raw": round(middle[what].wall / middle[RAW].wall, 3),
            "ratio_to_writing": round(middle[what].wall / middle[WRITING].wall, 3),
            **(
                {
                    "share_of_limit": round(least[what] / middle[what].wall, 3),
                    "share_of_processor": round(
                        work[what] / (middle[what].sender + middle[what].receiver), 3
                    ),
                }
                if what in work
                else {}
            ),
        }
        for what, values in runs.items()
    ]
    rows += [
        {
            "what": f"limit: {what}, {cores} cores",
            "wall_s": round(seconds, 4),
            "mb_per_s": round(size / seconds / 1e6, 1),
            "ratio_to_socket": round(seconds / middle[SOCKET].wall, 3),
            "ratio_to_raw": round(seconds / middle[RAW].wall, 3),
        }
        for what, seconds in least.items()
    ]
    write_record(
        "transport",
        rows,
        bytes=size,
        runs=PARTIES - 1,
        frame_bytes=1 << 20,
        masks=PARTIES,
        tls="mutual",
        cores=cores,
        **{f"{name}_ms_per_mib": round(1e3 * seconds / mib, 4) for name, seconds in needed.items()},
    )


if __name__ == "__main__":
    main()
