"""What becomes of each own edit once the copies and contradictions of it are counted.

An edit that c parties' files hold weighs 1/c at each, in both statistics, so that together they
weigh what one would: S and T are sums over columns, and c · (1/c) = 1. Conflicts go by the plan's
policy. Departs from CollabEdit (arXiv 2410.09508, section on conflicts), which augments the side
that an operator names, in who wins: whom more than half of the edits on the topic agree with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from collabedit.overlap import Overlap
from collabedit.party.counting import Count
from collabedit.party.items import Item


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one own edit. Holds no text and may be shown to the party's operator only.

    Attributes:
        case_id: name of the edit's record.
        copies: edits of all parties that are this one, itself included.
        claims: edits of all parties with this subject and relation.
        is_kept: whether it is edited.
        added: paraphrases that are edited beside it, the first ones.
    """

    case_id: str
    copies: int
    claims: int
    is_kept: bool
    added: int = 0

    @property
    def is_conflict(self) -> bool:
        """Whether somebody wants another object."""
        return self.claims > self.copies

    @property
    def weight(self) -> float:
        """Weight of the edit, and of each paraphrase beside it, in both statistics."""
        return 1 / self.copies

    def to_dict(self) -> dict[str, object]:
        """Return the decision as the party's private report shows it."""
        return {
            "case_id": self.case_id,
            "copies": self.copies,
            "claims": self.claims,
            "conflict": self.is_conflict,
            "kept": self.is_kept,
            "weight": self.weight if self.is_kept else 0.0,
            "added_paraphrases": self.added,
        }


def decide(
    overlap: Overlap, items: Sequence[Item], counts: Sequence[Count], *, room: int
) -> tuple[Decision, ...]:
    """Decide about each own edit.

    Args:
        overlap: the plan's section.
        items: own edits.
        counts: of `items`, in order.
        room: requests that may be added, so that the party stays within its `max_edits`.
    """
    decisions = []
    for item, count in zip(items, counts, strict=True):
        conflict = count.claims > count.copies
        wins = 2 * count.copies > count.claims
        is_kept = (
            not conflict
            or {
                "majority": wins,
                "drop": False,
                "keep": True,
                "augment": True,
            }[overlap.policy]
        )
        added = 0
        if overlap.paraphrases is not None and conflict and wins:
            added = min(overlap.paraphrases, item.paraphrases, room)
            room -= added
        decisions.append(Decision(item.case_id, count.copies, count.claims, is_kept, added))
    return tuple(decisions)
