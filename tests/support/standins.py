"""Federations on disk without a model: keys, certificates, a plan, and statistics from a seed.

For tests of real processes that need many sessions. The parties run `tests.support.worker`, the
aggregator is the program itself.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.crypto.ring import to_bytes
from collabedit.exchange import plan_encoding
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.plan import Plan, format_digest
from tests.support.federations import TestFederation
from tests.support.overlaps import Overlapping

PROGRAM = (sys.executable, "-c", "from collabedit.cli import main; main()")
WORKER = (sys.executable, "-m", "tests.support.worker")
HOST = "127.0.0.1"


@dataclass(frozen=True)
class StandIns:
    """Files of everybody in one directory; each end has a folder of its own."""

    federation: TestFederation
    directory: Path
    overlap: Overlapping | None = None

    @property
    def plan(self) -> Plan:
        return self.federation.plan

    @property
    def plan_file(self) -> Path:
        return self.directory / "plan.toml"

    def credentials(self, name: str) -> list[str]:
        folder = self.directory / name
        return [
            *("--plan", str(self.plan_file), "--identity", str(folder / "identity.pem")),
            *("--tls-cert", str(folder / "tls.pem"), "--tls-key", str(folder / "tls-key.pem")),
            *("--tls-ca", str(self.directory / "ca.pem")),
        ]

    def worker(self, party: str, *, work: Path) -> list[str]:
        """Return the command of a party but for where it connects to."""
        return [
            *(*WORKER, *self.credentials(party), "--name", party, "--work", str(work)),
            *("--statistics", str(self.directory / party / "statistics.npz")),
            *("--items", str(self.directory / party / "items.json")),
        ]

    def sum_digests(self) -> list[str | None]:
        """Digests of the sums over everybody, as reports write them: without any mask.

        None for a task whose sum follows from its group secret, which no other session has.
        """
        digests: list[str | None] = []
        encoding = plan_encoding(self.plan)
        contribute = self.federation.contribute if self.overlap is None else self.overlap.contribute
        for task in map(TaskIndex, range(len(self.plan.tasks))):
            if self.plan.needs_secret(task):
                digests.append(None)
                continue
            total = np.zeros(self.plan.task_length(task), dtype=encoding.ring.dtype)
            for party in self.plan.party_ids:
                total += encoding.encode(contribute(party, task))
            digests.append(format_digest(hashlib.sha256(to_bytes(total)).digest()))
        return digests


def lay_out(
    directory: Path,
    federation: TestFederation,
    *,
    hosts: Sequence[str] = (HOST, "localhost"),
    overlap: Overlapping | None = None,
) -> StandIns:
    """Write everything that the processes of a federation need.

    Args:
        directory: made here.
        federation: its plan, keys and statistics.
        hosts: where the aggregator's certificate is good.
        overlap: whose facts are counted, with what is decided of them, if the plan counts.
    """
    stands = StandIns(federation, directory, overlap)
    directory.mkdir(parents=True)
    stands.plan_file.write_text(federation.plan.to_toml())
    authority = create_authority("test authority")
    (directory / "ca.pem").write_bytes(authority.certificate_pem)
    for member in (AGGREGATOR, *federation.plan.party_ids):
        _lay_out_member(stands, authority, member, hosts if member == AGGREGATOR else ())
    return stands


def _lay_out_member(
    stands: StandIns, authority: Authority, member: PartyId, hosts: Sequence[str]
) -> None:
    name = stands.plan.party_name(member)
    folder = stands.directory / name
    folder.mkdir()
    issued = issue_certificate(authority, name=name, hosts=list(hosts), lifetime_days=2)
    _write_private(folder / "identity.pem", stands.federation.identities[member].to_pem())
    _write_private(folder / "tls-key.pem", issued.key_pem)
    (folder / "tls.pem").write_bytes(issued.certificate_pem)
    if member != AGGREGATOR:
        arrays = {}
        for layer in stands.plan.editing.layers:
            keys, residuals = stands.federation.edits[member, TaskIndex(layer.index)]
            arrays[f"keys-{layer.index}"] = keys
            arrays[f"residuals-{layer.index}"] = residuals
        np.savez(folder / "statistics.npz", allow_pickle=False, **arrays)
        items = () if stands.overlap is None else stands.overlap.items[member]
        listed = [(item.case_id, item.topic.hex(), item.fact.hex()) for item in items]
        (folder / "items.json").write_text(json.dumps(listed))


def _write_private(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Process:
    """One end: its command, its log, and the process that runs it now."""

    name: str
    command: list[str]
    log: Path
    running: "subprocess.Popen[bytes] | None" = None
    starts: int = 0

    def start(self) -> None:
        with self.log.open("ab") as stream:
            self.running = subprocess.Popen(
                self.command,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        self.starts += 1

    def kill(self) -> None:
        """SIGKILL, so that nothing can be tidied up."""
        if self.running is not None and self.running.poll() is None:
            self.running.send_signal(signal.SIGKILL)
            self.running.wait()

    def is_running(self) -> bool:
        return self.running is not None and self.running.poll() is None

    @property
    def code(self) -> int | None:
        return None if self.running is None else self.running.poll()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Complete structured log lines so far, of every start."""
        try:
            lines = self.log.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]


