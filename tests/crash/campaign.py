"""A campaign: sessions in which one process is killed at random points and started again.

A point is "after the n-th thing that its log tells, and a random moment more", n drawn from a seed
over what a calm session logs. So every stage is hit, not only the one that lasts longest.
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.federations import encrypted_federation
from tests.support.overlaps import overlapping
from tests.support.standins import Process, StandIns, StandInSession, lay_out

FACTS = {
    1: ["ada lives rome", "bob eats figs", "eva sings alto"],
    2: ["ada lives rome", "bob eats nuts"],
    3: ["bob eats nuts", "cid owns cat"],
}
"""Counted first: one fact is shared, one contested."""

KINDS = ("open sums", "closed sums", "encrypted sums")
"""Of the plans that sessions take in turn."""

SESSION_SECONDS = 180.0
LARGEST_DELAY = 0.05
_NOT_PROGRESS = frozenset({"listening", "resumed", "refused", "resuming"})


@dataclass
class Result:
    """What a campaign found.

    Attributes:
        role: who was killed.
        kills: how often.
        sessions: in how many sessions.
        stages: kills by the stage that the victim's log had come to.
        kinds: kills by the kind of the plan.
        failures: one line for each thing that went wrong, with the session's number.
        seconds: of the whole campaign.
    """

    role: str
    kills: int = 0
    sessions: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "kills": self.kills,
            "sessions": self.sessions,
            "stages": dict(sorted(self.stages.items())),
            "kinds": dict(self.kinds),
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
        }


def _progress(process: Process) -> list[dict[str, Any]]:
    return [event for event in process.events if event.get("event") not in _NOT_PROGRESS]


def _stage(process: Process) -> str:
    """Name what the victim had come to."""
    for event in reversed(_progress(process)):
        if "round" in event:
            return f"task {event['task']} {event['round']}"
        if "state" in event:
            return str(event["state"])
    return "start"


def _lay_out(kind: str, folder: Path) -> StandIns:
    if kind == "encrypted sums":
        # Nothing is counted: such a plan has masks for no task.
        return lay_out(folder, encrypted_federation(len(FACTS), layers=2))
    section = "check_columns = 4" if kind == "closed sums" else None
    overlap = overlapping(FACTS, layers=2, tile_bytes=1024, closed=section).settle()
    return lay_out(folder, overlap.federation, overlap=overlap)


def _victim(session: StandInSession, role: str) -> Process:
    return session.aggregator if role == "aggregator" else next(iter(session.parties.values()))


def measure_calm(stands: StandIns, directory: Path, role: str) -> tuple[int, list[str]]:
    """Run a session without a kill: how much the victim's log tells, and what went wrong."""
    with StandInSession(stands, directory) as session:
        for _ in session.wait(SESSION_SECONDS):
            pass
        return len(_progress(_victim(session, role))), session.faults()


def run_campaign(
    role: str,
    directory: Path,
    *,
    points: int,
    per_session: int,
    seed: int,
    tell: Callable[[str], None],
) -> Result:
    """Kill `role` (`aggregator` or `party`) `points` times, `per_session` times in a session.

    The party is the first, which opens encrypted sums.
    """
    dice = random.Random(seed)  # noqa: S311  chooses moments, not keys
    started = time.monotonic()
    result = Result(role)
    kinds = []
    for number, kind in enumerate(KINDS):
        stands = _lay_out(kind, directory / f"federation-{number}")
        length, faults = measure_calm(stands, directory / f"calm-{number}", role)
        result.failures += [f"calm session, {kind}: {fault}" for fault in faults]
        kinds.append((kind, stands, length))
    while result.kills < points and not result.failures:
        kind, stands, length = kinds[result.sessions % len(kinds)]
        due = sorted(dice.sample(range(length), min(per_session, points - result.kills)))
        folder = directory / f"session-{result.sessions}"
        with StandInSession(stands, folder) as session:
            victim = _victim(session, role)
            for _ in session.wait(SESSION_SECONDS):
                if due and len(_progress(victim)) > due[0] and victim.is_running():
                    due.pop(0)
                    time.sleep(dice.random() * LARGEST_DELAY)
                    if not victim.is_running():
                        continue
                    result.stages[_stage(victim)] += 1
                    result.kinds[kind] += 1
                    victim.kill()
                    result.kills += 1
                    # Whoever died after its last act has nothing to resume.
                    if not session.has_done_everything(victim):
                        victim.start()
            faults = session.faults()
        result.failures += [f"session {result.sessions}, {kind}: {fault}" for fault in faults]
        result.sessions += 1
        tell(f"{role}: {result.kills} of {points} kills, {result.sessions} sessions")
        if not faults:
            shutil.rmtree(folder)
    result.seconds = time.monotonic() - started
    return result
