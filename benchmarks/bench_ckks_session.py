"""Memory of a real encrypted task, and seconds of encryption in one process and in two.

An aggregator and three parties, each a process of its own, run a whole session over gRPC on
loopback, with journals, once with 2^21 numbers and once with 2^23. Each notes the most memory (peak
of the resident set, `VmHWM`, which Linux lets a process reset) that a phase took beyond what was
there when the phase began:

    aggregator  receive, check, add, offer    all of r0 to r5 up to the opener's answer
                merge                         the opened sum and its merge, as with masks
    party       statistics                    secret basis, sketch, fixed point, as with masks
                encrypt and upload            beyond the encoded vector, of 8 bytes a number
                open                          the opener: fetch, open, upload
                update                        fetch and check

`bytes_a_number` sets the difference of both sizes against the numbers that they differ by: 0 is
memory that does not grow. Encryption is timed apart, one party alone, into a sealed file as in a
session, in this process, with one worker and with two, which count from their start: the shortest
of several runs by the wall clock, processor seconds of this process, and of the workers. On a
machine with other work the latter say more: `cpu_s` is what cannot be shared out.
"""

import ctypes
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from plans import create_identities, create_plan
from timing import write_record

from collabedit.acceptance import Measures
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.crypto.ckks.encryption import encrypt_integers
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.editing import Layer
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.decisions import Decision
from collabedit.party.journal import PartyJournal
from collabedit.party.member import Member
from collabedit.party.pieces import seal_temporarily
from collabedit.party.session import run_session
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix

PARTIES = 3
MAPPED, OUTPUTS = 6144, 2048
CAPACITIES = (256, 1024)
RUNS = 3
MIB = 1 << 20
_LIBC = ctypes.CDLL(None)

Peaks = dict[str, float]
"""MiB beyond what was there when the phase began, by phase."""


class Gauge:
    """Peak memory of this process, phase after phase."""

    def __init__(self, phase: str) -> None:
        self.peaks: Peaks = {}
        self._phase = phase
        self._begin()

    def _begin(self) -> None:
        # What was freed is given back first: a phase must not find room that another one left.
        _LIBC.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _memory("VmRSS")

    def enter(self, phase: str) -> None:
        """End the phase that runs, and begin another one."""
        used = max(0.0, _memory("VmHWM") - self._before)
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0.0), used)
        self._phase = phase
        self._begin()


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


@dataclass(frozen=True)
class Setting:
    """What every process is given; identities as PEM, by id."""

    plan: Plan
    identities: dict[PartyId, bytes]
    authority: Authority
    directory: Path


class FixedEditor:
    """One edit of random statistics."""

    def __init__(self, party: PartyId) -> None:
        rng = np.random.default_rng(party)
        self._pair = (rng.normal(size=(MAPPED, 1)) * 0.1, rng.normal(size=(OUTPUTS, 1)))

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        """See `Editor`."""
        return [self._pair for _ in layers]

    def weigh(self, decisions: Sequence[Decision], past_claims: Sequence[int]) -> None:
        """See `Editor`."""

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        """See `Editor`."""

    def rollback(self) -> None:
        """See `Editor`."""

    def measure(self) -> Measures:
        """See `Editor`."""
        return Measures(efficacy=1.0, neighbourhood=1.0, perplexity=1.0)


def aggregate(setting: Setting, pipe: Connection) -> None:
    hosts = ["localhost", "127.0.0.1"]
    issued = issue_certificate(setting.authority, name="aggregator", hosts=hosts, lifetime_days=2)
    tls = ServerTls(issued.certificate_pem, issued.key_pem, setting.authority.certificate_pem)
    place = setting.directory / "aggregator"
    place.mkdir()
    gauge = Gauge("start")

    def observe(event: str, fields: Mapping[str, object]) -> None:
        if event == "received" and fields["round"] == "r5-decrypt":
            gauge.enter("merge")
        elif event == "opened":
            gauge.enter("end")

    coordinator = Coordinator(
        setting.plan,
        SigningKey.from_pem(setting.identities[AGGREGATOR]),
        directory=place,
        randomness=SystemRandomness(),
        journal=Journal(place / "journal.sqlite"),
        observer=observe,
    )
    with AggregatorServer(coordinator, address="127.0.0.1:0", tls=tls) as server:
        gauge.enter("receive, check, add, offer")
        pipe.send(server.port)
        server.run()
    coordinator.raise_if_aborted()
    gauge.enter("over")
    pipe.send(gauge.peaks)


