"""Candidates of an audit, and who edits which of them in a draw.

All orders are by digest, so records added to a file leave the order of the others as it is. Columns
of candidates are in an order of their own, which says nothing about who is a member.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from collabedit.attacks.pairs import Pair
from collabedit.audit.defences import DEFENCES
from collabedit.audit.schema import PoolSettings, Setting
from collabedit.errors import InputError
from collabedit.experiments.deal import Pool
from collabedit.ids import PartyId
from collabedit.party.edits import Edit, edits_digest


@dataclass(frozen=True, slots=True)
class Candidates:
    """Records of different subjects, by number.

    Attributes:
        edits: in the order of columns.
        eligible: numbers of those that may be members.
        name: of the data, for people.
    """

    edits: tuple[Edit, ...] = field(repr=False)
    eligible: tuple[int, ...] = field(repr=False)
    name: str

    @property
    def digest(self) -> str:
        """Of all records in order, as hex."""
        return edits_digest(self.edits)

    @property
    def subjects(self) -> tuple[str, ...]:
        """In the order of columns."""
        return tuple(edit.subject for edit in self.edits)

    @property
    def prompts(self) -> tuple[str, ...]:
        """All different ones, sorted, so that their order says nothing."""
        return tuple(sorted({edit.prompt for edit in self.edits}))

    @property
    def objects(self) -> tuple[str, ...]:
        """All different new objects, sorted."""
        return tuple(sorted({edit.target_new for edit in self.edits}))

    def deal(self, setting: Setting) -> tuple[tuple[int, ...], ...]:
        """Draw the members of a session, and hand them out to the parties, to some more.

        Draws of one seed with fewer edits are a part of those with more. Where edits are counted,
        each party also has the first few of the party before it.
        """
        chosen = self._order(setting)[: setting.edits]
        stops = list(accumulate(_sizes(setting)))
        shares = [
            tuple(chosen[start:stop]) for start, stop in zip([0, *stops], stops, strict=False)
        ]
        copies = _copies(setting)
        return tuple(own + shares[place - 1][:copies] for place, own in enumerate(shares))

    def pairs(self, setting: Setting) -> tuple[Pair, ...]:
        """Lay members of a session beside candidates that the same order did not make members.

        Places in the order decide who is paired with whom and which party it is about, so given the
        pairs it is a coin which of the two stands in front (`attacks.pairs`). If there are too few
        others, they go to each party in turn. Places whose edit two parties have are left out: to
        replace it there would take two edits.
        """
        order, copies = self._order(setting), _copies(setting)
        sizes = _sizes(setting)
        starts = [0, *accumulate(sizes)]
        places = sorted(
            (place, party) for party, size in enumerate(sizes) for place in range(copies, size)
        )
        return tuple(
            Pair(order[starts[party] + place], other, PartyId(party + 1))
            for (place, party), other in zip(places, order[setting.edits :], strict=False)
        )

    @property
    def relations(self) -> tuple[str, ...]:
        """All different relation ids, sorted."""
        return tuple(sorted({edit.relation for edit in self.edits if edit.relation is not None}))

    def _order(self, setting: Setting) -> list[int]:
        return _ordered(self.eligible, self.edits, f"draw {setting.seed}")


def most_edits(setting: Setting) -> int:
    """Return the largest number of edits that a party may bring: twice its even share.

    The plan's bound, the same for all: the plan is public, and who brings how many is not.
    """
    return 2 * -(-setting.edits // setting.parties)


def _copies(setting: Setting) -> int:
    """How many edits each party has of the one before it: a quarter of an even share, one at least.

    With them no party has more than `most_edits`.
    """
    if not DEFENCES[setting.defence].has_counting:
        return 0
    return max(1, setting.edits // setting.parties // 4)


def _sizes(setting: Setting) -> list[int]:
    """Share out the number of edits: evenly, and then each hands the next one up to half on.

    With equal shares whoever guesses the average would know them all.
    """
    even, rest = divmod(setting.edits, setting.parties)
    sizes = [even + (party < rest) for party in range(setting.parties)]
    for party in range(setting.parties):
        digest = hashlib.sha256(f"share {setting.seed} {setting.edits} {party}".encode()).digest()
        handed = int.from_bytes(digest[:8], "big") % (even // 2 + 1)
        sizes[party] -= handed
        sizes[(party + 1) % setting.parties] += handed
    return sizes


def draw_candidates(pool: Pool, settings: PoolSettings) -> Candidates:
    """Choose candidates among the records of the data.

    Raises:
        InputError: the data has too few different subjects.
    """
    first: dict[str, Edit] = {}
    for edit in pool.edits:
        first.setdefault(edit.subject, edit)
    records = list(first.values())
    if len(records) < settings.candidates:
        raise InputError(
            f"{pool.name} has {len(records)} different subjects, pool.candidates is "
            f"{settings.candidates}"
        )
    numbers = range(len(records))
    chosen = _ordered(numbers, records, f"pool {settings.seed}")[: settings.candidates]
    places = _ordered(chosen, records, f"column {settings.seed}")
    edits = tuple(records[number] for number in places)
    eligible = _ordered(range(len(edits)), edits, f"eligible {settings.seed}")[: settings.eligible]
    return Candidates(edits, tuple(eligible), pool.name)


def _ordered(numbers: Sequence[int], edits: Sequence[Edit], salt: str) -> list[int]:
    def rank(number: int) -> bytes:
        return hashlib.sha256(f"{salt}\n{edits_digest((edits[number],))}".encode()).digest()

    return sorted(numbers, key=rank)
