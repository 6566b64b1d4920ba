"""The tables of a counting task at a party: its own, masked once more, and everybody's, read.

SPEC 6.7. Everything here follows from the task's group secret, which the aggregator does not have:
where an item counts, so that nobody without the secret can look a fact up; a pad for each party's
vector, so that the opened sum is uniformly random to the aggregator; and the coefficients of the
check elements, so that it cannot alter what it cannot read. Every party of the task has the secret
and can do all of that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from collabedit.crypto.kdf import derive_key, encode_fields
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, unmask_tile
from collabedit.crypto.ring import Ring, RingArray
from collabedit.errors import BoundsError
from collabedit.exchange import TileLayout
from collabedit.ids import PartyId
from collabedit.overlap import TABLES
from collabedit.plan import Plan
from collabedit.proto.envelope import context_fields
from collabedit.proto.messages import Context
from collabedit.proto.statements import owner_context

Digests = tuple[bytes, bytes]
"""Topic and fact of an edit (`party.items`), 32 bytes each."""

_POSITION_BYTES = 8
"""2⁶⁴ modulo a width of at most 2²⁰ favours no cell by more than 2⁻⁴⁴ of its share."""


@dataclass(frozen=True, slots=True)
class Count:
    """What the tables say of one edit; never too low.

    Attributes:
        claims: edits of all survivors with its subject and relation, c_sr.
        copies: those among them with its object, too, c_sro; 1 or more.
    """

    claims: int
    copies: int


class Counter:
    """One counting task of a plan, for whoever has its group secret.

    Args:
        plan: with a section about overlap.
        context: of the counting task.
        group_secret: 32 bytes (SPEC 4.3(b)).
    """

    def __init__(self, plan: Plan, context: Context, group_secret: bytes) -> None:
        overlap = plan.counting(context.task)
        assert overlap is not None  # noqa: S101  the caller asks for a counting task
        self._plan = plan
        self._context = context
        self._secret = group_secret
        self._rows, self._width = overlap.rows, overlap.width
        self._ring = Ring.from_bits(plan.aggregation.ring_bits)
        own = context_fields(context)
        self._key = derive_key(group_secret, label="count-key", context=own)
        check_key = derive_key(group_secret, label="count-check", context=own)
        self._coefficients = Keystream(check_key)

    def __repr__(self) -> str:
        return f"Counter({self._plan.name!r}, task={self._context.task})"

    def cells(self, digest: bytes, *, table: int) -> npt.NDArray[np.intp]:
        """Return where an item counts, one place in the vector for each row of its table."""
        stream = derive_key(
            self._key,
            label="count-cell",
            context=encode_fields(table, digest),
            length=_POSITION_BYTES * self._rows,
        )
        columns = np.frombuffer(stream, dtype=">u8") % self._width
        starts = (table * self._rows + np.arange(self._rows)) * self._width
        cells: npt.NDArray[np.intp] = starts + columns.astype(np.intp)
        return cells

    def encode(self, items: Iterable[Digests]) -> RingArray:
        """Count a party's own items: both tables, then the check elements over them."""
        counts = np.zeros(TABLES * self._rows * self._width, dtype=self._ring.dtype)
        for digests in items:
            for table, digest in enumerate(digests):
                counts[self.cells(digest, table=table)] += 1
        return np.concatenate([counts, self._checks(counts)])

    def _checks(self, counts: RingArray) -> RingArray:
        """Σ_j a_kj·counts_j modulo 2^bits for each check element k, with secret uniform a."""
        checks = np.zeros(self._plan.check_elements, dtype=self._ring.dtype)
        for index in range(len(checks)):
            row = self._coefficients.tile(index, counts.size, self._ring)
            checks[index] = np.dot(row, counts)
        return checks

    def pad(self, party: PartyId) -> SignedMask:
        """Return the mask of `party` that only parties can take off."""
        owner = owner_context(self._context, party)
        return SignedMask(1, Keystream(derive_key(self._secret, label="count-pad", context=owner)))

    def open(
        self, total: RingArray, *, survivors: Iterable[PartyId], own: Sequence[Digests]
    ) -> "Tables":
        """Take the survivors' pads off an opened vector, and refuse what cannot be their counts.

        Args:
            total: as the aggregator released it, [elements].
            survivors: whose contributions are in it.
            own: this party's items.

        Raises:
            BoundsError: the tables are not what honest parties and an honest aggregator can have
                made. Nobody can tell from a sum who spoiled it.
        """
        parties = sorted(survivors)
        opened = total.copy()
        layout = TileLayout.of(self._plan, self._context.task)
        pads = [self.pad(party) for party in parties]
        for index in range(layout.tiles):
            unmask_tile(opened[layout.bounds(index)], tile_index=index, masks=pads)
        size = TABLES * self._rows * self._width
        counts, checks = opened[:size], opened[size:]
        most = self._plan.max_edits(parties)
        if (counts > most).any():
            raise BoundsError("a count exceeds the edits that the survivors may bring")
        if not np.array_equal(checks, self._checks(counts)):
            raise BoundsError("the tables do not meet their check elements")
        totals = counts.reshape(TABLES * self._rows, self._width).sum(axis=1, dtype=np.uint64)
        if totals.max() > most or totals.min() != totals.max():
            raise BoundsError("the rows of the tables do not count the same edits")
        if (counts < self.encode(own)[:size]).any():
            raise BoundsError("the tables leave out edits of this party")
        return Tables(self, counts)


@dataclass(frozen=True, slots=True)
class Tables:
    """Opened tables that passed all checks. Whoever holds them can look up any fact it can guess.

    Attributes:
        counter: knows where an item counts.
        counts: both tables, row by row, [cells].
    """

    counter: Counter
    counts: RingArray = field(repr=False)

    def count(self, digests: Digests) -> Count:
        """Read both counts of one item, which may be 0 if it is not one's own."""
        claims, copies = (
            int(self.counts[self.counter.cells(digest, table=table)].min())
            for table, digest in enumerate(digests)
        )
        # Every copy is a claim, so a count of copies above it is known to be too high.
        return Count(claims, min(claims, copies))
