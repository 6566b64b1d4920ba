"""What the aggregator tells its observer: logs, reports and metrics are made of it, nothing else.

Fields hold names of parties, numbers and digests, never keys, shares or statistics.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from collabedit.aggregator import states as s
from collabedit.aggregator.records import describe_dropout
from collabedit.aggregator.rounds import ROUNDS
from collabedit.errors import CollabEditError
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan, format_digest
from collabedit.proto import messages as m
from collabedit.proto.votes import name_votes

Observer: TypeAlias = Callable[[str, Mapping[str, object]], None]
"""Receives what happens as (event, fields)."""


def ignore(event: str, fields: Mapping[str, object]) -> None:
    """Observe nothing."""
    del event, fields


class Reporter:
    """Words for what happens in a session.

    Args:
        plan: gives the names.
        observer: told of every event; must be quick.

    Attributes:
        observer: the same.
        muted: whether to keep quiet, since what is replayed was reported when it happened.
    """

    def __init__(self, plan: Plan, observer: Observer) -> None:
        self._plan = plan
        self.observer = observer
        self._dropouts = 0
        self._round = ""
        self.muted = False

    def _tell(self, event: str, **fields: object) -> None:
        if not self.muted:
            self.observer(event, fields)

    def _names(self, parties: Iterable[PartyId]) -> list[str]:
        return [self._plan.party_name(party) for party in sorted(parties)]

    def joined(self, party: PartyId) -> None:
        """Note that a party entered the session."""
        self._tell("joined", party=self._plan.party_name(party))

    def task_started(self, task: TaskIndex) -> None:
        """Note the beginning of a task."""
        self._dropouts = 0
        layers = [layer.index for layer in self._plan.tasks[task]]
        self._tell("task-started", task=task, layers=layers)
        self._enter(task, ROUNDS[s.CollectingAdvertisements])

    def _enter(self, task: TaskIndex, round_name: str) -> None:
        self._round = round_name
        self._tell("round-started", task=task, round=round_name)

    def received(self, task: TaskIndex, round_name: str, envelope: m.Envelope) -> None:
        """Note an accepted packet."""
        self._tell(
            "received",
            party=self._plan.party_name(envelope.sender),
            task=task,
            round=round_name,
            message="abort" if envelope.kind == m.KINDS[m.Abort] else "answer",
        )

    def refused(self, task: TaskIndex, round_name: str, error: CollabEditError) -> None:
        """Note a call that was refused, so that the operator sees faults of ours."""
        self._tell(
            "refused", task=task, round=round_name, error=type(error).__name__, why=str(error)
        )

    def round_closed(self, task: TaskIndex, round_name: str, silent: Iterable[PartyId]) -> None:
        """Note a round that was ended without everybody's answer."""
        self._tell("round-closed", task=task, round=round_name, silent=self._names(silent))

    def opened(self, task: TaskIndex, survivors: Iterable[PartyId], sum_digest: bytes) -> None:
        """Note an opened and merged sum."""
        self._tell(
            "opened", task=task, survivors=self._names(survivors), sum=format_digest(sum_digest)
        )

    def state(self, task: TaskIndex, state: s.State) -> None:
        """Note what is new in a state: its round, dropouts, shares that were outvoted, an abort."""
        if isinstance(state, s.Completed | s.Aborted):
            dropouts = state.dropouts
        else:
            dropouts = state.progress.dropouts
        for dropout in dropouts[self._dropouts :]:
            self._tell("dropped", task=task, **describe_dropout(self._plan, dropout))
        self._dropouts = len(dropouts)
        round_name = ROUNDS.get(type(state), "")
        if round_name and round_name != self._round:
            self._enter(task, round_name)
        if isinstance(state, s.Completed | s.Aborted) and state.votes:
            self._tell("voted", task=task, votes=name_votes(self._plan, state.votes))
        if isinstance(state, s.Aborted):
            self._tell("aborted", task=task, reason=state.reason.name, why=state.detail)
        elif isinstance(state, s.Opening):
            for stray in state.strays:
                self._tell(
                    "wrong-shares",
                    task=task,
                    owner=self._plan.party_name(stray.owner),
                    revealed_by=self._names(stray.revealed_by),
                )
        elif isinstance(state, s.Completed):
            self._tell("task-finished", task=task)

    def session_finished(self, tasks: int) -> None:
        """Note that the last task is done."""
        self._tell("session-finished", tasks=tasks)

    def resumed(self, task: TaskIndex, round_name: str, inputs: int) -> None:
        """Note a session that goes on after a restart."""
        self._tell("resumed", inputs=inputs, task=task, round=round_name)

    def upload_lost(self, party: PartyId) -> None:
        """Note stored tiles that were damaged while nobody ran, and are sent anew."""
        self._tell("upload-lost", party=self._plan.party_name(party))
