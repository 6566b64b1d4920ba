"""What each step of a session costs on this machine, measured with the product's own code.

Seconds are of one processor: linear algebra runs on one thread here. Where a step takes too long
at full size it is measured smaller, at two or three sizes, and follows the operations it consists
of: `Fit` says by how much the measured points miss that.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from bench_transport import serve_ours, upload_ours
from plans import create_identities, create_plan
from scipy.optimize import nnls
from sessions import Gauge
from streams import Server
from streams import Setting as TransportSetting
from threadpoolctl import threadpool_limits

from collabedit.aggregator.tiles import TileStore
from collabedit.bounds import check_update
from collabedit.crypto.certificates import create_authority
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, mask_tile
from collabedit.crypto.ring import Ring, to_bytes
from collabedit.crypto.rng import SystemRandomness
from collabedit.exchange import (
    Tile,
    TileLayout,
    encode_frame,
    plan_encoding,
    plan_test_matrix,
    tile_digest,
)
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.basis import Rotation
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.contribution import bring
from collabedit.sketch import (
    OVERSAMPLING,
    DenseStatistics,
    Matrix,
    expand_test_matrix,
    merge_dense,
    merge_sketch,
    sketch,
)

TASK = TaskIndex(0)
ELEMENTS = 1 << 20
CALLS = 400
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Fit:
    """A cost as a sum of terms, none negative.

    Attributes:
        factors: of the terms.
        miss: largest relative error at a measured point.
    """

    factors: tuple[float, ...]
    miss: float

    @classmethod
    def of(cls, terms: Sequence[Sequence[float]], measured: Sequence[float]) -> "Fit":
        """Fit to the least relative error; terms [points, terms]."""
        scale = np.array(measured)
        rows = np.array(terms, dtype=float) / scale[:, None]
        factors, _ = nnls(rows, np.ones(len(scale)))
        return cls(tuple(map(float, factors)), float(np.abs(rows @ factors - 1).max()))

    def at(self, *terms: float) -> float:
        """Return the cost for these terms."""
        return sum(factor * term for factor, term in zip(self.factors, terms, strict=True))


@dataclass(frozen=True)
class Shape:
    """A layer and a capacity: d', d_out and m."""

    mapped: int
    outputs: int
    capacity: int


@dataclass(frozen=True)
class Costs:
    """Seconds of one processor, and bytes of memory.

    Attributes:
        mask: of a byte and mask, at either end.
        encode: of an element into fixed point.
        decode: of an element out of it.
        frame: of a byte.
        send: of a byte, over gRPC with TLS, at its sender.
        receive: of a byte, over gRPC with TLS: checked, written, synced and journalled.
        call_client: of a small call, at the party.
        call_server: of a small call, at the aggregator.
        add: of a stored byte that is read, held against its digest and added.
        bring: sketching and encoding at a party; terms (d' + d_out)·m, and that times its edits.
        rotate: the secret basis of `size` applied to columns; terms size² and size²·columns.
        check: a received update of rank r; terms (d' + d_out)·r².
        merge: terms d'·m² and m³.
        merge_memory: bytes beyond the sums; terms d'·m and m².
        merge_dense: terms d'³, at d_out = d'/4.
        paper_products: ΔW·S of one party; terms d'²·d_out.
        paper_inverse: terms d'³.
        bring_mib: memory of a party that sketches, at the full size.
    """

    mask: float
    encode: float
    decode: float
    frame: float
    send: float
    receive: float
    call_client: float
    call_server: float
    add: float
    bring: Fit
    rotate: Fit
    check: Fit
    merge: Fit
    merge_memory: Fit
    merge_dense: Fit
    paper_products: Fit
    paper_inverse: Fit
    bring_mib: float


def processor_seconds(run: Callable[[], object], *, runs: int = 1) -> float:
    """Return the least processor time of some runs."""
    taken = []
    for _ in range(runs):
        started = time.process_time()
        run()
        taken.append(time.process_time() - started)
    return min(taken)


def measure(shape: Shape, *, merge_at: Sequence[int]) -> Costs:
    """Measure everything for one shape of layer.

    Args:
        shape: the layer.
        merge_at: capacities at which merges are measured, two or more.
    """
    with threadpool_limits(1):
        vector, wire, store = _vector(), _wire(), _store()
        bringing, memory = _bring(shape)
        merging, merge_memory = _merge(shape, merge_at)
        dense, products, inverse = _dense()
        return Costs(
            mask=vector[0],
            encode=vector[1],
            decode=vector[2],
            frame=vector[3],
            send=wire[0],
            receive=wire[1],
            call_client=wire[2],
            call_server=wire[3],
            add=store,
            bring=bringing,
            rotate=_rotate(),
            check=_check(shape),
            merge=merging,
            merge_memory=merge_memory,
            merge_dense=dense,
            paper_products=products,
            paper_inverse=inverse,
            bring_mib=memory,
        )


