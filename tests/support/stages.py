"""Stages over the small federations, seeded."""

from collections.abc import Callable
from pathlib import Path

from collabedit.attacks.stage import Stage, Voting
from collabedit.crypto.rng import Randomness
from collabedit.ids import PartyId
from tests.support.federations import TestFederation
from tests.support.randomness import InsecureTestRandomness


def seeded(play: int, end: PartyId) -> Randomness:
    return InsecureTestRandomness(1000 * (play + 2) + end)


def stage_of(
    federation: TestFederation,
    directory: Path,
    *,
    randomness: Callable[[int, PartyId], Randomness] = seeded,
    vote: Voting | None = None,
) -> Stage:
    changes = {} if vote is None else {"vote": vote}
    return Stage(
        federation.plan,
        federation.identities,
        federation.statistics,
        directory,
        randomness=randomness,
        **changes,
    )
