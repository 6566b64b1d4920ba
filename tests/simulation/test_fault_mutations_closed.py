"""Bugs planted in closed and encrypted sums: the fault simulation must find each, by its name."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest

from collabedit.aggregator import encrypted
from collabedit.aggregator.tiles import TileStore
from collabedit.ciphertexts import choose_opener
from collabedit.crypto.ckks import adding
from collabedit.crypto.kdf import derive_key
from collabedit.crypto.ring import RingArray, add_into
from collabedit.editing import Layer
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import decryption, opener
from collabedit.party import task as party_task
from collabedit.party.journal import PartyJournal
from collabedit.party.merge_check import CheckedLayer, CheckSums
from collabedit.party.pieces import SealedFile, seal_temporarily
from tests.simulation.test_fault_mutations import CRASHES, LIES, LISTS, Bug, search

OPENED = 1 << 32
"""From here on the aggregator's journal counts tiles of opened integers, not of uploads."""


def forget(made: str) -> Callable[[], AbstractContextManager[object]]:
    """Let a party's journal make anew what may be made once only."""

    def make_anew(
        _journal: PartyJournal, _task: TaskIndex, make: Callable[[], Iterable[bytes]]
    ) -> SealedFile:
        return seal_temporarily(make())

    return lambda: patch.object(PartyJournal, made, make_anew)


def take_any_seeds() -> AbstractContextManager[object]:
    return patch.object(decryption, "is_equal", lambda *_: True)


def add_no_ciphertext() -> AbstractContextManager[object]:
    return patch.object(adding, "add_mod", lambda total, *_: total)


def add_checks_twice() -> AbstractContextManager[object]:
    def add(total: RingArray, value: RingArray) -> None:
        add_into(total, value)
        add_into(total, value)

    return patch.object(encrypted, "add_into", add)


def forget_opened_tiles() -> AbstractContextManager[object]:
    real = TileStore.restore

    def restore(self: TileStore, **answered: Any) -> frozenset[PartyId]:  # noqa: ANN401
        kept = real(self, **answered)
        if self._task >= OPENED:
            self._uploads.clear()
        return kept

    return patch.object(TileStore, "restore", restore)


def let_another_open() -> AbstractContextManager[object]:
    def choose(survivors: frozenset[PartyId]) -> PartyId:
        return max(survivors) if len(survivors) == 4 else choose_opener(survivors)

    return patch.object(opener, "choose_opener", choose)


def derive_from_the_transcript() -> AbstractContextManager[object]:
    def derive(secret: bytes, *, label: str, context: bytes) -> bytes:
        return (
            context if label == "group-secret" else derive_key(secret, label=label, context=context)
        )

    return patch.object(party_task, "derive_key", derive)


def check_no_merge() -> AbstractContextManager[object]:
    def hold(self: CheckSums, layer: Layer, *_: Any, **__: Any) -> CheckedLayer:  # noqa: ANN401
        return CheckedLayer(
            LayerIndex(layer.index), 0.0, 0.0, self.sums[LayerIndex(layer.index)].edits
        )

    return patch.object(CheckSums, "hold", hold)


LYING_PARTIES = ("lying-party", "everything")
BUGS = (
    Bug(
        "an opening is not journalled",
        forget("opened"),
        frozenset({"opened-twice"}),
        CRASHES,
        ("encrypted",),
    ),
    Bug(
        "a contribution is not journalled",
        forget("encoded"),
        frozenset({"two-contributions"}),
        CRASHES,
        ("encrypted",),
    ),
    Bug(
        "ciphertexts are not added",
        add_no_ciphertext,
        frozenset({"wrong-reason"}),
        CRASHES,
        ("encrypted",),
    ),
    Bug(
        "check elements are added twice",
        add_checks_twice,
        frozenset({"sum-exact"}),
        CRASHES,
        ("encrypted",),
    ),
    Bug(
        "opened tiles are forgotten in a restart",
        forget_opened_tiles,
        frozenset({"tile-lost"}),
        CRASHES,
        ("encrypted",),
    ),
    Bug(
        "another survivor waits for the sum",
        let_another_open,
        frozenset({"waited-for"}),
        CRASHES,
        ("encrypted",),
    ),
    Bug(
        "the group secret is the transcript",
        derive_from_the_transcript,
        frozenset({"secret-held"}),
        CRASHES,
        ("closed",),
    ),
    Bug(
        "an opener takes any offer",
        take_any_seeds,
        frozenset({"lie-accepted"}),
        LIES,
        ("encrypted",),
    ),
    Bug(
        "a party does not check the merge",
        check_no_merge,
        frozenset({"sum-exact"}),
        LYING_PARTIES,
        ("encrypted",),
    ),
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_of_closed_sums_is_found_and_named(bug: Bug) -> None:
    found = search(bug)
    assert found is not None, f"{LISTS} lists did not find that {bug.name}"
    seed, name = found
    assert name in bug.found, f"scenario {seed} calls it {name}"
