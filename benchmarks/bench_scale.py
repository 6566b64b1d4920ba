"""Sessions of up to a hundred parties over gRPC on this machine, a million numbers each.

The aggregator is a process of its own, with a journal; parties are threads of a few processes,
each with its own mutual TLS connection, journal and full graph of masks, so every one masks its
vector as often as there are parties. `aggregator_mib` is the most memory that the aggregator's
process took beyond what it began with; `rounds` are seconds from the last message of the round
before.

    python benchmarks/bench_scale.py [--parties 25 50 100]
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

from plans import create_identities, create_plan
from sessions import FixedEditor, Gauge, Setting
from timing import write_record

from collabedit.aggregator.service import AggregatorServer
from collabedit.crypto.certificates import create_authority
from collabedit.crypto.rng import SystemRandomness
from collabedit.ids import PartyId
from collabedit.party.journal import PartyJournal
from collabedit.party.member import Member
from collabedit.party.session import run_session

MAPPED, OUTPUTS, CAPACITY = 1536, 512, 512
PROCESSES = 4
CONTRIBUTION = 8 * (MAPPED + OUTPUTS) * CAPACITY


def aggregate(setting: Setting, pipe: Connection) -> None:
    last: dict[str, float] = {}

    def observe(event: str, fields: Mapping[str, object]) -> None:
        if event in {"task-started", "opened", "task-finished"}:
            last[event] = time.perf_counter()
        elif event == "received":
            last[str(fields["round"])] = time.perf_counter()

    coordinator = setting.coordinator(observe)
    used = time.process_time()
    gauge = Gauge("session")
    tls = setting.server_tls()
    with AggregatorServer(coordinator, address="127.0.0.1:0", tls=tls) as server:
        pipe.send(server.port)
        server.run()
    coordinator.raise_if_aborted()
    gauge.enter("over")
    ordered = sorted(last.items(), key=lambda entry: entry[1])
    rounds = {name: end - start for (_, start), (name, end) in pairwise(ordered)}
    pipe.send((gauge.peaks["session"], time.process_time() - used, rounds))


def take_part(setting: Setting, parties: tuple[PartyId, ...], port: int, pipe: Connection) -> None:
    updates = []

    def run(party: PartyId) -> None:
        work = setting.directory / setting.plan.party_name(party)
        work.mkdir()
        with PartyJournal(work, randomness=SystemRandomness()) as journal:
            report = run_session(
                Member(setting.plan, party, setting.identity(party), SystemRandomness()),
                setting.channel(party, port),
                FixedEditor(setting.plan, party),
                journal=journal,
            )
        updates.append(report.tasks[0].update_digest)

    used = time.process_time()
    threads = [threading.Thread(target=run, args=(party,)) for party in parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(updates) != len(parties):
        raise RuntimeError("a party did not end its session")
    pipe.send((time.process_time() - used, set(updates)))


def session(parties: int) -> dict[str, object]:
    identities = create_identities(parties)
    plan = create_plan(identities, mapped=MAPPED, outputs=OUTPUTS, capacity=CAPACITY)
    pems = {party: key.to_pem() for party, key in identities.items()}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        setting = Setting(plan, pems, create_authority("benchmark"), Path(folder))
        here, there = context.Pipe()
        server = context.Process(target=aggregate, args=(setting, there))
        server.start()
        port = here.recv()
        started = time.perf_counter()
        workers, ends = [], []
        for number in range(PROCESSES):
            own, other = context.Pipe()
            ends.append(own)
            mine = plan.party_ids[number::PROCESSES]
            workers.append(context.Process(target=take_part, args=(setting, mine, port, other)))
            workers[-1].start()
        answers = [end.recv() for end in ends]
        memory, used, rounds = here.recv()
        wall = time.perf_counter() - started
        for process in (server, *workers):
            process.join()
            if process.exitcode:
                raise RuntimeError(f"a process of the session ended with {process.exitcode}")
    if len(set.union(*(digests for _, digests in answers))) != 1:
        raise RuntimeError("parties were given different updates")
    return {
        "parties": parties,
        "wall_s": round(wall, 2),
        "aggregator_cpu_s": round(used, 2),
        "party_cpu_s": round(sum(cpu for cpu, _ in answers) / parties, 3),
        "received_mib": round(parties * CONTRIBUTION / 2**20),
        "aggregator_mib": round(memory, 1),
        "rounds": json.dumps({name: round(seconds, 2) for name, seconds in rounds.items()}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parties", type=int, nargs="+", default=[25, 50, 100])
    rows = [session(parties) for parties in parser.parse_args().parties]
    write_record(
        "scale", rows, elements=CONTRIBUTION // 8, cores=os.cpu_count(), processes=PROCESSES
    )


if __name__ == "__main__":
    main()
