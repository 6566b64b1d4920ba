"""Structured logs on standard error: their options, their form, the level of each event.

`docs/logs.md` lists every event with its fields; a test compares it with what sessions log.
"""

import enum
import logging
import sys
from collections.abc import Mapping
from typing import Annotated, TypeAlias

import structlog
import typer


class LogFormat(enum.StrEnum):
    """How a line looks."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The least important level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogFormatOption: TypeAlias = Annotated[
    LogFormat, typer.Option("--log-format", help="Lines for people, or JSON lines.")
]
LogLevelOption: TypeAlias = Annotated[
    LogLevel, typer.Option("--log-level", help="Log this and what is more important.")
]
JsonLogsOption: TypeAlias = Annotated[
    bool, typer.Option("--json-logs", help="The same as --log-format json.")
]
DebugOption: TypeAlias = Annotated[
    bool, typer.Option("--debug", help="The same as --log-level debug: log every message.")
]

LEVELS: Mapping[str, LogLevel] = {
    **dict.fromkeys(("state", "received", "ignored"), LogLevel.DEBUG),
    **dict.fromkeys(
        (
            "certificate-refused",
            "dropped",
            "equivocated",
            "evidence-lost",
            "refused",
            "round-closed",
            "upload-lost",
            "web-remote",
            "wrong-shares",
        ),
        LogLevel.WARNING,
    ),
    "aborted": LogLevel.ERROR,
}
"""Levels of events; all others are `info`."""


def configure_logs(
    form: LogFormat = LogFormat.CONSOLE,
    level: LogLevel = LogLevel.INFO,
    *,
    as_json: bool = False,
    debug: bool = False,
) -> None:
    """Send structured logs to standard error.

    Args:
        form: of a line.
        level: the least that is logged.
        as_json: overrides `form`.
        debug: overrides `level`.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json or form is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=18)
    )
    least = logging.DEBUG if debug else logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class LogObserver:
    """Logs every event with its level, and with the session once that is known.

    Args:
        role: who logs: `aggregator`, or a party by its name.
        is_held: keep events until `begin` says which session they are of.
    """

    def __init__(self, role: str, *, is_held: bool = False) -> None:
        self._logger = structlog.get_logger().bind(role=role)
        self._session = ""
        self._held: list[tuple[str, Mapping[str, object]]] | None = [] if is_held else None

    def begin(self, session_id: bytes) -> None:
        """Log what was held, and all that follows, as of this session."""
        self._session = session_id.hex()[:16]
        held, self._held = self._held, None
        for event, fields in held or ():
            self(event, fields)

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        """Log one event."""
        if self._held is not None:
            self._held.append((event, dict(fields)))
            return
        if event in {"joined", "resumed"} and "session" in fields:  # a party's own
            self._session = str(fields["session"])
        known = {"session": self._session} if self._session else {}
        log = getattr(self._logger, LEVELS.get(event, LogLevel.INFO))
        log(event, **{**known, **fields})
