"""Scenarios from numbers. The same number gives the same scenario."""

import random
from collections.abc import Callable
from typing import Final, Literal

from tests.simulation.faults import ops
from tests.simulation.faults.ops import Op, Scenario

COUNTING_PART: Final = 3
"""Which quarter of all scenarios begins with a counting task, if its plan can have one."""

SUMS: Final[tuple[ops.Sums, ...]] = ("open", "encrypted", "open", "closed", "open")
"""Kinds of sums, in turn."""

FLOWS: Final[dict[ops.Sums, tuple[int, ...]]] = {
    "open": (1, 2, 5, 10, 25),
    "closed": (1, 2, 5, 10, 25),
    "encrypted": (1, 5, 10, 25, 60),
}
"""How many messages arrive between two faults: an upload of ciphertexts alone is ten."""

OPENING_MOMENTS: Final[tuple[ops.OpeningMoment, ...]] = ("begun", "fetched", "opened", "uploaded")
OFFERS: Final[tuple[ops.OfferLie, ...]] = (
    *("flip", "cut", "length", "old", "seeds", "header", "residue"),
)
OPENER_LIES: Final[tuple[ops.PartyLie, ...]] = ("other-integers", "other-sum")
CIPHERTEXT_LIES: Final[tuple[ops.PartyLie, ...]] = (
    *("bad-checks", "bad-chunk", "replayed-chunk", "foreign-key", "other-seeds", "no-seeds"),
    *OPENER_LIES,
)

SIZES: Final = (3, 4, 4, 4, 5, 5)
LISTS: Final[tuple[ops.ListKind, ...]] = (
    "Roster",
    "RelayShares",
    "Confirmed",
    "ProposeSurvivors",
    "SurvivorsConfirmed",
    "UpdateVerified",
)
LIES: Final[tuple[ops.PartyLie, ...]] = (
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
)


class _Dice:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  must be the same again
        self.parties = self.random.choice(SIZES)

    def party(self) -> int:
        return self.random.randint(1, self.parties)

    def group(self) -> tuple[int, ...]:
        size = self.random.randint(1, self.parties)
        return tuple(sorted(self.random.sample(range(1, self.parties + 1), size)))

    def pick(self) -> int:
        return self.random.randrange(64)

    def place(self) -> int:
        return self.random.choice((0, 0, 1, 2))

    def one_of(self, choices: "tuple[Callable[[], Op], ...]") -> Op:
        return self.random.choice(choices)()


def _flavour(dice: _Dice) -> str:
    return dice.random.choice(sorted(_FLAVOURS))


def flavour_of(seed: int) -> str:
    """Return what kind of scenario `scenario` draws from a number."""
    return _flavour(_Dice(seed))


def sums_of(seed: int) -> ops.Sums:
    """Return which sums a numbered scenario is about."""
    return SUMS[seed % len(SUMS)]


def scenario(seed: int) -> Scenario:
    """Draw a scenario: calm, lossy, crashing, closing, and with one liar of either role."""
    dice = _Dice(seed)
    flavour = _flavour(dice)
    sums = sums_of(seed)
    faults = _FLAVOURS[flavour](dice) + _more_faults(dice, flavour, sums)
    ops_: list[Op] = []
    late = [p for p in range(1, dice.parties + 1) if dice.random.random() < 0.06]
    ops_ += [ops.Join(p) for p in range(1, dice.parties + 1) if p not in late]
    dice.random.shuffle(ops_)
    # By dice of their own: what else happens is what happens to open sums.
    ops_ += _first_lie(_Dice(seed), flavour, sums)
    if flavour == "forking":
        ops_ += _fork(dice)
    else:
        # Faults come in a crowd, or one after a long quiet time.
        for _ in range(dice.random.randint(1, 12)):
            ops_.append(ops.Flow(dice.random.choice(FLOWS[sums])))
            ops_.append(dice.one_of(faults))
            if dice.random.random() < 0.2:
                ops_.append(ops.OpenSum())
    if late and dice.random.random() < 0.8:
        ops_.insert(dice.random.randrange(len(ops_) + 1), ops.Join(late[0]))
    return Scenario(
        tuple(ops_),
        parties=dice.parties,
        tasks=dice.random.choice((1, 1, 2)),
        strict=dice.random.random() < 0.5,
        seed=seed,
        counts=seed % 4 == COUNTING_PART and sums != "encrypted",
        sums=sums,
    )


