"""Where the audits print, and how they end."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

_COLUMNS = 140
"""Where there is no terminal to ask: in a log, a table that wraps in every cell cannot be read."""


def wide_console(*, stderr: bool = False) -> Console:
    """Return a console that is wide if nobody says how wide it is."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_COLUMNS)


def conclude(
    record: dict[str, Any], missed: Sequence[str], *, out: Path, began: float, console: Console
) -> int:
    """Write a table's record, with its failures and its time; say them, and return the status.

    Args:
        record: what else is in it.
        missed: what is not as the table claims.
        out: where to.
        began: `time.process_time()` at the start.
        console: for people.
    """
    seconds = round(time.process_time() - began, 1)
    whole = {**record, "failures": list(missed), "cpu_seconds": seconds}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    for line in missed:
        console.print(f"FAILS: {line}")
    console.print(f"{seconds} s of CPU, record in {out}")
    return 1 if missed else 0
