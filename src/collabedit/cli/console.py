"""What all commands share on the terminal: one-line errors, exit codes, logs, progress bars."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from collabedit.api.reporting import Advance, Reporter
from collabedit.errors import CollabEditError, InputError

terminal = Console(
    stderr=True, highlight=False, width=None if sys.stderr.isatty() else 160, soft_wrap=False
)
"""Messages for people go to standard error; standard output is for results."""

PreviousOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--previous",
        help="Update of an earlier session that the model continues; oldest first, repeatable.",
    ),
]

MISSING_PARTY_PACKAGES = (
    "this command needs the editing engine: pip install 'collabedit[party]' (torch, transformers)"
)
MISSING_EXPERIMENT_PACKAGES = (
    "this command needs dask and pandas beside the engine: pip install 'collabedit[experiments]'"
)
MISSING_ATTACK_PACKAGES = (
    "this command needs jinja2 and scikit-learn beside dask: pip install 'collabedit[attacks]'"
)


@contextmanager
def errors_to_exit_codes() -> Iterator[None]:
    """Turn the package's errors into one line on standard error and their exit code."""
    try:
        yield
    except CollabEditError as error:
        complain("; ".join((str(error), *getattr(error, "__notes__", ()))))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name in {"dask", "distributed", "pandas", "pyarrow", "scipy"}:
            complain(MISSING_EXPERIMENT_PACKAGES)
        elif error.name in {"jinja2", "markupsafe", "sklearn"}:
            complain(MISSING_ATTACK_PACKAGES)
        elif error.name in {
            *("torch", "transformers", "safetensors"),
            *("matplotlib", "gguf", "peft"),
        }:
            complain(MISSING_PARTY_PACKAGES)
        else:
            raise
        sys.exit(InputError.exit_code)
    except KeyboardInterrupt:
        terminal.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # A file that no layer below answers for: the disk is full, a directory is gone.
        if error.filename is None:
            raise
        complain(f"{error.filename}: {error.strerror}")
        sys.exit(InputError.exit_code)


def complain(text: str) -> None:
    """Print why a command ends, in one line."""
    terminal.print(Text.assemble(("error:", "bold red"), " ", text), soft_wrap=True)


def say(text: str) -> None:
    """Print a line for people as it is: no line breaks in paths, no markup in brackets."""
    terminal.print(text, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Show a bar on a terminal; without one, a line at the start and at the end."""
    if not terminal.is_terminal:
        say(f"{title} ...")
        yield lambda _done, _total: None
        return
    with Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=terminal,
        transient=False,
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Lines(Reporter):
    """Tells the person at the terminal."""

    def say(self, text: str) -> None:
        """Print a line."""
        say(text)

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        """Show a bar."""
        with progress_bar(title) as advance:
            yield advance


class ConsoleReporter(Lines):
    """Tells the person at the terminal, and an observer of events.

    Args:
        observe: given every event.
    """

    def __init__(self, observe: Callable[[str, Mapping[str, object]], None]) -> None:
        self._observe = observe

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        """Pass an event on."""
        self._observe(event, fields)


def parse_layers(text: str) -> tuple[int, ...]:
    """Read `4-8` or `3,5,7` as ascending layer numbers.

    Raises:
        typer.BadParameter: anything else.
    """
    try:
        if "-" in text:
            first, last = (int(part) for part in text.split("-"))
            layers = tuple(range(first, last + 1))
        else:
            layers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither like 4-8 nor like 3,5,7") from error
    if not layers or layers[0] < 0:
        raise typer.BadParameter(f"{text!r} names no layer")
    return layers
