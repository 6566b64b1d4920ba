"""A party's own edits through the counting task of a session: what it brings, and what it reads.

The driver (`session`) asks this module in a counting task where it asks the editor in the others.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from collabedit.errors import AbortReason, BoundsError, JournalError, SessionAbortedError
from collabedit.exchange import decode_counts
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party.contribution import check_edits
from collabedit.party.counting import Count, Counter
from collabedit.party.decisions import Decision, decide
from collabedit.party.entries import EditsCounted
from collabedit.party.items import Item, digests_from_bytes, items_to_bytes
from collabedit.plan import Plan

Review: TypeAlias = Callable[[Sequence[Decision]], None]
"""Told what is decided before anything is sent that depends on it; raises to leave the session."""


def accept(decisions: Sequence[Decision]) -> None:
    """Go on with whatever is decided."""
    del decisions


class OwnEdits:
    """What a party brings to a counting task.

    Args:
        plan: the plan.
        me: the party.
        items: of its edits, in order.
        past: of the past edits that it brings to the session, in order. They are looked up in the
            tables and not counted.
        reasserted: of its re-assertions, likewise; counted, they would stand against others' edits.
    """

    def __init__(
        self,
        plan: Plan,
        me: PartyId,
        items: Sequence[Item],
        *,
        past: Sequence[Item] = (),
        reasserted: Sequence[Item] = (),
    ) -> None:
        self._plan = plan
        self._me = me
        self._items = tuple(items)
        self._past = tuple(past)
        self._reasserted = tuple(reasserted)

    def brought(self) -> bytes:
        """Return what is fixed before the task's first message, and kept for a restart.

        Raises:
            NumericError: the plan allows fewer edits.
        """
        check_edits(self._plan, self._me, len(self._items))
        return items_to_bytes(self._items)

    def read(
        self,
        setup: s.TaskSetup,
        completed: s.Completed,
        *,
        brought: bytes | memoryview,
        data: bytes,
    ) -> EditsCounted:
        """Read the counts of own edits, past ones, and re-assertions from what was released.

        Args:
            setup: of the counting task.
            completed: its last state.
            brought: with which it began.
            data: the released bytes, whose digest a threshold of parties signed.

        Raises:
            MalformedMessageError: not tables of this plan.
            SessionAbortedError: COUNTS_REFUSED, nobody knows whose fault.
        """
        assert completed.group_secret is not None  # noqa: S101  a counting task has one
        counter = Counter(setup.plan, setup.context, completed.group_secret)
        own = digests_from_bytes(bytes(brought))
        total = decode_counts(setup.plan, setup.context.task, data)
        try:
            tables = counter.open(total, survivors=completed.survivors, own=own)
        except BoundsError as error:
            raise SessionAbortedError(AbortReason.COUNTS_REFUSED, str(error)) from error
        others = [(item.topic, item.fact) for item in (*self._past, *self._reasserted)]
        return EditsCounted(tuple(map(tables.count, (*own, *others))))

    def decide(self, counts: Sequence[Count]) -> tuple[Decision, ...]:
        """Decide about each edit.

        Raises:
            JournalError: the counts are of other edits.
        """
        overlap = self._plan.overlap
        known = len(self._items) + len(self._past) + len(self._reasserted)
        if overlap is None or len(counts) != known:
            raise JournalError(
                f"{len(counts)} edits were counted in this session, and {known} are here: resume "
                "with the edits, and the memory, that it was begun with"
            )
        own = counts[: len(self._items)]
        room = self._plan.max_edits([self._me]) - len(self._items) - len(self._reasserted)
        return decide(overlap, self._items, own, room=room)

    def past_claims(self, counts: Sequence[Count]) -> tuple[int, ...]:
        """Return how many edits of this session are about the same as each past one."""
        first = len(self._items)
        return tuple(count.claims for count in counts[first : first + len(self._past)])

    def reasserted_claims(self, counts: Sequence[Count]) -> tuple[int, ...]:
        """Return how many edits of this session are about the same as each re-assertion."""
        return tuple(count.claims for count in counts[len(self._items) + len(self._past) :])
