"""What can happen: one frozen value for each operation.

Operations carry their own parameters and are skipped where they make no sense, so that any part of
a list is a list again: that is what shrinking needs. `pick` chooses among the links that have
something in flight, modulo their number; `place` among the messages of that link.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Moment: TypeAlias = Literal["before", "torn", "after"]

Sums: TypeAlias = Literal["open", "closed", "encrypted"]
"""What the plan of a scenario has: masked sums in the model's basis or in a secret one, or
ciphertexts, whose sums are always of the latter kind."""

OpeningMoment: TypeAlias = Literal["begun", "fetched", "opened", "uploaded"]
"""Of the opener of an encrypted sum: it has noted which sum, has opened it in memory, has written
the integers down, has the aggregator's receipt for them."""


@dataclass(frozen=True, slots=True)
class Join:
    """A party enters the session and, as a machine of the first task, sends its first message."""

    party: int


@dataclass(frozen=True, slots=True)
class Flow:
    """The next `count` messages arrive, link by link in turn."""

    count: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """One message arrives; with `place` > 0 it overtakes others."""

    pick: int
    place: int = 0


@dataclass(frozen=True, slots=True)
class Lose:
    """One message never arrives. A lost frame is a broken upload, which the party sends again."""

    pick: int
    place: int = 0


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One message will arrive twice."""

    pick: int
    place: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """One bit of a message is flipped."""

    pick: int
    bit: int
    place: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """An old message arrives again, of whatever round or task, at `to` if that is not None."""

    index: int
    to: int | None = None


@dataclass(frozen=True, slots=True)
class Resend:
    """A party sends its last packet again, as after a lost receipt."""

    party: int


@dataclass(frozen=True, slots=True)
class Cut:
    """These parties are cut off: nothing of theirs or for them arrives."""

    parties: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Heal:
    """Nobody is cut off any more."""


@dataclass(frozen=True, slots=True)
class CloseRound:
    """The deadline of the round passes."""


@dataclass(frozen=True, slots=True)
class OpenSum:
    """The aggregator's driver opens the sum, if it is due."""


@dataclass(frozen=True, slots=True)
class CrashAggregator:
    """The aggregator's process ends between two messages, and starts again."""


@dataclass(frozen=True, slots=True)
class CrashAtWrite:
    """The aggregator's process ends at its durable write number `skip` from now, and restarts."""

    skip: int
    moment: Moment


@dataclass(frozen=True, slots=True)
class FillDisk:
    """The aggregator's disk refuses its next `writes` writes."""

    writes: int


@dataclass(frozen=True, slots=True)
class Kill:
    """A party's process ends, and nobody starts it again."""

    party: int


@dataclass(frozen=True, slots=True)
class CrashParty:
    """A party's process ends, and starts again from its journal."""

    party: int


@dataclass(frozen=True, slots=True)
class CrashOpening:
    """The next party that comes to `moment` of opening an encrypted sum ends there.

    It starts again from its journal, but not if `gone`. Or the aggregator does in its stead.
    """

    moment: OpeningMoment
    gone: bool = False
    aggregator: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """A party computes for long: it neither reads nor begins a task until `Wake`."""

    party: int


@dataclass(frozen=True, slots=True)
class Wake:
    """A slow party is done computing."""

    party: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A party's operator ends the session on its side."""

    party: int


PartyLie: TypeAlias = Literal[
    "bad-share",
    "wrong-kind",
    "second-answer",
    "other-transcript",
    "other-digest",
    "bad-seal",
    "bad-attachment",
    "stolen-key",
    "wrong-length",
    "bad-frames",
    "other-task",
    "bad-checks",
    "bad-chunk",
    "replayed-chunk",
    "foreign-key",
    "other-seeds",
    "no-seeds",
    "other-integers",
    "other-sum",
]


@dataclass(frozen=True, slots=True)
class LieAsParty:
    """From now on a party lies in this way. Only one party of a scenario does."""

    party: int
    what: PartyLie


ListKind: TypeAlias = Literal[
    "Roster", "RelayShares", "Confirmed", "ProposeSurvivors", "SurvivorsConfirmed", "UpdateVerified"
]


@dataclass(frozen=True, slots=True)
class Omit:
    """The aggregator leaves `victim` out of the lists of this kind that it shows to `group`."""

    kind: ListKind
    group: tuple[int, ...]
    victim: int


@dataclass(frozen=True, slots=True)
class Forge:
    """The aggregator signs a list of its choice out of what it has received, for one party.

    It does so once the party waits for such a list and there are statements enough for one, or at
    once with `hasty`. With `fit`, a lying party signs whatever makes the list fit its receiver.
    """

    kind: ListKind
    to: int
    members: tuple[int, ...]
    fit: bool = False
    hasty: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """After each list of this kind for `group` the aggregator shows a second one, of `members`."""

    kind: ListKind
    group: tuple[int, ...]
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SpoilEntry:
    """The aggregator damages `victim`'s entry in a list, or takes one of another task."""

    kind: ListKind
    to: int
    victim: int
    stale: bool = False


@dataclass(frozen=True, slots=True)
class SwapShares:
    """The aggregator hands a party the sealed shares that are for another one."""

    to: int
    other: int


@dataclass(frozen=True, slots=True)
class AlterRelease:
    """The aggregator releases another digest of the sum, or another update, to `group`."""

    group: tuple[int, ...]
    what: Literal["sum", "update", "bundle"]


OfferLie: TypeAlias = Literal["flip", "cut", "length", "old", "seeds", "header", "residue"]


@dataclass(frozen=True, slots=True)
class AlterOffer:
    """The aggregator offers the opener something else than the survivors' sum.

    With "flip" and "cut" it serves other bytes than it signed, with "length" it signs another
    length. With the others it signs what it serves: the offer of the task before, a seed that
    nobody signed, a sum of fewer parties by its header, a ciphertext that is no sum.
    """

    what: OfferLie


@dataclass(frozen=True, slots=True)
class ForgeAbort:
    """The aggregator tells one party that the session is over."""

    to: int
    reason: int


Op: TypeAlias = (
    Join
    | Flow
    | Deliver
    | Lose
    | Duplicate
    | Damage
    | Replay
    | Resend
    | Cut
    | Heal
    | CloseRound
    | OpenSum
    | CrashAggregator
    | CrashAtWrite
    | FillDisk
    | Kill
    | CrashParty
    | CrashOpening
    | Stall
    | Wake
    | Leave
    | LieAsParty
    | Omit
    | Forge
    | Again
    | SpoilEntry
    | SwapShares
    | AlterRelease
    | AlterOffer
    | ForgeAbort
)

AggregatorLie: TypeAlias = (
    Omit | Forge | Again | SpoilEntry | SwapShares | AlterRelease | AlterOffer | ForgeAbort
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A federation and what happens to it.

    Attributes:
        ops: in order.
        parties: N; the threshold is the smallest that the plan allows.
        tasks: secure sums of the session.
        strict: parties leave when a message does not authenticate or theirs is refused, as the
            deployed driver does; else they stay in the state that the machine says is valid.
        seed: of all keys.
        counts: whether a counting task comes before them.
        sums: of which kind they are.
    """

    ops: tuple[Op, ...]
    parties: int = 4
    tasks: int = 1
    strict: bool = False
    seed: int = 0
    counts: bool = False
    sums: Sums = "open"