def take_part(setting: Setting, party: PartyId, port: int, pipe: Connection) -> None:
    plan, identity = setting.plan, SigningKey.from_pem(setting.identities[party])
    issued = issue_certificate(
        setting.authority, name=plan.party_name(party), hosts=[], lifetime_days=2
    )
    channel = GrpcChannel(
        f"127.0.0.1:{port}",
        tls=ClientTls(issued.certificate_pem, issued.key_pem, setting.authority.certificate_pem),
        server_name="aggregator",
    )
    work = setting.directory / plan.party_name(party)
    work.mkdir()
    phases = {
        "encrypting": "encrypt and upload",
        "uploaded": "wait",
        "opening": "open",
    }
    gauge = Gauge("statistics")

    def observe(event: str, fields: Mapping[str, object]) -> None:
        if event in phases:
            gauge.enter(phases[event])
        elif event == "state" and fields["state"] == "FetchingUpdate":
            gauge.enter("update")

    with PartyJournal(work, randomness=SystemRandomness()) as journal:
        run_session(
            Member(plan, party, identity, SystemRandomness()),
            channel,
            FixedEditor(party),
            journal=journal,
            observer=observe,
            processes=1,
        )
    gauge.enter("over")
    pipe.send(gauge.peaks)


def session(capacity: int) -> dict[tuple[str, str], float]:
    """Run one session; return peaks in MiB by role and phase, of parties the largest."""
    identities = create_identities(PARTIES)
    plan = create_plan(
        identities, mapped=MAPPED, outputs=OUTPUTS, capacity=capacity, encrypted=True
    )
    pems = {party: key.to_pem() for party, key in identities.items()}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        setting = Setting(plan, pems, create_authority("benchmark"), Path(folder))
        ends = [context.Pipe() for _ in range(PARTIES + 1)]
        server = context.Process(target=aggregate, args=(setting, ends[0][1]))
        server.start()
        port = ends[0][0].recv()
        members = [
            context.Process(target=take_part, args=(setting, party, port, ends[party][1]))
            for party in plan.party_ids
        ]
        for member in members:
            member.start()
        peaks: dict[tuple[str, str], float] = {}
        for number, (end, _) in enumerate(ends):
            role = "party" if number else "aggregator"
            for phase, used in end.recv().items():
                peaks[role, phase] = max(peaks.get((role, phase), 0.0), used)
        for process in (server, *members):
            process.join()
            if process.exitcode:
                raise RuntimeError(f"a process of the session ended with {process.exitcode}")
    return peaks


def encryption(values: int) -> dict[str, object]:
    """Time one upload of `values` numbers, into a sealed file."""
    parameters = CkksParameters(scale_bits=32, shift_bits=12)
    packing = Packing(parameters, 8.0, PARTIES)
    key = SecretKey.generate(parameters)
    integers = np.random.default_rng(0).integers(-(1 << 30), 1 << 30, values)

    wall: dict[int, list[float]] = {0: [], 1: [], 2: []}
    here: dict[int, list[float]] = {0: [], 1: [], 2: []}
    workers: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for processes in [number for _ in range(RUNS) for number in wall]:
        started, used, others = time.perf_counter(), time.process_time(), _children()
        seal_temporarily(encrypt_integers(key, integers, packing, processes=processes))
        wall[processes].append(time.perf_counter() - started)
        here[processes].append(time.process_time() - used)
        workers[processes].append(_children() - others)
    rows: dict[str, object] = {"what": "encrypt", "values": values}
    for processes, name in enumerate(("here", "1_worker", "2_workers")):
        rows[f"{name}_s"] = round(min(wall[processes]), 3)
        rows[f"{name}_cpu_s"] = round(min(here[processes]), 3)
        if processes:
            rows[f"{name}_own_cpu_s"] = round(min(workers[processes]), 3)
    return rows


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    sizes = [(MAPPED + OUTPUTS) * capacity for capacity in CAPACITIES]
    small, large = (session(capacity) for capacity in CAPACITIES)
    rows: list[dict[str, object]] = [
        {
            "what": f"{role}: {phase}",
            f"mib_{sizes[0]}": round(small[role, phase], 1),
            f"mib_{sizes[1]}": round(large[role, phase], 1),
            "bytes_a_number": round(
                (large[role, phase] - small[role, phase]) * MIB / (sizes[1] - sizes[0]), 2
            ),
        }
        for role, phase in small
        if phase not in {"start", "wait", "end"}
    ]
    rows += [encryption(values) for values in sizes]
    write_record(
        "ckks_session", rows, parties=PARTIES, cores=len(os.sched_getaffinity(0)), runs=RUNS
    )


if __name__ == "__main__":
    main()
