"""What a party sends and keeps on the honest way through a task."""

import hashlib
from dataclasses import fields

import pytest

from collabedit.crypto.kdf import commit
from collabedit.crypto.shamir import combine
from collabedit.errors import AbortReason
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party.task import advance, receive, start_task
from collabedit.proto import messages as m
from collabedit.proto.statements import owner_context
from tests.protocol.stage import Walk, kind_of, parties, walk
from tests.support.randomness import InsecureTestRandomness

ONE = PartyId(1)


@pytest.fixture(scope="module")
def full() -> Walk:
    return walk(contributors=parties(1, 2, 3, 4, 5))


@pytest.fixture(scope="module")
def dropped() -> Walk:
    return walk(contributors=parties(1, 2, 3, 4))


def held(walk: Walk, party: int) -> dict[PartyId, s.HeldShares]:
    state = walk.state(party, m.Confirmed)
    assert isinstance(state, s.AwaitingConfirmations)
    return dict(state.shares)


def test_every_task_has_fresh_keys_of_two_kinds(full: Walk) -> None:
    state = full.state(1, m.Roster)
    assert isinstance(state, s.AwaitingRoster)
    keys = set[bytes]()
    for _ in range(3):
        step = start_task(state.setup)
        assert isinstance(step.state, s.AwaitingRoster)
        keys |= {step.state.mask_key.public, step.state.seal_key.public}
    assert len(keys) == 6


def test_a_share_goes_to_everybody_else_and_its_digest_is_signed(full: Walk) -> None:
    packet, message = full.sent[ONE, m.ShareKeys], full.message(1, m.ShareKeys)
    assert list(message.digests) == [2, 3, 4, 5]
    assert [hashlib.sha256(sealed).digest() for sealed in packet.attachments] == list(
        message.digests.values()
    )
    assert len(set(packet.attachments)) == 4


def test_any_threshold_of_held_shares_gives_what_their_owner_committed_to(full: Walk) -> None:
    shares = {party: held(full, party) for party in (1, 2, 3, 4, 5)}
    for owner in full.federation.plan.party_ids:
        sharing = full.state(owner, m.RelayShares)
        assert isinstance(sharing, s.AwaitingShares)
        for holders in ((1, 2, 3, 4), (2, 3, 4, 5)):
            seed = combine({p: shares[p][owner].self_mask for p in holders}, threshold=4)
            key = combine({p: shares[p][owner].mask_key for p in holders}, threshold=4)
            assert seed == sharing.self_mask_seed
            assert key == sharing.mask_key.secret()
            committed = full.message(owner, m.ShareKeys).self_mask_commitment
            assert commit("self-mask", owner_context(full.context, owner), seed) == committed


def test_all_hold_one_transcript_and_one_group_secret(full: Walk, other: Walk) -> None:
    states = [full.state(party, m.Confirmed) for party in (1, 2, 3, 4, 5)]
    assert all(isinstance(state, s.AwaitingConfirmations) for state in states)
    assert len({getattr(state, "transcript", None) for state in states}) == 1
    assert len({getattr(state, "group_secret", None) for state in states}) == 1
    elsewhere = other.state(1, m.Confirmed)
    assert isinstance(elsewhere, s.AwaitingConfirmations)
    assert elsewhere.group_secret != getattr(states[0], "group_secret", None)


@pytest.fixture(scope="module")
def other() -> Walk:
    return walk(contributors=parties(1, 2, 3, 4, 5), seed=1)


@pytest.mark.parametrize(("party", "signs"), [(1, [1, 1, 1, 1, 1]), (3, [1, -1, -1, 1, 1])])
def test_one_self_mask_and_one_mask_for_each_peer(party: int, signs: list[int], full: Walk) -> None:
    state = full.state(party, s.Uploaded)
    assert isinstance(state, s.Contributing)
    assert [mask.sign for mask in state.masks] == signs


