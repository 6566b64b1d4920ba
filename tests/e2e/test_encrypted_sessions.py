"""Encrypted sums over real gRPC with mutual TLS on loopback."""

import sys
import threading
from pathlib import Path

import pytest

from collabedit.crypto.ring import RingArray
from collabedit.errors import AbortReason, JournalError, SessionAbortedError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import decryption
from collabedit.party.pieces import StoredVector
from tests.e2e.test_grpc_session import run, with_timing
from tests.support.federations import encrypted_federation
from tests.support.networks import Network


@pytest.mark.parametrize("absent", [None, 1, 4])
def test_parties_get_the_centralised_update(absent: int | None, tmp_path: Path) -> None:
    federation = with_timing(encrypted_federation(4, layers=2), join=2.0)
    network = Network(federation, tmp_path)
    there = [party for party in (1, 2, 3, 4) if party != absent]
    run(network, there)
    assert not network.errors
    members = frozenset(PartyId(party) for party in there)
    for party in there:
        for layer, applied in enumerate(network.editors[PartyId(party)].applied):
            wanted = federation.centralised(members, TaskIndex(layer))
            error = applied[LayerIndex(layer)].dense() - wanted
            assert abs(error).max() < 1e-7 * abs(wanted).max()
        assert len(network.editors[PartyId(party)].applied) == 2


def test_an_opener_that_vanishes_ends_the_session_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = with_timing(encrypted_federation(4))
    network = Network(federation, tmp_path)

    def die(*_: object) -> None:
        sys.exit()

    monkeypatch.setattr(decryption, "open_chunks", die)
    run(network, [1, 2, 3, 4])
    for party in (2, 3, 4):
        error = network.errors[PartyId(party)]
        assert isinstance(error, SessionAbortedError)
        assert (error.reason, error.culprit) == (AbortReason.OPENER_GONE, "party-1")
        assert not network.editors[PartyId(party)].applied


def test_an_upload_that_cannot_be_read_any_more_is_our_own_disk_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC reads it in a thread of its own, from which no error comes back."""
    federation = with_timing(encrypted_federation(4))
    network = Network(federation, tmp_path)
    honest = StoredVector.__getitem__
    damaged: list[slice] = []

    def read(vector: StoredVector, bounds: slice) -> RingArray:
        if not damaged and threading.current_thread() not in network_threads:
            damaged.append(bounds)
            raise JournalError("task-0.encoded: record 3 is damaged")
        return honest(vector, bounds)

    network_threads: set[threading.Thread] = set()
    join = network.join

    def noted(*arguments: object, **options: object) -> threading.Thread:
        thread = join(*arguments, **options)  # type: ignore[arg-type]
        network_threads.add(thread)
        return thread

    monkeypatch.setattr(network, "join", noted)
    monkeypatch.setattr(StoredVector, "__getitem__", read)
    run(network, [1, 2, 3, 4])
    assert damaged
    (error,) = [error for error in network.errors.values() if isinstance(error, JournalError)]
    assert "record 3" in str(error)
