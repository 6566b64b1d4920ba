"""The status page of an aggregator: one HTML page for people, and the same as JSON.

Both are made of one snapshot, which holds names and digests of the plan, rounds, times and sizes:
what the log and `report.json` say, too. The page has no script, loads nothing, and asks for itself
again every few seconds.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from collabedit import __version__
from collabedit.aggregator import states as s
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.records import describe_dropout
from collabedit.aggregator.rounds import ROUNDS
from collabedit.errors import InputError
from collabedit.operations.watched import Watched, received_frames
from collabedit.operations.web import Page
from collabedit.plan import format_digest

if TYPE_CHECKING:
    from jinja2 import Template

REFRESH_SECONDS = 5
"""How often an open page asks again."""


class StatusPages:
    """Makes both pages of one session.

    Args:
        watched: the session.

    Raises:
        InputError: the package that makes HTML is not installed.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._template = _template()

    def html(self) -> Page:
        """Return the page for people."""
        style = _packaged("status.css")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        text = self._template.render(
            status=self.snapshot(), style=style, refresh=REFRESH_SECONDS, rounds=_rounds_of
        )
        return Page("text/html; charset=utf-8", text.encode(), policy)

    def json(self) -> Page:
        """Return the same for programs."""
        text = json.dumps(self.snapshot(), indent=2, ensure_ascii=False) + "\n"
        return Page("application/json", text.encode())

    def snapshot(self) -> dict[str, Any]:
        """Return what both pages show."""
        coordinator, progress = self._watched.coordinator, self._watched.progress
        plan, state = coordinator.plan, coordinator.state
        task, here = coordinator.position
        return {
            "version": __version__,
            "at": _iso(time.time()),
            "plan": plan.name,
            "plan_digest": format_digest(plan.digest),
            "session": coordinator.session_id.hex(),
            "since": _iso(progress.started),
            "resumed": progress.resumed,
            "state": self._state(),
            "task": task,
            "tasks": len(plan.tasks),
            "layers": [layer.index for layer in plan.tasks[task]],
            "finished_tasks": len(coordinator.records),
            "round": here,
            "round_seconds": round(progress.round_seconds, 1),
            "waiting_for": [plan.party_name(party) for party in sorted(coordinator.waiting_for)],
            "aborted": _aborted(coordinator, state),
            "parties": list(self._parties()),
            "threshold": plan.federation.threshold,
            "rounds": [
                {
                    "task": each.task,
                    "round": each.name,
                    "started": _iso(each.started),
                    "seconds": None if each.seconds is None else round(each.seconds, 2),
                }
                for each in progress.rounds
            ],
            "throughput": self._throughput(),
            "refused_calls": dict(sorted(progress.refused.items())),
        }

    def _state(self) -> str:
        coordinator = self._watched.coordinator
        state = coordinator.state
        if isinstance(state, s.Completed) and coordinator.finished:
            return "completed"
        if isinstance(state, s.Aborted):
            return "aborted"
        return "running" if self._watched.is_serving() else "stopping"

    def _parties(self) -> Iterator[dict[str, object]]:
        coordinator = self._watched.coordinator
        plan, reachable = coordinator.plan, self._watched.reachable()
        dropped = {each.party: describe_dropout(plan, each) for each in coordinator.dropouts}
        for party, state in self._watched.party_states().items():
            entry = {**dropped.get(party, {}), "name": plan.party_name(party), "state": state}
            entry.pop("party", None)
            entry["reachable"] = party in reachable
            yield entry

    def _throughput(self) -> dict[str, object]:
        methods = self._watched.traffic.methods()
        received, sent = self._watched.traffic.rates()
        return {
            "received_bytes": sum(each.received_bytes for each in methods.values()),
            "sent_bytes": sum(each.sent_bytes for each in methods.values()),
            "received_bytes_per_second": round(received),
            "sent_bytes_per_second": round(sent),
            "frames": received_frames(methods),
            "open_calls": sum(each.is_open for each in methods.values()),
        }


def _aborted(coordinator: Coordinator, state: s.State) -> dict[str, str] | None:
    if not isinstance(state, s.Aborted):
        return None
    culprit = state.culprit
    return {
        "reason": state.reason.name,
        "culprit": "" if culprit is None else coordinator.plan.party_name(culprit),
    }


def _iso(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds")


def _rounds_of(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rounds of this task, and of each whether it is `done`, `now` or to `come`."""
    seen = {each["round"] for each in status["rounds"] if each["task"] == status["task"]}
    names = [name for name in ROUNDS.values() if name in seen]
    if status["round"] in ROUNDS.values():
        # Whether sums are unmasked or decrypted, is known when it comes to it.
        after = list(ROUNDS.values()).index(status["round"]) + 1
        rest = list(ROUNDS.values())[after:]
        optional = {"r5-unmask", "r5-add", "r5-decrypt"}
        names += [name for name in rest if name not in optional]
    return [
        (name, "now" if name == status["round"] else "done" if name in seen else "come")
        for name in names
    ]


def _bytes(count: float) -> str:
    """Write a number of bytes as people read it."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"


def _seconds(seconds: float) -> str:
    """Write a duration as people read it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@cache
def _packaged(name: str) -> str:
    return (resources.files("collabedit.operations") / "templates" / name).read_text("utf-8")


@cache
def _template() -> "Template":
    try:
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  an extra
    except ModuleNotFoundError as error:
        raise InputError(
            "--status makes HTML with jinja2: pip install 'collabedit[aggregator]'"
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": _bytes, "seconds": _seconds}
    return environment.from_string(_packaged("status.html.j2"))
