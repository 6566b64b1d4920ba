"""Honest prefixes of one task, walked once: the states and packets that the machine targets use.

Four parties with threshold 3, the smallest federation in which one may drop out, so that both kinds
of share occur. States are frozen, so one walk serves every execution.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

from collabedit.crypto.agreement import AgreementKey
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.proto import messages as m
from tests.protocol.stage import Walk, parties, walk
from tests.support.randomness import InsecureTestRandomness

PARTIES = 4
HONEST = PartyId(1)
"""The party under test, whose key no forger has."""

ROUNDS: tuple[tuple[type[m.Message], type[m.Message]], ...] = (
    (m.Advertise, m.Roster),
    (m.ShareKeys, m.RelayShares),
    (m.Confirm, m.Confirmed),
    (m.Contribute, m.ProposeSurvivors),
    (m.ConfirmSurvivors, m.SurvivorsConfirmed),
    (m.Unmask, m.Release),
    (m.VerifyUpdate, m.UpdateVerified),
)
"""What parties send in each round, and what the aggregator then shows them."""

ANSWERS: dict[type[m.Message], type[m.Message]] = dict(ROUNDS)


@dataclass(frozen=True)
class Scene:
    """A walk, with what a forger may replay into it.

    Attributes:
        walk: the honest task.
        pool: every statement of this walk and of another session of the same plan.
        seal_keys: each party's sealing key, for shares that open and are wrong all the same.
    """

    walk: Walk
    pool: tuple[m.Envelope, ...]
    seal_keys: dict[PartyId, AgreementKey]


def _scene(contributors: frozenset[PartyId]) -> Scene:
    here = walk(contributors=contributors, count=PARTIES)
    elsewhere = walk(contributors=contributors, count=PARTIES, seed=1)
    pool = tuple(
        packet.envelope
        for one in (here, elsewhere)
        for packets in (one.sent, one.shown)
        for packet in packets.values()
    )
    keys = {}
    for party in here.federation.plan.party_ids:
        state = here.party[party, m.Roster]
        assert isinstance(state, s.AwaitingRoster)
        keys[party] = state.seal_key
    return Scene(here, pool, keys)


def with_field(message: m.Message, name: str, value: object) -> m.Message:
    """Replace one field by name. Only the codec says whether that is a message."""
    untyped: Any = message
    changed: m.Message = replace(untyped, **{name: value})
    return changed


@functools.cache
def scenes() -> tuple[Scene, Scene]:
    """Return a task that all finish, and one that the last party leaves before it uploads."""
    return _scene(parties(*range(1, PARTIES + 1))), _scene(parties(*range(1, PARTIES)))


@functools.cache
def _draws_of_r0() -> int:
    state = scenes()[0].walk.state(HONEST, m.Roster)
    assert isinstance(state, s.AwaitingRoster)
    randomness = InsecureTestRandomness(HONEST)
    party_task.start_task(replace(state.setup, randomness=randomness))
    return randomness._draws


def as_it_was(state: s.State) -> s.State:
    """Give a state of r0 its own randomness at the place where the walk had it.

    Only r1 draws, so every execution draws what the walk drew and honest packets keep fitting.
    """
    if not isinstance(state, s.AwaitingRoster):
        return state
    randomness = InsecureTestRandomness(HONEST)
    randomness._draws = _draws_of_r0()
    return replace(state, setup=replace(state.setup, randomness=randomness))
