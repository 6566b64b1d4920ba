"""Sessions that are recorded: a transcript on disk, for audits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collabedit.errors import InputError
from collabedit.ids import PartyId
from collabedit.party.channel import Channel
from collabedit.party.recorded_channel import RecordedChannel
from collabedit.party.session import Verified, forget
from collabedit.plan import Plan
from collabedit.recorder import Recorder
from collabedit.recording import FILE


def check_record(directory: Path | None) -> None:
    """Refuse a directory that has a recording, before any work is done for another one."""
    if directory is not None and (directory / FILE).exists():
        raise InputError(f"{directory / FILE}: exists: record into another directory")


@contextmanager
def simulation_recorder(directory: Path | None, plan: Plan) -> Iterator[Recorder | None]:
    """Record a simulated session, if it is recorded."""
    if directory is None:
        yield None
        return
    with Recorder(directory, plan, role="simulation") as recorder:
        yield recorder


@contextmanager
def recorded(
    directory: Path | None, plan: Plan, party: PartyId, channel: Channel
) -> Iterator[tuple[Channel, Verified]]:
    """Record a party's session, if it is recorded: what its session is to be given."""
    if directory is None:
        yield channel, forget
        return
    with Recorder(directory, plan, role="party", party=party) as recorder:
        yield RecordedChannel(channel, recorder, party), recorder.verify