def _vector() -> tuple[float, float, float, float]:
    plan = create_plan(create_identities(3), mapped=768, outputs=256, capacity=ELEMENTS // 1024)
    encoding, layout = plan_encoding(plan), TileLayout.of(plan, TASK)
    reals = np.random.default_rng(0).normal(size=ELEMENTS)
    ring = encoding.encode(reals)
    masks = [SignedMask(1, Keystream(os.urandom(32))) for _ in range(10)]

    def mask() -> None:
        for index in range(layout.tiles):
            mask_tile(ring[layout.bounds(index)], tile_index=index, masks=masks)

    def frame() -> None:
        for index in range(layout.tiles):
            encode_frame(index, to_bytes(ring[layout.bounds(index)]))

    size = 8 * ELEMENTS
    return (
        processor_seconds(mask, runs=5) / (len(masks) * size),
        processor_seconds(lambda: encoding.encode(reals), runs=5) / ELEMENTS,
        processor_seconds(lambda: encoding.decode(ring), runs=5) / ELEMENTS,
        processor_seconds(frame, runs=5) / size,
    )


def _wire() -> tuple[float, float, float, float]:
    """Upload through the deployed client and server, which are processes of their own."""
    parties = 5
    identities = create_identities(parties)
    plan = create_plan(identities, mapped=6144, outputs=2048, capacity=1024)
    pems = {party: key.to_pem() for party, key in identities.items()}
    setting = TransportSetting(plan, pems, create_authority("benchmark"))
    layout = TileLayout.of(plan, TASK)
    frames = [
        encode_frame(index, os.urandom(layout.tile_bytes(index))) for index in range(layout.tiles)
    ]
    size = sum(map(len, frames))
    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        before = set(multiprocessing.active_children())
        server = Server(serve_ours, setting, Path(folder, "ours"))
        (process,) = set(multiprocessing.active_children()) - before
        sent, received = [], []
        for party in plan.party_ids:
            own, other = time.process_time(), _used(process.pid)
            upload_ours(setting, server, party, lambda: frames)
            sent.append(time.process_time() - own)
            received.append(_used(process.pid) - other)
        calls = _calls(setting, server, process.pid)
        server.stop()
    # The first one warms both ends up. A system counts another process in hundredths of a second.
    return min(sent[1:]) / size, statistics.mean(received[1:]) / size, *calls


def _calls(setting: TransportSetting, server: Server, pid: int | None) -> tuple[float, float]:
    """Ask many times which tiles are there: processor time of a call at both ends."""
    party = setting.plan.party_ids[0]
    issued = setting.certificate(setting.plan.party_name(party))
    channel = GrpcChannel(
        f"127.0.0.1:{server.port}",
        tls=ClientTls(issued.certificate_pem, issued.key_pem, setting.authority.certificate_pem),
        server_name="aggregator",
    )
    channel.open(server.session_id)
    channel.stored(TASK)
    own, other = time.process_time(), _used(pid)
    for _ in range(CALLS):
        channel.stored(TASK)
    own, other = time.process_time() - own, _used(pid) - other
    channel.close(finished=True)
    return own / CALLS, other / CALLS


def _used(pid: int | None) -> float:
    """Processor seconds of another process, all its threads."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _store() -> float:
    parties, ring = [PartyId(i) for i in range(1, 9)], Ring.from_bits(64)
    layout = TileLayout(ELEMENTS, 8, MIB // 8)
    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        store = TileStore(Path(folder), layout)
        for party in parties:
            for index in range(layout.tiles):
                payload = os.urandom(layout.tile_bytes(index))
                store.put(party, Tile(index, payload, tile_digest(index, payload)))
            store.settle(party)
        seconds = processor_seconds(lambda: store.open_sum(parties, ring=ring, masks=()), runs=3)
    return seconds / (8 * ELEMENTS * len(parties))


def random_edits(shape: Shape, edits: int) -> tuple[Matrix, Matrix]:
    """Draw K̃ and R of some edits."""
    rng = np.random.default_rng(edits)
    keys = 0.3 * rng.normal(size=(shape.mapped, edits))
    return keys, rng.normal(size=(shape.outputs, edits))


def _bring(shape: Shape) -> tuple[Fit, float]:
    """Measure what a party does before its first message, with 20 edits; the rest is products."""
    edits = 20
    plan = create_plan(
        create_identities(3),
        mapped=shape.mapped,
        outputs=shape.outputs,
        capacity=shape.capacity,
        max_edits=edits,
    )
    few, many = random_edits(shape, edits), random_edits(shape, 5 * edits)
    gauge = Gauge("bring")
    fixed = processor_seconds(
        lambda: bring(plan, PartyId(1), TASK, [few], SystemRandomness()), runs=1
    )
    gauge.enter("products")
    omega = plan_test_matrix(plan, plan.tasks[TASK][0])
    products = [
        processor_seconds(partial(sketch, keys, residuals, omega), runs=2)
        for keys, residuals in (few, many)
    ]
    slope = max(products[1] - products[0], 0.0) / (4 * edits)
    numbers = (shape.mapped + shape.outputs) * shape.capacity
    factors = ((fixed - edits * slope) / numbers, slope / numbers)
    return Fit(factors, 0.0), gauge.peaks["bring"]


def _rotate() -> Fit:
    points = [(2048, 20), (4096, 20), (4096, 400)]
    rng = np.random.default_rng(0)
    seconds = []
    for size, count in points:
        columns = rng.normal(size=(size, count))
        rotation = Rotation(os.urandom(32), size)
        seconds.append(processor_seconds(lambda: rotation.apply(columns), runs=2))  # noqa: B023  run at once
    return Fit.of([(size**2, size**2 * count) for size, count in points], seconds)


def _check(shape: Shape) -> Fit:
    plan = create_plan(
        create_identities(3), mapped=shape.mapped, outputs=shape.outputs, capacity=512
    )
    rng, limits = np.random.default_rng(0), plan.energy_limits(plan.party_ids)
    ranks, seconds = (250, 500), []
    for rank in ranks:
        # Factors of a decomposition: columns of one length that are nearly orthogonal.
        left = rng.normal(size=(shape.outputs, rank)) / np.sqrt(shape.outputs)
        right = rng.normal(size=(rank, shape.mapped)) / np.sqrt(shape.mapped)
        seconds.append(
            processor_seconds(lambda: check_update(left, right, ridge=1.0, limits=limits), runs=2)  # noqa: B023  run at once
        )
    return Fit.of([((shape.mapped + shape.outputs) * rank**2,) for rank in ranks], seconds)


def merge_seconds(shape: Shape) -> tuple[float, float]:
    """Merge as an aggregator does: processor seconds, and bytes of memory beyond the sums."""
    capacity = shape.capacity
    keys, residuals = random_edits(shape, capacity - OVERSAMPLING)
    omega = expand_test_matrix(bytes(32), layer=0, rows=shape.mapped, columns=capacity)
    total = sketch(keys, residuals, omega)
    plan = create_plan(
        create_identities(3),
        mapped=shape.mapped,
        outputs=shape.outputs,
        capacity=capacity,
        max_edits=(capacity - OVERSAMPLING) // 3,
    )
    noise = plan_encoding(plan).step
    gauge = Gauge("merge")
    seconds = processor_seconds(
        lambda: merge_sketch(
            total, omega, ridge=1.0, noise=noise, limits=plan.energy_limits(plan.party_ids)
        )
    )
    gauge.enter("over")
    return seconds, gauge.peaks["merge"] * MIB


SQUARER = Shape(2048, 512, 800)
"""A merge in which m³ weighs more beside d'·m² than in any layer that sessions are sized for."""


def _merge(shape: Shape, capacities: Sequence[int]) -> tuple[Fit, Fit]:
    points = [replace(shape, capacity=capacity) for capacity in capacities]
    points.append(SQUARER)
    measured = [merge_seconds(point) for point in points]
    sizes = [(point.mapped, point.capacity) for point in points]
    return (
        Fit.of([(mapped * m**2, m**3) for mapped, m in sizes], [each for each, _ in measured]),
        Fit.of(
            [(mapped * m, m**2) for mapped, m in sizes], [max(each, 1.0) for _, each in measured]
        ),
    )


def _dense() -> tuple[Fit, Fit, Fit]:
    """Measure the dense form and the products of the paper's rule, at smaller sizes."""
    merge, product, inverse, sizes = [], [], [], (1024, 2048)
    for size in sizes:
        outputs = size // 4
        keys, residuals = random_edits(Shape(size, outputs, 1), size // 8)
        total = DenseStatistics(keys @ keys.T, residuals @ keys.T)
        merge.append(processor_seconds(lambda: merge_dense(total, ridge=1.0, noise=1e-10)))  # noqa: B023  run at once
        product.append(processor_seconds(lambda: total.cross @ total.gram, runs=2))  # noqa: B023  run at once
        whole = total.gram + np.eye(size)
        inverse.append(processor_seconds(lambda: np.linalg.inv(whole)))  # noqa: B023  run at once
    cubes = [(size**3,) for size in sizes]
    quarters = [(size**2 * (size // 4),) for size in sizes]
    return Fit.of(cubes, merge), Fit.of(quarters, product), Fit.of(cubes, inverse)
