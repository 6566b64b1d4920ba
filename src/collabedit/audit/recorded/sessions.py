"""Recordings that belong together: one session as one or several of its ends saw it.

What is wrong with a recording is said before anything is computed, by name of its file and end.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from collabedit.attacks.views import first_layer, layer_of, proposed_survivors
from collabedit.errors import InputError
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan, format_digest
from collabedit.recording import Recording

MOST_SESSIONS = 2
"""The second one is for views of a pair alone."""


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """A finished session.

    Attributes:
        plan: public.
        recordings: of different ends.
        survivors: whose contributions are in the sum of each task that edits layers.
    """

    plan: Plan
    recordings: tuple[Recording, ...]
    survivors: Mapping[TaskIndex, frozenset[PartyId]]

    @property
    def aggregator(self) -> Recording | None:
        """What the aggregator recorded, or a simulation; None if neither did."""
        return next((each for each in self.recordings if each.role != "party"), None)

    @property
    def recipient(self) -> Recording | None:
        """What has the released update: a party's recording, or a simulation's; None without."""
        return next((each for each in self.recordings if each.role != "aggregator"), None)

    @property
    def origins(self) -> tuple[str, ...]:
        """Who recorded."""
        return tuple(each.origin for each in self.recordings)

    @property
    def summed(self) -> frozenset[PartyId]:
        """Whose edits are in the sum of the first edited layer."""
        return self.survivors[layer_of(self.plan, first_layer(self.plan))[0]]


@contextmanager
def open_sessions(paths: Sequence[Path]) -> Iterator[tuple[RecordedSession, ...]]:
    """Open recordings and sort them into sessions, in the order in which these are named.

    Raises:
        InputError: one is missing, damaged, still written, of another plan or of a third session,
            or its session did not come to its end; names the file and what to do.
    """
    with ExitStack() as stack:
        found: dict[tuple[bytes, bytes], list[Recording]] = {}
        for path in paths:
            recording = stack.enter_context(Recording(path))
            _check_closed(recording)
            same = found.setdefault((recording.plan.digest, recording.session_id), [])
            twin = next((each for each in same if each.origin == recording.origin), None)
            if twin is not None:
                raise InputError(
                    f"{recording.path}: is {recording.origin}'s recording of the same session as "
                    f"{twin.path}: give one of them"
                )
            same.append(recording)
        _check_plans([each for same in found.values() for each in same])
        if len(found) > MOST_SESSIONS:
            raise InputError(
                f"{paths[-1]}: {len(found)} sessions: give recordings of one, and of a second one "
                "of the same plan for attacks on a pair; audit others on their own"
            )
        yield tuple(_session(same) for same in found.values())


def recording_digest(recording: Recording) -> str:
    """Return the SHA-256 of a recording's file, as hex: what `sha256sum` says of it."""
    with recording.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _session(recordings: Sequence[Recording]) -> RecordedSession:
    for recording in recordings:
        recording.check()
    by_end = [(recording, _survivors(recording)) for recording in recordings]
    first, survivors = by_end[0]
    for other, named in by_end[1:]:
        if named != survivors:
            raise InputError(
                f"{other.path}: names other survivors than {first.path}: one of them was altered; "
                "ask both ends for their recordings again"
            )
    for recording in recordings:
        _check_finished(recording)
    return RecordedSession(first.plan, tuple(recordings), survivors)


def _survivors(recording: Recording) -> dict[TaskIndex, frozenset[PartyId]]:
    plan, opened = recording.plan, recording.survivors()
    found = {}
    for task in _layer_tasks(plan):
        parties = opened.get(task) or proposed_survivors(task, recording.deliveries(task=task))
        if not parties:
            raise InputError(_unfinished(recording, task))
        found[task] = parties
    return found


def _check_finished(recording: Recording) -> None:
    """Refuse a session that ended early: parts of it may be missing, and look like a defence."""
    plan = recording.plan
    if recording.role != "party":
        sums = recording.sums().keys()
        for task in _layer_tasks(plan):
            if task not in sums:
                raise InputError(_unfinished(recording, task))
    if recording.role != "aggregator":
        updates = recording.updates().keys()
        for task in _layer_tasks(plan):
            if any(layer.index not in updates for layer in plan.tasks[task]):
                raise InputError(_unfinished(recording, task))


def _unfinished(recording: Recording, task: TaskIndex) -> str:
    return (
        f"{recording.path}: is of an unfinished session: {recording.origin} saw no end of sum "
        f"{task + 1} of {len(recording.plan.tasks)}; give the recording of a finished one"
    )


def _check_closed(recording: Recording) -> None:
    log = recording.path.with_name(f"{recording.path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise InputError(
            f"{recording.path}: is still being written, or was left by a killed process "
            f"({log.name} lies beside it): docs/transcripts.md says how it becomes one file"
        )


def _check_plans(recordings: Sequence[Recording]) -> None:
    first = recordings[0]
    for other in recordings[1:]:
        if other.plan.digest != first.plan.digest:
            raise InputError(
                f"{other.path}: is of plan {format_digest(other.plan.digest)}, {first.path} of "
                f"{format_digest(first.plan.digest)}: audit each plan on its own"
            )


def _layer_tasks(plan: Plan) -> list[TaskIndex]:
    return [TaskIndex(index) for index, layers in enumerate(plan.tasks) if layers]
