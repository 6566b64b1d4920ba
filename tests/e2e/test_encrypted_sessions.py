"""Encrypted sums over real gRPC with mutual TLS on loopback."""

import sys
from pathlib import Path

import pytest

from collabedit.errors import AbortReason, SessionAbortedError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import decryption
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
