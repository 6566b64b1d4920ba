"""The malicious party in closed and encrypted sums: what it uploads instead of what it should."""

from typing import TYPE_CHECKING

import numpy as np

from collabedit.aggregator import states as a
from collabedit.ciphertexts import WORDS
from collabedit.crypto.ckks.wire import HEADER_BYTES
from collabedit.crypto.ring import RingArray
from collabedit.encrypted import CHUNK_WORDS, SEED_BYTES
from collabedit.party.contribution import uploaded_vector
from collabedit.party.states import TaskSetup
from tests.simulation.faults.ops import PartyLie
from tests.support.federations import MAPPED, OUTPUTS

if TYPE_CHECKING:
    from tests.simulation.faults.world import World

_RESIDUES = (HEADER_BYTES + SEED_BYTES) // 8
_WRONG_SECRET = bytes(32)


def spoil_vector(what: PartyLie | None, vector: RingArray) -> RingArray:
    """Return a contribution whose last tag is not that of its integers."""
    if what != "bad-checks":
        return vector
    spoilt = vector.copy()
    spoilt[-1] += 1
    return spoilt


def spoil_words(
    what: PartyLie | None, world: "World", setup: TaskSetup, vector: RingArray, words: RingArray
) -> RingArray:
    """Return an upload of ciphertexts that are none, another party's, or under another key."""
    if not setup.plan.is_encrypted:
        return words
    match what:
        case "bad-chunk":
            spoilt = words.copy()
            spoilt[_RESIDUES] = 2**64 - 1
            return spoilt
        case "replayed-chunk":
            return _uploaded_before(world, words)
        case "foreign-key":
            return uploaded_vector(setup, vector, _WRONG_SECRET)
        case _:
            return words


def waits(what: PartyLie | None, world: "World") -> bool:
    """Tell whether a party lets others upload before it, while they do."""
    state = world.coordinator.state
    if what != "replayed-chunk" or not isinstance(state, a.CollectingContributions):
        return False
    return not state.answers and world.network.is_busy


def _uploaded_before(world: "World", words: RingArray) -> RingArray:
    """The chunk of a party whose upload was taken, as an accomplice could tell it."""
    state = world.coordinator.state
    if not isinstance(state, a.CollectingContributions) or not state.answers:
        return words
    theirs = world.coordinator._store.read(min(state.answers), ring=WORDS)
    return np.concatenate([theirs[:CHUNK_WORDS], words[CHUNK_WORDS:]])


def spoil_integers(what: PartyLie | None, opened: RingArray) -> RingArray:
    """Return integers of twice the update, which the aggregator has no reason to refuse."""
    if what == "other-integers":
        opened[-OUTPUTS * MAPPED :] *= 2
    return opened
