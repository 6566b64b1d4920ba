"""A party enters no session twice: two sets of keys in one context would make it look a liar."""

import stat
from pathlib import Path

import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError, ProtocolError, StorageError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party.member import Member
from collabedit.party.session import run_session
from collabedit.party.sessions import EnteredSessions
from collabedit.proto import messages as m
from tests.support.federations import build_federation
from tests.support.lies import Refusal
from tests.support.loopback import LoopbackChannel
from tests.support.networks import MatrixEditor

ONE = PartyId(1)
FIRST, SECOND = bytes(32), b"\x01" * 32


def test_a_session_is_entered_once(tmp_path: Path) -> None:
    path = tmp_path / "sessions.txt"
    EnteredSessions(path).enter(FIRST)
    EnteredSessions(path).enter(SECOND)
    for session_id in (FIRST, SECOND):
        with pytest.raises(ProtocolError, match="was entered before"):
            EnteredSessions(path).enter(session_id)
    assert path.read_text() == f"{FIRST.hex()}\n{SECOND.hex()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "00\n",
        f"{FIRST.hex()[:9]}\n{FIRST.hex()}\n",
        f"{FIRST.hex()}\n\n",
        f"{'AB' * 32}\n",
        "ä\n",
    ],
)
def test_a_damaged_list_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sessions.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"damaged|cannot be read"):
        EnteredSessions(path).enter(SECOND)
    assert path.read_text() == text


@pytest.mark.parametrize("kept", [1, 63, 64])
def test_a_line_whose_writer_died_half_way_counts_for_nothing(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "sessions.txt"
    path.write_text(f"{FIRST.hex()}\n{SECOND.hex()[:kept]}")
    EnteredSessions(path).enter(SECOND)
    assert path.read_text() == f"{FIRST.hex()}\n{SECOND.hex()}\n"


def test_a_list_that_cannot_be_written_stops_the_party(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        EnteredSessions(tmp_path / "gone" / "sessions.txt").enter(FIRST)


@pytest.mark.lie(
    role="aggregator",
    lie="uses a session id again, to have a party sign other keys under an old context",
    round="join",
    refused_by="ProtocolError",
)
def test_an_aggregator_that_uses_an_id_again_gets_nothing_signed(
    tmp_path: Path, refusal: Refusal
) -> None:
    federation = build_federation(3)
    coordinator = Coordinator(
        federation.plan,
        federation.identities[AGGREGATOR],
        directory=tmp_path / "spool",
        randomness=SystemRandomness(),
    )
    member = Member(federation.plan, ONE, federation.identities[ONE], SystemRandomness())
    sessions = EnteredSessions(tmp_path / "sessions.txt")

    def die(packet: m.Packet) -> None:
        raise ProtocolError("the party dies here")

    first = LoopbackChannel(coordinator, ONE, before_delivery=die)
    with pytest.raises(ProtocolError, match="dies here"):
        run_session(member, first, MatrixEditor(federation, ONE), enter=sessions.enter)
    second = LoopbackChannel(coordinator, ONE, before_delivery=die)
    with pytest.raises(ProtocolError, match="was entered before") as caught:
        run_session(member, second, MatrixEditor(federation, ONE), enter=sessions.enter)
    refusal(caught.value)
    assert second.closed
    assert not second.delivered