def _harmless(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    """What must hurt nobody."""
    return (
        lambda: ops.Deliver(dice.pick(), dice.place()),
        lambda: ops.Duplicate(dice.pick(), dice.place()),
        lambda: ops.Replay(dice.random.randrange(400)),
        lambda: ops.Resend(dice.party()),
        lambda: ops.Cut(dice.group()),
        ops.Heal,
        ops.OpenSum,
        ops.CrashAggregator,
        lambda: ops.CrashAtWrite(dice.random.randrange(12), dice.random.choice(_MOMENTS)),
        lambda: ops.FillDisk(dice.random.randint(1, 4)),
        lambda: ops.Stall(dice.party()),
        lambda: ops.Wake(dice.party()),
        lambda: ops.CrashParty(dice.party()),
        lambda: ops.CrashParty(dice.party()),
    )


_MOMENTS: Final[tuple[ops.Moment, ...]] = ("before", "torn", "after")


def _lossy(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    return (
        *_harmless(dice),
        lambda: ops.Lose(dice.pick(), dice.place()),
        lambda: ops.Damage(dice.pick(), dice.random.randrange(1 << 14), dice.place()),
        lambda: ops.Replay(dice.random.randrange(400), dice.party()),
    )


def _crashing(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    return (
        ops.CrashAggregator,
        lambda: ops.CrashAtWrite(dice.random.randrange(6), dice.random.choice(_MOMENTS)),
        lambda: ops.FillDisk(dice.random.randint(1, 6)),
        lambda: ops.Deliver(dice.pick(), dice.place()),
        lambda: ops.Kill(dice.party()),
        lambda: ops.CrashParty(dice.party()),
        ops.CloseRound,
    )


def _slow(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    return (
        lambda: ops.Stall(dice.party()),
        lambda: ops.Wake(dice.party()),
        lambda: ops.Cut(dice.group()),
        ops.Heal,
        ops.CloseRound,
        lambda: ops.Kill(dice.party()),
        lambda: ops.Leave(dice.party()),
        lambda: ops.Resend(dice.party()),
        ops.CrashAggregator,
    )


def _lying_party(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    liar = dice.party()
    return (
        *(3 * (lambda: ops.LieAsParty(liar, dice.random.choice(LIES)),)),
        lambda: ops.Deliver(dice.pick(), dice.place()),
        lambda: ops.Duplicate(dice.pick(), dice.place()),
        lambda: ops.Replay(dice.random.randrange(400)),
        ops.CrashAggregator,
        lambda: ops.Kill(dice.party()),
        ops.CloseRound,
    )


def _lying_aggregator(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    return (
        lambda: ops.Omit(dice.random.choice(LISTS), dice.group(), dice.party()),
        lambda: ops.Forge(
            dice.random.choice(LISTS), dice.party(), dice.group(), hasty=dice.random.random() < 0.5
        ),
        lambda: ops.Again(dice.random.choice(LISTS), dice.group(), dice.group()),
        lambda: ops.SpoilEntry(
            dice.random.choice(LISTS), dice.party(), dice.party(), dice.random.random() < 0.5
        ),
        lambda: ops.SwapShares(dice.party(), dice.party()),
        lambda: ops.AlterRelease(dice.group(), dice.random.choice(("sum", "update", "bundle"))),
        lambda: ops.ForgeAbort(dice.party(), dice.random.randrange(22)),
        lambda: ops.Replay(dice.random.randrange(400), dice.party()),
        ops.CrashAggregator,
        ops.CloseRound,
    )


def _everything(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    return (
        *_lossy(dice),
        *_crashing(dice),
        *_slow(dice),
        *_lying_party(dice),
        *_lying_aggregator(dice),
    )


def _more_faults(dice: _Dice, flavour: str, sums: ops.Sums) -> tuple[Callable[[], Op], ...]:
    """What only encrypted sums can meet."""
    if sums != "encrypted":
        return ()
    more: list[Callable[[], Op]] = []
    if flavour not in {"crashing", "forking"}:
        more += [
            lambda: ops.CrashOpening(dice.random.choice(OPENING_MOMENTS)),
            lambda: ops.CrashOpening(dice.random.choice(OPENING_MOMENTS), aggregator=True),
        ]
    if flavour in {"crashing", "slow", "everything"}:
        more.append(lambda: ops.CrashOpening(dice.random.choice(OPENING_MOMENTS), gone=True))
    if flavour in {"lying-aggregator", "everything"}:
        more += 4 * [lambda: ops.AlterOffer(dice.random.choice(OFFERS))]
    return tuple(more)


def _first_lie(dice: _Dice, flavour: str, sums: ops.Sums) -> list[Op]:
    """What a party uploads to closed sums that it should not."""
    if sums == "open" or flavour not in {"lying-party", "everything"}:
        return []
    lie = dice.random.choice(CIPHERTEXT_LIES if sums == "encrypted" else CIPHERTEXT_LIES[:1])
    # Most often the lowest id opens.
    liar = 1 if lie in OPENER_LIES else dice.party()
    share = 0.7 if sums == "encrypted" else 0.3
    return [ops.LieAsParty(liar, lie)] if dice.random.random() < share else []


def _forking(dice: _Dice) -> tuple[Callable[[], Op], ...]:
    del dice
    return ()


_FLAVOURS: Final[dict[str, Callable[[_Dice], tuple[Callable[[], Op], ...]]]] = {
    "harmless": _harmless,
    "lossy": _lossy,
    "crashing": _crashing,
    "slow": _slow,
    "lying-party": _lying_party,
    "lying-aggregator": _lying_aggregator,
    "forking": _forking,
    "everything": _everything,
}


def _fork(dice: _Dice) -> list[Op]:
    """Two views, shown consistently to two groups, with or without an accomplice."""
    people = list(range(1, dice.parties + 1))
    victim = dice.party()
    # Few enough to be given up: then the others can go on without them.
    group = tuple(sorted(dice.random.sample(people, dice.random.choice((1, 1, 2)))))
    rest = tuple(p for p in people if p not in group)
    if dice.random.random() < 0.8:
        victim = dice.random.choice(rest)
    others = tuple(p for p in people if p != victim)
    fork: list[Op] = []
    fit = dice.random.random() < 0.7
    if fit:
        fork.append(ops.LieAsParty(dice.party(), "second-answer"))
    first: ops.ListKind | Literal["Release"] = dice.random.choice(
        ("Roster", "RelayShares", "ProposeSurvivors", "Release")
    )
    if first == "Release":
        fork.append(ops.AlterRelease(group, dice.random.choice(("update", "sum"))))
    else:
        fork.append(ops.Omit(first, group, victim))
        if first == "Roster" and dice.random.random() < 0.5:
            fork.append(ops.Omit("RelayShares", group, victim))
    confirms: dict[str, ops.ListKind] = {
        "Roster": "Confirmed",
        "RelayShares": "Confirmed",
        "ProposeSurvivors": "SurvivorsConfirmed",
        "Release": "UpdateVerified",
    }
    confirm = confirms[first]
    for to in group:
        everybody = tuple(people) if first == "Release" else others
        members = dice.random.choice((everybody, everybody, everybody, group, rest, tuple(people)))
        members = tuple(sorted({*members, to}))
        kind = confirm if dice.random.random() < 0.7 else dice.random.choice(LISTS)
        fork.append(ops.Forge(kind, to, members, fit))
    if dice.random.random() < 0.3:
        fork.append(
            ops.Again(dice.random.choice(("ProposeSurvivors", confirm)), group, dice.group())
        )
    for _ in range(dice.random.randint(0, 4)):
        fork.append(ops.Flow(dice.random.choice((5, 10, 20, 40))))
        fork.append(dice.random.choice((ops.CloseRound, ops.OpenSum, ops.CrashAggregator))())
    return fork
