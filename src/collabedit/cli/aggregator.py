"""`collabedit aggregator`: the coordinator of a session."""

import json
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.aggregator.journal import Journal
from collabedit.aggregator.traffic import Traffic
from collabedit.api.aggregator import JOURNAL_FILE, Aggregator
from collabedit.api.credentials import Credentials
from collabedit.api.places import check_address, check_place
from collabedit.cli.configuration import AggregatorCommand, ConfigOption
from collabedit.cli.console import ConsoleReporter, say
from collabedit.cli.credentials import (
    AuthorityOption,
    CertificateOption,
    IdentityOption,
    PlanOption,
    TlsKeyOption,
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
from collabedit.errors import InputError
from collabedit.operations.progress import SessionProgress
from collabedit.plan import format_digest, load_plan

if TYPE_CHECKING:
    from collabedit.operations.web import Pages

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
    credentials = Credentials.read(
        plan,
        plan.federation.aggregator.name,
        identity=identity,
        certificate=tls_cert,
        key=tls_key,
        authority=tls_ca,
    )
    if port_file is not None:
        check_place(port_file)
    progress = SessionProgress()
    traffic = Traffic() if metrics or status else None
    reporter = _Reporter(progress)
    aggregator = Aggregator(
        plan,
        credentials,
        state=state,
        listen=listen,
        abandon=abandon,
        record=record,
        traffic=traffic,
        reporter=reporter,
    )
    with (
        aggregator,
        served_pages(
            _pages(aggregator, progress, traffic, metrics, status),
            names=web_name,
            is_remote=web_remote,
            observe=reporter.observe,
        ),
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: aggregator.stop())
        if port_file is not None:
            port_file.parent.mkdir(parents=True, exist_ok=True)
            partial = port_file.with_name(f".{port_file.name}.partial")
            partial.write_text(f"{aggregator.server.port}\n")
            partial.replace(port_file)
        served = aggregator.run(linger=linger)
    if served is None:
        say("stopped before the session was over; the same command resumes it")
        raise typer.Exit(130)
    say(f"session finished: {len(served.records)} sums opened and merged")


class _Reporter(ConsoleReporter):
    """Logs events as of their session, and keeps what pages show of them."""

    def __init__(self, progress: SessionProgress) -> None:
        self._log = LogObserver("aggregator", is_held=True)
        self._progress = progress
        super().__init__(self._log)

    def begin(self, session_id: bytes) -> None:
        """Log what was held back as of this session."""
        self._log.begin(session_id)

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Log an event, and keep it."""
        self._progress.observe(event, fields)
        super().observe(event, fields)


def _pages(
    aggregator: Aggregator,
    progress: SessionProgress,
    traffic: Traffic | None,
    metrics: str | None,
    status: str | None,
) -> "dict[str, tuple[str | None, Pages]]":
    if traffic is None:
        return {}
    from collabedit.operations.aggregator_metrics import AggregatorCollector
    from collabedit.operations.metrics import MetricsPage

    coordinator, server = aggregator.coordinator, aggregator.server
    collector = AggregatorCollector(
        coordinator,
        progress,
        traffic,
        state=aggregator.state,
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
