"""What the coordinator keeps of a finished task, for reports."""

from dataclasses import dataclass

from collabedit.aggregator.states import Dropout
from collabedit.ids import PartyId, TaskIndex
from collabedit.plan import Plan, format_digest


def describe_dropout(plan: Plan, dropout: Dropout) -> dict[str, object]:
    """Return a dropout with names instead of ids; reason and accused only of those who left."""
    described: dict[str, object] = {
        "party": plan.party_name(dropout.party),
        "round": dropout.round,
    }
    if dropout.reason is not None:
        described["reason"] = dropout.reason.name
    if dropout.accused is not None:
        described["accuses"] = plan.party_name(dropout.accused)
    return described


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A finished task: who is in the sum, and what was released."""

    task: TaskIndex
    survivors: frozenset[PartyId]
    update_digest: bytes
    sum_digest: bytes
    dropouts: tuple[Dropout, ...]

    def to_dict(self, plan: Plan) -> dict[str, object]:
        """Return the record as reports show it, with names instead of ids."""
        return {
            "task": self.task,
            "layers": [layer.index for layer in plan.tasks[self.task]],
            "survivors": [plan.party_name(party) for party in sorted(self.survivors)],
            "dropouts": [describe_dropout(plan, dropout) for dropout in self.dropouts],
            "sum_digest": format_digest(self.sum_digest),
            "update_digest": format_digest(self.update_digest),
        }