def test_a_peer_that_did_not_share_has_no_mask_with_us(full: Walk) -> None:
    relayed = full.shown_message(1, m.RelayShares).commitments[:4]
    sealed = full.shown[ONE, m.RelayShares].attachments[:3]
    state = receive(
        full.state(1, m.RelayShares), full.packet(m.RelayShares(relayed), *sealed)
    ).state
    assert isinstance(state, s.AwaitingConfirmations)
    confirm = m.Confirm(state.transcript)
    confirmations = tuple(full.sign(confirm, sender=party) for party in (1, 2, 3, 4))
    contributing = receive(state, full.packet(m.Confirmed(confirmations))).state
    assert isinstance(contributing, s.Contributing)
    assert len(contributing.masks) == 1 + 3


def test_the_upload_is_signed_as_it_was_acknowledged(full: Walk) -> None:
    step = advance(full.state(1, s.Uploaded), s.Uploaded(7, 2, b"r" * 32))
    (packet,) = step.outbound
    assert kind_of(packet) is m.Contribute
    assert full.message(1, m.Contribute).root == bytes([1]) * 32
    assert isinstance(step.state, s.AwaitingSurvivors)
    assert not hasattr(step.state, "masks")


def test_survivors_are_who_the_proposal_lists(dropped: Walk) -> None:
    state = dropped.ends[ONE]
    assert isinstance(state, s.Completed)
    assert state.survivors == {1, 2, 3, 4}


def test_what_is_revealed_are_the_shares_that_were_held(dropped: Walk) -> None:
    mine = held(dropped, 1)
    revealed = dropped.message(1, m.Unmask).shares
    for owner, share in revealed.items():
        kept = mine[owner]
        assert share.value == (kept.mask_key if owner == 5 else kept.self_mask)


TERMINAL_SECRETS = {"mask_key", "seal_key", "self_mask_seed", "group_part", "shares", "masks"}


def test_a_terminal_state_has_no_field_for_a_secret() -> None:
    for kind in (s.Completed, s.Aborted):
        assert not {field.name for field in fields(kind)} & TERMINAL_SECRETS


def test_every_field_that_holds_a_secret_is_left_out_of_repr() -> None:
    secret = TERMINAL_SECRETS | {
        "own_shares",
        "group_secret",
        "self_mask",
        "mask_key",
        "identity",
        "randomness",
    }
    kinds = [value for value in vars(s).values() if hasattr(value, "__dataclass_fields__")]
    assert len(kinds) > 15
    for kind in kinds:
        for field in fields(kind):
            if field.name in secret:
                assert field.repr is False, f"{kind.__name__}.{field.name}"


def test_the_same_entropy_gives_the_same_messages() -> None:
    first = walk(contributors=parties(1, 2, 3, 4, 5))
    second = walk(contributors=parties(1, 2, 3, 4, 5))
    assert first.sent == second.sent
    assert first.shown == second.shown


def test_no_more_entropy_is_drawn_than_the_protocol_says(full: Walk) -> None:
    # Two keys in r0; in r1 a seed, a group part, coefficients of two polynomials and four nonces.
    state = full.state(1, m.Roster)
    assert isinstance(state, s.AwaitingRoster)
    drawn: list[int] = []

    class Counted(InsecureTestRandomness):
        def random_bytes(self, count: int) -> bytes:
            drawn.append(count)
            return super().random_bytes(count)

    setup = s.TaskSetup(
        state.setup.plan, state.setup.context, ONE, state.setup.identity, Counted(1)
    )
    step = start_task(setup)
    assert drawn == [32, 32]
    listed = full.shown_message(1, m.Roster).advertisements
    roster = (step.outbound[0].envelope, *listed[1:])
    receive(step.state, full.packet(m.Roster(roster)))
    assert drawn[2:4] == [32, 32]
    assert drawn[-4:] == [12] * 4
    assert set(drawn[4:-4]) == {33}
    assert len(drawn[4:-4]) >= 2 * (setup.plan.threshold - 1)


@pytest.mark.parametrize("reason", [AbortReason.INPUT_REFUSED, AbortReason.PARTY_LEFT])
def test_leaving_names_the_party_itself(reason: AbortReason, full: Walk) -> None:
    step = advance(full.state(2, m.Confirmed), s.LeaveSession(reason))
    assert isinstance(step.state, s.Aborted)
    assert (step.state.reason, step.state.culprit) == (reason, 2)
