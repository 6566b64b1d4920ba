"""Who takes part in a session at a party's end, and what is reported of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from collabedit.acceptance import Assessment, Measures
from collabedit.crypto.rng import Randomness
from collabedit.crypto.signing import SigningKey
from collabedit.editing import Layer
from collabedit.errors import PlanError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.decisions import Decision
from collabedit.party.merge_check import CheckedLayer
from collabedit.plan import Plan
from collabedit.proto.envelope import check_identities
from collabedit.sketch import LowRankUpdate, Matrix

Observer: TypeAlias = Callable[[str, Mapping[str, object]], None]
"""Receives what happens as (event, fields). Fields never hold edits, keys or statistics."""


class Editor(Protocol):
    """The party's model and edits."""

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        """Return K̃ [d', n + p] and R [d_out, n] of each layer, on the model as edited so far.

        The last p columns of K̃ are those of past edits (`exchange.contribution_vector`).
        """

    def weigh(self, decisions: Sequence[Decision], past_claims: Sequence[int]) -> None:
        """Take up what was decided about each edit, in order, on the model before any update.

        A past edit or re-assertion that edits of this session are about is left out: `past_claims`
        says how many are, of the past edits in order, then of the re-assertions. Only where the
        plan counts overlap, once and before `statistics`.
        """

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        """Apply merged updates, given in mapped coordinates."""

    def rollback(self) -> None:
        """Take back everything that was applied, bit by bit."""

    def measure(self) -> Measures:
        """Measure the model as it is now. Only asked for by a plan with `acceptance`."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One finished task, as this party knows it.

    Attributes:
        votes: in a voted task everybody's, by name.
        assessment: its own, with the numbers that no other end has.
        checks: what each layer's update was held against, with closed sums.
    """

    task: TaskIndex
    layers: tuple[int, ...]
    survivors: tuple[str, ...]
    sum_digest: str
    update_digest: str
    compute_seconds: float
    protocol_seconds: float
    votes: Mapping[str, str] = field(default_factory=dict)
    assessment: Assessment | None = None
    checks: tuple[CheckedLayer, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionReport:
    """A finished session.

    Attributes:
        session_id: hex.
        tasks: in order.
        digest: of the session, by which later plans name it (SPEC 2.4).
        decisions: about one's own edits, in order; empty unless the plan counts overlap.
        past_claims: how many edits of the session are about the same as each past one, in order;
            likewise.
        reasserted_claims: likewise of each re-assertion.
    """

    session_id: str
    tasks: tuple[TaskReport, ...]
    digest: str
    decisions: tuple[Decision, ...] = ()
    past_claims: tuple[int, ...] = ()
    reasserted_claims: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """Who this party is in a session: the plan, its id there, its identity key, its entropy."""

    plan: Plan
    me: PartyId
    identity: SigningKey = field(repr=False)
    randomness: Randomness = field(repr=False)

    def __post_init__(self) -> None:
        check_identities(self.plan)
        if self.identity.verify_key.to_bytes() != self.plan.identity(self.me):
            raise PlanError(
                f"the identity key is not the one that the plan pins for "
                f"{self.plan.party_name(self.me)}"
            )


class OpeningRecord(Protocol):
    """Remembers which sums this party helped to open; see `party.ledger`."""

    def check(self) -> None:
        """Raise if a sum over the same edits was opened before, in whatever session."""

    def record(self, session_id: bytes, task: TaskIndex, *, replayed: bool = False) -> None:
        """Store durably that the shares which open this task are about to leave."""

    def record_key(self, session_id: bytes, task: TaskIndex, *, replayed: bool) -> None:
        """Store durably that this party is about to open the encrypted sum of this task."""
