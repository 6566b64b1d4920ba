"""Commands as one of several processes that `torchrun` started (docs/several-devices.md).

All ranks run the same command. Rank 0 alone prints; if one fails, the first that does says so in
one line, and all end. Without `torchrun`, or with one process, nothing here does anything.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from collabedit.cli.console import complain
from collabedit.errors import CollabEditError, InputError, RankError

if TYPE_CHECKING:
    from collabedit.party.editing.launch import Link
    from collabedit.party.editing.ranks import Ranks

_INTERRUPTED = 130
_PATIENCE_SECONDS = 10.0
"""For the rank that has something to say: `torchrun` ends all once one has ended."""

_joined: "list[Link]" = []


class _TerminatedError(BaseException):
    """SIGTERM: by `torchrun`, as another rank has ended, or by somebody else."""


def is_launched() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_alone(context: typer.Context, *, except_for: frozenset[str]) -> None:
    """Refuse a command that several processes cannot share.

    Raises:
        InputError: names the command.
    """
    command = context.invoked_subcommand
    if is_launched() and command is not None and command not in except_for:
        raise InputError(f"{command}: is no command for several processes: start it alone")


def use_ranks(device: str) -> "tuple[Ranks, str]":
    """Return the ranks of this launch and the device of this one; `ALONE` without a launch.

    Raises:
        InputError: the device cannot be shared out.
        RankError: the ranks cannot reach each other.
    """
    from collabedit.party.editing.ranks import ALONE

    if not _joined:
        return ALONE, device
    from collabedit.party.editing.launch import open_ranks

    return open_ranks(_joined[-1], device)


@contextmanager
def as_one_of_several() -> Iterator[None]:
    """Run a command inside; keep all ranks but the first from printing, and end all together."""
    if not is_launched():
        yield
        return
    from collabedit.party.editing.launch import Link

    rank = int(os.environ["RANK"])
    if rank:
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    link = Link.join()
    _joined.append(link)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except SystemExit as end:
        if end.code not in (0, None):
            _end_with_usage(link, end)
        link.close()
        raise
    except BaseException as error:  # noqa: BLE001  # whatever it is, all ranks end of it
        _end(link, error)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


def _end_with_usage(link: "Link", end: SystemExit) -> NoReturn:
    """End all ranks of a command line that is wrong: all are told so, the first has printed it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if link.rank == 0:
            link.claim_failure()
            link.store.set("spoken", "")
        else:
            _await_speaker(link)
    finally:
        _leave(end.code if isinstance(end.code, int) else 1)


def _end(link: "Link", error: BaseException) -> NoReturn:
    """Say why, if no other rank has, and end this process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = 1
    try:
        text, code = _describe(link, error)
        if link.claim_failure():
            _speak(text)
            link.store.set("spoken", "")
        else:
            _await_speaker(link)
    except RuntimeError:
        # The launcher, and with it the store, is gone: there is nobody to agree with.
        _speak(f"{link.title}: the launcher is gone")
    finally:
        _leave(code)


def _speak(text: str) -> None:
    sys.stderr = sys.__stderr__
    complain(text)


def _leave(code: int) -> NoReturn:
    """End at once: what an interpreter does at its end may wait for ranks that are gone."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _await_speaker(link: "Link") -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end and not link.store.check(["spoken"]):
        time.sleep(0.02)


def _describe(link: "Link", error: BaseException) -> tuple[str, int]:
    """Return what happened in words without any text of edits, and the exit code."""
    if isinstance(error, RankError):
        return str(error), error.exit_code
    if isinstance(error, CollabEditError):
        notes = "; ".join((str(error), *getattr(error, "__notes__", ())))
        return f"{link.title}: {notes}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", _INTERRUPTED
    if isinstance(error, _TerminatedError):
        said = link.diagnose() or f"{link.title}: was told to end (SIGTERM)"
        return said, RankError.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return f"{link.title}: {error.filename}: {error.strerror}", InputError.exit_code
    # A message of a library may quote what it was given.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{link.title}: {type(error).__name__}{place}", 1
