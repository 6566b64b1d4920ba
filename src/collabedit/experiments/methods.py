"""From the parties' edits and their targets to one update: the ways that experiments compare.

All ways of a cell group edit with the very same targets, from the cache. The reference of parity is
the trustee's closed form with the schedule of the method, dense in float64 (`party/editing/
baselines.py`); averaging methods are held against it too, which says how far off they are.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from collabedit.demo.methods import Share, Updates, edit_alone, merge_layers, relative_errors
from collabedit.experiments.protocol import Session, new_identities, run_session, session_plan
from collabedit.experiments.schema import PROTOCOL, Cell, Method
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.model import EditableModel
from collabedit.plan import Plan

_MERGES: dict[Method, str] = {
    "simple-average": "simple_average",
    "task-arithmetic": "task_arithmetic",
    "ties": "ties",
}
_FLOAT32 = 4
"""Bytes of an entry of ΔW, as parties that average would send it."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The update of one round.

    Attributes:
        updates: dense ΔW by layer; empty for the unedited model.
        errors: relative to the centralised update, by ascending layer; empty for that itself,
            and for a session that counted.
        uploaded: bytes that each party sends; None where edits themselves are handed over.
        seconds: to make it, targets not counted; of all parties one after the other.
    """

    updates: Updates = field(repr=False)
    errors: tuple[float, ...]
    uploaded: float | None
    seconds: float


def merge(
    cell: Cell, model: EditableModel, covariance: Covariance | None, shares: Sequence[Share]
) -> Merged:
    """Edit by the cell's method, from the model as it is now; it stays as it is.

    Args:
        cell: which method, editor and schedule.
        model: before the round.
        covariance: of the unedited model; None for an editor without.
        shares: edits and targets by party.

    Raises:
        InputError: parameters that do not fit the model.
        NumericError: the numbers refuse.
    """
    if cell.method == "unedited":
        return Merged({}, (), None, 0.0)
    identities = new_identities(cell.parties)
    plan = session_plan(
        cell,
        model,
        covariance,
        identities=identities,
        edits=[len(share.edits) for share in shares],
        past=max(len(share.past) for share in shares),
    )
    if cell.method in PROTOCOL:
        session = run_session(plan, identities, model, covariance, shares)
        if cell.policy != "none":
            # A session that counted edits what its policy left; `cell` compares it with that.
            return Merged(session.updates, (), _mean(session.uploaded), session.seconds)
        return _compared(session, edit_alone(plan, model, covariance, shares))
    began = time.perf_counter()
    if cell.method == "centralised":
        updates = edit_alone(plan, model, covariance, shares)
        return Merged(updates, (), None, time.perf_counter() - began)
    alone = [edit_alone(plan, model, covariance, [share]) for share in shares]
    session = Session(
        updates=merge_layers(alone, _MERGES[cell.method]),
        uploaded=(_dense_bytes(plan),) * cell.parties,
        seconds=time.perf_counter() - began,
    )
    return _compared(session, edit_alone(plan, model, covariance, shares))


def _compared(session: Session, twin: Updates) -> Merged:
    errors = relative_errors(session.updates, twin)
    return Merged(
        updates=session.updates,
        errors=tuple(errors[layer] for layer in sorted(errors)),
        uploaded=_mean(session.uploaded),
        seconds=session.seconds,
    )


def _mean(counts: Sequence[int]) -> float:
    return sum(counts) / len(counts)


def _dense_bytes(plan: Plan) -> int:
    return sum(_FLOAT32 * layer.inputs * layer.outputs for layer in plan.editing.layers)
