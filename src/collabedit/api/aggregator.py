"""The coordinator of a session, as a library; `collabedit aggregator` is its command line."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.records import TaskRecord, describe_dropout
from collabedit.aggregator.rotation import RotatedTls
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.aggregator.states import Aborted, Completed
from collabedit.aggregator.traffic import Traffic
from collabedit.api.credentials import Credentials, TlsFiles
from collabedit.api.evidence import evidence_sink
from collabedit.api.places import check_address
from collabedit.api.reporting import SILENT, Reporter
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError
from collabedit.plan import Plan, format_digest
from collabedit.proto.evidence_file import EvidenceFolder
from collabedit.proto.votes import name_votes
from collabedit.recorder import Recorder

JOURNAL_FILE = "journal.sqlite"
REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class Served:
    """A finished session at the aggregator's end.

    Attributes:
        session_id: hex.
        records: of every sum that was opened and merged.
        report_file: JSON, of everything that it knows.
    """

    session_id: str
    records: tuple[TaskRecord, ...]
    report_file: Path


class Aggregator:
    """Coordinates one session of a plan. A context manager: it listens inside.

    Started again with the same `state` after a crash or a stop, it resumes the session.

    Args:
        plan: that all agree on.
        credentials: the aggregator's own.
        state: directory for journal, spool files and report; made if missing.
        listen: HOST:PORT; port 0 lets the system choose.
        abandon: give up an unfinished session and start a new one.
        record: directory for a transcript, for audits.
        traffic: counts what crosses the wire.
        grace: seconds that calls have to end after `stop`.
        reflection: let parties' tools ask which methods there are.
        reporter: told what happens.

    Raises:
        InputError: `state` cannot be made, or `listen` is no address.
        TransportError: nothing can listen there.
        StorageError: the journal is damaged, or of another plan.
    """

    def __init__(
        self,
        plan: Plan,
        credentials: Credentials,
        *,
        state: Path,
        listen: str = "127.0.0.1:7443",
        abandon: bool = False,
        record: Path | None = None,
        traffic: Traffic | None = None,
        grace: float = 2.0,
        reflection: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        check_address("the address to listen on", listen)
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{state}: cannot be made: {error.strerror}") from error
        self.plan = plan
        self.state = state
        self._reporter = reporter
        self._exits = ExitStack()
        with ExitStack() as opened:
            opened.enter_context(self._exits)
            self._journal = Journal(state / JOURNAL_FILE)
            opened.callback(self._journal.close)
            if abandon and self._journal.session is not None:
                given_up = self._journal.session.session_id.hex()[:16]
                reporter.say(f"gave up the unfinished session {given_up}")
                self._journal.end("abandoned")
            recorder = None
            if record is not None:
                recorder = self._exits.enter_context(Recorder(record, plan, role="aggregator"))
            self.coordinator = Coordinator(
                plan,
                credentials.identity,
                directory=state / "spool",
                randomness=SystemRandomness(),
                evidence=evidence_sink(EvidenceFolder(state, plan), reporter.observe),
                observer=reporter.observe,
                journal=self._journal,
                recorder=recorder,
            )
            reporter.begin(self.coordinator.session_id)
            if self.coordinator.replayed:
                reporter.say(
                    f"resuming session {self.session_id[:16]} in round "
                    f"{self.coordinator.round_name} of task {self.coordinator.position[0]}"
                )
            tls = _server_tls(credentials.tls)
            places = credentials.places
            self._rotated = None
            if places is not None:
                self._rotated = RotatedTls(
                    lambda: _server_tls(places.read()), places.files, reporter.observe
                )
            self.server = AggregatorServer(
                self.coordinator,
                address=listen,
                tls=tls if self._rotated is None else self._rotated.current,
                traffic=traffic,
                renewed=None if self._rotated is None else self._rotated.renewed,
                grace=grace,
                reflection=reflection,
            )
            opened.pop_all()  # nothing failed: `__exit__` closes them
        self._host = listen.rpartition(":")[0]

    @property
    def session_id(self) -> str:
        """Of the session that is coordinated, hex."""
        return self.coordinator.session_id.hex()

    @property
    def address(self) -> str:
        """HOST:PORT that it listens on."""
        return f"{self._host}:{self.server.port}"

    def __enter__(self) -> Self:
        if self._rotated is not None:
            self._exits.enter_context(self._rotated)
        self._exits.enter_context(self.server)
        self._reporter.observe("listening", {"address": self.address, "plan": self.plan.name})
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop_listening()
        self._journal.close()

    def _stop_listening(self) -> None:
        self._exits.close()

    def stop(self) -> None:
        """Make `run` return soon. Safe in a signal handler, and from another thread."""
        self.server.request_stop()

    def renew_certificate(self) -> None:
        """Read the TLS files anew soon, as is done when they change. Safe in a signal handler."""
        if self._rotated is not None:
            self._rotated.ask()

    def run(self, *, linger: float = 15.0) -> Served | None:
        """Coordinate the session to its end.

        Args:
            linger: seconds to stay after the end, so that parties can fetch what is left.

        Returns:
            What was done; None after `stop`: the session can be resumed.

        Raises:
            SessionAbortedError: it ended early; the report says why.
        """
        ended = self.server.run(linger=linger)
        self._stop_listening()
        path = self.state / REPORT_FILE
        write_report(path, self.coordinator)
        if not ended:
            return None
        self.coordinator.retire()
        self.coordinator.raise_if_aborted()
        return Served(self.session_id, tuple(self.coordinator.records), path)


def _server_tls(files: TlsFiles) -> ServerTls:
    return ServerTls(files.certificate, files.key, files.authority)


def write_report(path: Path, coordinator: Coordinator) -> None:
    """Write what an aggregator knows of a session, finished or not, as JSON."""
    plan, last = coordinator.plan, coordinator.state
    dropouts = last.dropouts if isinstance(last, Aborted) else ()
    votes = last.votes if isinstance(last, Completed | Aborted) else {}
    report: dict[str, object] = {
        "plan": format_digest(plan.digest),
        "session": coordinator.session_id.hex(),
        "tasks": [record.to_dict(plan) for record in coordinator.records],
        "aborted": last.reason.name if isinstance(last, Aborted) else None,
        "dropouts_of_aborted_task": [describe_dropout(plan, dropout) for dropout in dropouts],
    }
    if votes:
        report["votes"] = name_votes(plan, votes)
    path.write_text(json.dumps(report, indent=2) + "\n")
