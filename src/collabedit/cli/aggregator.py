"""`collabedit aggregator`: the coordinator of a session."""

import json
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.records import describe_dropout
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.aggregator.states import Aborted, Completed
from collabedit.aggregator.traffic import Traffic
from collabedit.cli.configuration import AggregatorCommand, ConfigOption
from collabedit.cli.console import (
    check_address,
    check_place,
    evidence_sink,
    say,
)
from collabedit.cli.credentials import (
    AuthorityOption,
    CertificateOption,
    IdentityOption,
    PlanOption,
    TlsKeyOption,
    read_identity,
    read_tls,
)
from collabedit.cli.logs import (
    DebugOption,
    JsonLogsOption,
    LogFormat,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    LogObserver,
    configure_logs,
)
from collabedit.cli.recording import RecordOption
from collabedit.cli.web import (
    MetricsOption,
    StatusOption,
    WebNameOption,
    WebRemoteOption,
    served_pages,
)
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError
from collabedit.ids import AGGREGATOR
from collabedit.operations.progress import SessionProgress
from collabedit.plan import format_digest, load_plan
from collabedit.proto.evidence_file import EvidenceFolder
from collabedit.proto.votes import name_votes
from collabedit.recorder import Recorder

if TYPE_CHECKING:
    from collabedit.operations.web import Pages

JOURNAL_FILE = "journal.sqlite"

app = typer.Typer(help="Coordinate a session; sees no edit and no model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("serve", cls=AggregatorCommand)
def serve(
    plan_file: PlanOption,
    identity: IdentityOption,
    tls_cert: CertificateOption,
    tls_key: TlsKeyOption,
    tls_ca: AuthorityOption,
    state: Annotated[
        Path, typer.Option(help="Directory for journal, spool files and report.json.")
    ],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 lets the system choose.")] = (
        "127.0.0.1:7443"
    ),
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port here once listening.")
    ] = None,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give up an unfinished session and start a new one.")
    ] = False,
    record: RecordOption = None,
    linger: Annotated[float, typer.Option(min=0, help="Seconds to stay after the end.")] = 15.0,
    metrics: MetricsOption = None,
    status: StatusOption = None,
    web_remote: WebRemoteOption = False,
    web_name: WebNameOption = None,
    log_format: LogFormatOption = LogFormat.CONSOLE,
    log_level: LogLevelOption = LogLevel.INFO,
    json_logs: JsonLogsOption = False,
    debug: DebugOption = False,
    _config: ConfigOption = None,
) -> None:
    """Run one session of a plan, then exit: 0 if it finished, 5 if it was aborted.

    Started again with the same --state after a crash or a stop, it resumes the session.
    """
    configure_logs(log_format, log_level, as_json=json_logs, debug=debug)
    check_address("--listen", listen)
    plan = load_plan(plan_file)
    key = read_identity(identity, plan, AGGREGATOR)
    tls = read_tls(tls_cert, tls_key, tls_ca, name=plan.federation.aggregator.name)
    if port_file is not None:
        check_place(port_file)
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{state}: cannot be made: {error.strerror}") from error
    observe = LogObserver("aggregator", is_held=True)
    progress = SessionProgress()

    def observe_session(event: str, fields: Mapping[str, object]) -> None:
        progress.observe(event, fields)
        observe(event, fields)

    journal = Journal(state / JOURNAL_FILE)
    if abandon and journal.session is not None:
        say(f"gave up the unfinished session {journal.session.session_id.hex()[:16]}")
        journal.end("abandoned")
    recorder = None if record is None else Recorder(record, plan, role="aggregator")
    coordinator = Coordinator(
        plan,
        key,
        directory=state / "spool",
        randomness=SystemRandomness(),
        evidence=evidence_sink(EvidenceFolder(state, plan), observe),
        observer=observe_session,
        journal=journal,
        recorder=recorder,
    )
    observe.begin(coordinator.session_id)
    if coordinator.replayed:
        say(
            f"resuming session {coordinator.session_id.hex()[:16]} in round "
            f"{coordinator.round_name} of task {coordinator.position[0]}"
        )
    server_tls = ServerTls(tls.certificate, tls.key, tls.authority)
    traffic = Traffic() if metrics or status else None
    with (
        AggregatorServer(coordinator, address=listen, tls=server_tls, traffic=traffic) as server,
        served_pages(
            _pages(coordinator, progress, traffic, server, state, metrics, status),
            names=web_name,
            is_remote=web_remote,
            observe=observe,
        ),
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: server.request_stop())
        host = listen.rpartition(":")[0]
        observe("listening", {"address": f"{host}:{server.port}", "plan": plan.name})
        if port_file is not None:
            port_file.parent.mkdir(parents=True, exist_ok=True)
            partial = port_file.with_name(f".{port_file.name}.partial")
            partial.write_text(f"{server.port}\n")
            partial.replace(port_file)
        ended = server.run(linger=linger)
    if recorder is not None:
        recorder.close()
    _write_report(state / "report.json", coordinator)
    if not ended:
        say("stopped before the session was over; the same command resumes it")
        raise typer.Exit(130)
    coordinator.retire()
    journal.close()
    coordinator.raise_if_aborted()
    say(f"session finished: {len(coordinator.records)} sums opened and merged")


def _pages(
    coordinator: Coordinator,
    progress: SessionProgress,
    traffic: Traffic | None,
    server: AggregatorServer,
    state: Path,
    metrics: str | None,
    status: str | None,
) -> "dict[str, tuple[str | None, Pages]]":
    if traffic is None:
        return {}
    from collabedit.operations.aggregator_metrics import AggregatorCollector
    from collabedit.operations.metrics import MetricsPage

    collector = AggregatorCollector(
        coordinator,
        progress,
        traffic,
        state=state,
        port=server.port,
        reachable=lambda: server.reachable,
        is_serving=lambda: server.is_serving,
    )
    wanted: dict[str, tuple[str | None, Pages]] = {
        "--metrics": (metrics, {"/metrics": MetricsPage(collector)})
    }
    if status is not None:
        from collabedit.operations.status import StatusPages

        pages = StatusPages(
            coordinator,
            progress,
            traffic,
            reachable=lambda: server.reachable,
            is_serving=lambda: server.is_serving,
        )
        wanted["--status"] = status, {"/": pages.html, "/status.json": pages.json}
    return wanted


def _write_report(path: Path, coordinator: Coordinator) -> None:
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


@app.command("log")
def log(
    state: Annotated[Path, typer.Option(help="Directory of `aggregator serve`.")],
) -> None:
    """List what the journal holds as JSON lines, and check that no entry is missing or altered."""
    path = state / JOURNAL_FILE
    if not path.exists():
        raise InputError(f"{path}: no such journal")
    journal = Journal(path)
    for session in journal.sessions():
        count = journal.check(session)
        header = {
            "session": session.session_id.hex(),
            "plan": format_digest(session.plan_digest),
            "outcome": session.outcome,
            "inputs": count,
        }
        typer.echo(json.dumps(header))
        for entry in journal.inputs(session):
            row = {
                "input": entry.number,
                "at": datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(),
                "kind": entry.kind.name.lower(),
                "what": entry.what,
                "sha256": entry.digest.hex(),
            }
            typer.echo(json.dumps(row))
    journal.close()