@dataclass
class StandInSession:
    """One session of real processes. Leaving the context kills what still runs."""

    stands: StandIns
    directory: Path
    patience: float = 60.0
    linger: float = 12.0
    records: bool = False
    aggregator: Process = field(init=False)
    parties: dict[str, Process] = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        port = free_port()
        plan = self.stands.plan
        name = plan.federation.aggregator.name
        command = [
            *(*PROGRAM, "aggregator", "serve", *self.stands.credentials(name)),
            *("--state", str(self.directory / "state"), "--listen", f"{HOST}:{port}"),
            *("--linger", str(self.linger), "--json-logs", "--debug"),
            *self._record(name),
        ]
        self.aggregator = Process(name, command, self.directory / "aggregator.log")
        self.parties = {}
        for party in plan.federation.parties:
            command = [
                *self.stands.worker(party.name, work=self.directory / party.name),
                *("--connect", f"{HOST}:{port}", "--patience", str(self.patience)),
                *self._record(party.name),
            ]
            log = self.directory / f"{party.name}.log"
            self.parties[party.name] = Process(party.name, command, log)

    def recording(self, name: str) -> Path:
        """Return where an end records."""
        return self.directory / "records" / name

    def _record(self, name: str) -> list[str]:
        return ["--record", str(self.recording(name))] if self.records else []

    @property
    def everybody(self) -> list[Process]:
        return [self.aggregator, *self.parties.values()]

    def __enter__(self) -> Self:
        for process in self.everybody:
            process.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.everybody:
            process.kill()

    def report(self, name: str) -> Mapping[str, Any]:
        """Return what an end wrote; empty if it wrote nothing."""
        folder = "state" if name == self.aggregator.name else name
        path = self.directory / folder / "report.json"
        report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return report

    def has_done_everything(self, end: Process) -> bool:
        """Return whether a party wrote its report and then let go of its journal."""
        work = self.directory / end.name
        journal = work / "journal" / "session.journal"
        return (work / "report.json").exists() and not journal.exists()

    def wait(self, seconds: float) -> Iterator[None]:
        """Yield until every process has ended or time is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(end.code is None for end in self.everybody):
            yield
            time.sleep(0.005)

    def faults(self) -> list[str]:
        """List everything that is not as it would be without a crash."""
        found = [
            f"{end.name} ended with {end.code}: {_last_words(end)}"
            for end in self.everybody
            if end.code != 0 and not self.has_done_everything(end)
        ]
        expected = self.stands.sum_digests()
        names = [party.name for party in self.stands.plan.federation.parties]
        bundles, sums, applied = set(), set(), set()
        for end in self.everybody:
            tasks = self.report(end.name).get("tasks", [])
            pairs = zip([task["sum_digest"] for task in tasks], expected, strict=False)
            if len(tasks) != len(expected) or any(want not in {None, sum_} for sum_, want in pairs):
                found.append(f"{end.name} has another sum")
            sums.add(tuple(task["sum_digest"] for task in tasks))
            if any(task["survivors"] != names for task in tasks):
                found.append(f"{end.name} misses a party")
            bundles.add(tuple(task["update_digest"] for task in tasks))
            if end is not self.aggregator:
                applied.add(tuple(self.report(end.name).get("applied", ())))
        if {len(bundles), len(sums), len(applied)} != {1}:
            found.append("the ends have different updates or sums")
        return found


def _last_words(end: Process) -> str:
    lines = end.log.read_text(errors="replace").splitlines() if end.log.exists() else []
    return lines[-1][-300:] if lines else "(no log)"
