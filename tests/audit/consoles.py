"""Where the audits print."""

from rich.console import Console

_COLUMNS = 140
"""Where there is no terminal to ask: in a log, a table that wraps in every cell cannot be read."""


def wide_console(*, stderr: bool = False) -> Console:
    """Return a console that is wide if nobody says how wide it is."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_COLUMNS)
