"""The processes of the demo: the very commands that a person would type in four terminals."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from collabedit.api.federation import Member
from collabedit.demo.federation import DemoFederation
from collabedit.errors import AcceptanceError

PORT_SECONDS = 60.0
SESSION_SECONDS = 900.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.1


def _tls(member: Member, federation: DemoFederation) -> list[str]:
    return [
        *("--plan", str(federation.federation.plan_file)),
        *("--identity", str(member.identity)),
        *("--tls-cert", str(member.certificate)),
        *("--tls-key", str(member.tls_key)),
        *("--tls-ca", str(federation.federation.authority)),
    ]


def party_threads(federation: DemoFederation) -> int:
    """Return how many threads each party gets, so that all of them share the cores.

    More threads than cores would make the kernels wait for each other, many times slower.
    """
    return max(1, (os.cpu_count() or 1) // len(federation.parties))


def serve_command(federation: DemoFederation) -> list[str]:
    """Return the arguments of the aggregator."""
    state = federation.aggregator.directory / "state"
    return [
        *("aggregator", "serve", "--listen", "127.0.0.1:0"),
        *("--state", str(state), "--port-file", str(_port_file(federation)), "--json-logs"),
        *_tls(federation.aggregator, federation),
    ]


def join_command(
    federation: DemoFederation, party: Member, *, model: Path, covariance: Path, port: int
) -> list[str]:
    """Return the arguments of a party."""
    return [
        *("party", "join", "--name", party.name, "--model", str(model)),
        *("--covariance", str(covariance), "--edits", str(party.edits)),
        *("--work", str(party.work), "--connect", f"127.0.0.1:{port}", "--json-logs"),
        *("--threads", str(party_threads(federation))),
        *_tls(party, federation),
    ]


def _port_file(federation: DemoFederation) -> Path:
    return federation.aggregator.directory / "port"


@dataclass(slots=True)
class _Running:
    name: str
    process: "subprocess.Popen[bytes]"
    log: Path


def run_processes(
    federation: DemoFederation,
    *,
    model: Path,
    covariance: Path,
    logs: Path,
    report: Callable[[str], None],
) -> None:
    """Run the aggregator and all parties to the end of the session.

    Args:
        federation: on disk.
        model: model directory, the same for all parties.
        covariance: covariance file.
        logs: directory for one log file each.
        report: told when a process starts or ends.

    Raises:
        AcceptanceError: a process ended with an error or took too long; names its log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    running: list[_Running] = []
    with ExitStack() as stack:
        stack.callback(_stop_all, running)

        def start(name: str, arguments: list[str]) -> None:
            log = logs / f"{name}.log"
            stream = stack.enter_context(log.open("wb"))
            command = [sys.executable, "-c", "from collabedit.cli import main; main()", *arguments]
            process = subprocess.Popen(  # noqa: S603  our own program
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
            )
            running.append(_Running(name, process, log))

        start("aggregator", serve_command(federation))
        port = _await_port(_port_file(federation), running[0])
        report(f"aggregator listens on 127.0.0.1:{port} (mutual TLS)")
        for party in federation.parties:
            start(
                party.name,
                join_command(federation, party, model=model, covariance=covariance, port=port),
            )
            report(f"{party.name} joins as a process of its own")
        _await_all(running)


def _await_port(file: Path, aggregator: _Running) -> int:
    deadline = time.monotonic() + PORT_SECONDS
    while time.monotonic() < deadline:
        if file.exists():
            return int(file.read_text())
        if aggregator.process.poll() is not None:
            break
        time.sleep(_POLL_SECONDS)
    raise AcceptanceError(f"the aggregator did not start: see {aggregator.log}")


def _await_all(running: list[_Running]) -> None:
    deadline = time.monotonic() + SESSION_SECONDS
    waiting = list(running)
    while waiting:
        for one in list(waiting):
            code = one.process.poll()
            if code is None:
                continue
            waiting.remove(one)
            if code != 0:
                raise AcceptanceError(f"{one.name} ended with exit code {code}: see {one.log}")
        if time.monotonic() > deadline:
            names = ", ".join(one.name for one in waiting)
            raise AcceptanceError(f"{names} did not finish within {SESSION_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _stop_all(running: list[_Running]) -> None:
    for one in running:
        if one.process.poll() is None:
            one.process.terminate()
    for one in running:
        try:
            one.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
