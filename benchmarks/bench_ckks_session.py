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

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from plans import create_identities, create_plan
from sessions import FixedEditor, Gauge, Setting
from timing import write_record

from collabedit.aggregator.service import AggregatorServer
from collabedit.crypto.certificates import create_authority
from collabedit.crypto.ckks.encryption import encrypt_integers
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.rng import SystemRandomness
from collabedit.ids import PartyId
from collabedit.party.journal import PartyJournal
from collabedit.party.member import Member
from collabedit.party.pieces import seal_temporarily
from collabedit.party.session import run_session

PARTIES = 3
MAPPED, OUTPUTS = 6144, 2048
CAPACITIES = (256, 1024)
RUNS = 3
MIB = 1 << 20


def aggregate(setting: Setting, pipe: Connection) -> None:
    gauge = Gauge("start")

    def observe(event: str, fields: Mapping[str, object]) -> None:
        if event == "received" and fields["round"] == "r5-decrypt":
            gauge.enter("merge")
        elif event == "opened":
            gauge.enter("end")

    coordinator = setting.coordinator(observe)
    with AggregatorServer(coordinator, address="127.0.0.1:0", tls=setting.server_tls()) as server:
        gauge.enter("receive, check, add, offer")
        pipe.send(server.port)
        server.run()
    coordinator.raise_if_aborted()
    gauge.enter("over")
    pipe.send(gauge.peaks)


def take_part(setting: Setting, party: PartyId, port: int, pipe: Connection) -> None:
    plan = setting.plan
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
            Member(plan, party, setting.identity(party), SystemRandomness()),
            setting.channel(party, port),
            FixedEditor(plan, party),
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
