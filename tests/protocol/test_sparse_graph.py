"""The graph of a large roster, against the real machines: who may choose whom, and who holds what.

Scene: 33 parties, threshold 23, at most 6 corrupt, so each party shares with 17 others and 7 shares
give a secret back. Party 2 lies unless said.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator import states as a
from collabedit.aggregator.task import receive as aggregator_receive
from collabedit.crypto.graph import Neighbourhood
from collabedit.errors import AbortReason
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.task import receive
from collabedit.proto import messages as m
from collabedit.proto.envelope import first_chain
from collabedit.proto.neighbours import find_neighbours, find_owners
from collabedit.proto.statements import RefusalError
from tests.protocol.stage import FIRST, Session, Walk, _Walker, instead_of, plain_sum
from tests.support.federations import TestFederation, build_federation
from tests.support.lies import Refusal

PARTIES = 33
GRAPH = Neighbourhood(degree=17, threshold=7)
ONE, LIAR = PartyId(1), PartyId(2)


@pytest.fixture(scope="module")
def federation() -> TestFederation:
    return build_federation(PARTIES, corruptions=6)


@pytest.fixture(scope="module")
def sparse(federation: TestFederation) -> Walk:
    """Everybody contributes but party 33."""
    plan = federation.plan
    context = m.Context(plan.digest, bytes(32), TaskIndex(0), first_chain(plan.digest, bytes(32)))
    walk = Walk(federation, context)
    _Walker(walk, frozenset(plan.party_ids) - {PartyId(PARTIES)}, 0).run()
    return walk


@pytest.fixture(scope="module")
def sharers(sparse: Walk) -> dict[PartyId, m.ShareKeys]:
    return {party: sparse.message(party, m.ShareKeys) for party in sparse.federation.plan.party_ids}


# The honest graph.


def test_everybody_chooses_for_itself(sharers: dict[PartyId, m.ShareKeys]) -> None:
    assert {len(keys.digests) for keys in sharers.values()} == {GRAPH.degree}
    assert all(party not in keys.digests for party, keys in sharers.items())
    # Nobody follows anybody: no two parties chose alike.
    assert len({frozenset(keys.digests) for keys in sharers.values()}) == PARTIES


def test_a_share_goes_to_whom_its_owner_chose(
    sparse: Walk, sharers: dict[PartyId, m.ShareKeys]
) -> None:
    for party, keys in sharers.items():
        packet = sparse.shown[party, m.RelayShares]
        owners = {owner for owner, others in sharers.items() if party in others.digests}
        assert len(packet.attachments) == len(owners)
        state = sparse.state(party, m.Confirmed)
        assert isinstance(state, s.AwaitingConfirmations)
        assert state.shares.keys() == owners | {party}
        assert state.neighbours == owners | keys.digests.keys()
        # Nobody has everybody's part, so there is no secret of all.
        assert state.group_secret is None


def test_masks_are_between_neighbours_and_agree_at_both_ends(
    sparse: Walk, sharers: dict[PartyId, m.ShareKeys]
) -> None:
    for party in sharers:
        neighbours = find_neighbours(party, sharers)
        assert all(party in find_neighbours(peer, sharers) for peer in neighbours)
        state = sparse.state(party, s.Uploaded) if party != PARTIES else sparse.ends[party]
        assert isinstance(state, s.Contributing)
        assert len(state.masks) == 1 + len(neighbours) < PARTIES
        assert state.parties == sharers.keys()


def test_a_party_reveals_one_share_of_each_owner_that_chose_it(
    sparse: Walk, sharers: dict[PartyId, m.ShareKeys]
) -> None:
    dropped = PartyId(PARTIES)
    for party in sharers.keys() - {dropped}:
        shares = sparse.message(party, m.Unmask).shares
        assert shares.keys() == find_owners(party, sharers)
        for owner, share in shares.items():
            kind = m.MaskKeyShare if owner == dropped else m.SelfMaskShare
            assert isinstance(share, kind)


def test_the_opening_carries_masks_of_a_dropped_party_with_its_neighbours_only(
    sparse: Walk, sharers: dict[PartyId, m.ShareKeys]
) -> None:
    opening = sparse.opening
    assert isinstance(opening, a.Opening)
    pairs = len(find_neighbours(PartyId(PARTIES), sharers))
    assert pairs < PARTIES - 1
    assert len(opening.masks) == (PARTIES - 1) + pairs


# Lies about the graph.

LIES = ("one less", "one more", "itself", "an outsider")


def changed_receivers(honest: m.ShareKeys, how: str, liar: PartyId) -> dict[PartyId, bytes]:
    digests = dict(honest.digests)
    first = next(iter(digests))
    if how == "one less":
        del digests[first]
    elif how == "one more":
        spare = next(PartyId(i) for i in range(1, PARTIES) if i not in (*digests, liar))
        digests[spare] = digests[first]
    else:
        digests[liar if how == "itself" else PartyId(PARTIES + 1)] = digests.pop(first)
    return dict(sorted(digests.items()))


@pytest.mark.lie(
    role="party",
    lie="chooses one receiver too few or too many in a sparse graph, itself, or an outsider",
    round="r1",
    refused_by="MALFORMED_MESSAGE",
)
@pytest.mark.parametrize("how", LIES)
def test_the_aggregator_refuses_other_receivers_and_goes_on(
    how: str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        honest = session.open_own(packet, m.ShareKeys)
        digests = changed_receivers(honest, how, LIAR)
        # The attachments fit the digests, so nothing but the receivers is wrong.
        by_digest = dict(zip(honest.digests.values(), packet.attachments, strict=True))
        sealed = tuple(by_digest[digest] for digest in digests.values())
        return m.Packet(session.sign(LIAR, replace(honest, digests=digests)), sealed)

    session.alter = instead_of(LIAR, m.ShareKeys, make)
    session.run()
    assert session.reasons(LIAR) == [AbortReason.MALFORMED_MESSAGE]
    refusal(*session.reasons(LIAR))
    assert session.survivors == frozenset(federation.plan.party_ids) - {LIAR}
    np.testing.assert_array_equal(session.sums[FIRST], plain_sum(federation, session.survivors))


@pytest.mark.lie(
    role="aggregator",
    lie="relays a commitment with other receivers than a sparse graph allows",
    round="r1",
    refused_by="MALFORMED_MESSAGE",
)
@pytest.mark.parametrize("how", LIES)
def test_a_party_refuses_other_receivers_that_an_aggregator_let_through(
    how: str, sparse: Walk, refusal: Refusal
) -> None:
    honest = sparse.message(LIAR, m.ShareKeys)
    wrong = sparse.sign(replace(honest, digests=changed_receivers(honest, how, LIAR)), sender=LIAR)
    shown = sparse.shown_message(1, m.RelayShares).commitments
    listed = tuple(wrong if envelope.sender == LIAR else envelope for envelope in shown)
    attachments = sparse.shown[ONE, m.RelayShares].attachments
    step = receive(
        sparse.state(1, m.RelayShares), sparse.packet(m.RelayShares(listed), *attachments)
    )
    assert isinstance(step.state, s.Aborted)
    assert step.state.reason is AbortReason.MALFORMED_MESSAGE
    refusal(step.state.reason)
    # The liar's signature proves nothing against it: it may have been shown another roster.
    assert step.state.culprit == AGGREGATOR


@pytest.mark.parametrize("surplus", [-1, 1])
def test_shares_of_others_than_chose_us_are_refused(surplus: int, sparse: Walk) -> None:
    packet = sparse.shown[ONE, m.RelayShares]
    sealed = packet.attachments[:-1] if surplus < 0 else (*packet.attachments, bytes(126))
    step = receive(sparse.state(1, m.RelayShares), replace(packet, attachments=sealed))
    assert isinstance(step.state, s.Aborted)
    assert step.state.reason is AbortReason.MALFORMED_MESSAGE
    assert step.state.culprit == AGGREGATOR


def refused_unmask(walk: Walk, shares: dict[PartyId, m.Share]) -> RefusalError:
    state = walk.aggregator[m.Unmask]
    with pytest.raises(RefusalError) as caught:
        aggregator_receive(state, walk.packet(m.Unmask(dict(sorted(shares.items()))), sender=LIAR))
    return caught.value


@pytest.mark.lie(
    role="party",
    lie="reveals a share of an owner that did not choose it",
    round="r5",
    refused_by="INVALID_SHARE",
)
def test_a_share_of_an_owner_that_did_not_choose_the_sender_is_refused(
    sparse: Walk, sharers: dict[PartyId, m.ShareKeys], refusal: Refusal
) -> None:
    honest = sparse.message(LIAR, m.Unmask).shares
    stranger = min(sharers.keys() - honest.keys() - {PartyId(PARTIES)})
    refused = refused_unmask(sparse, {**honest, stranger: m.SelfMaskShare(bytes(33))})
    assert refused.culprit == LIAR
    refusal(refused)


def test_a_share_that_is_owed_and_missing_is_refused(sparse: Walk) -> None:
    honest = dict(sparse.message(LIAR, m.Unmask).shares)
    del honest[max(honest)]
    refused = refused_unmask(sparse, honest)
    assert (refused.reason, refused.culprit) == (AbortReason.INVALID_SHARE, LIAR)


def test_wrong_shares_of_as_many_as_may_lie_do_not_spoil_the_sum(
    federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)
    liars = frozenset(PartyId(i) for i in (2, 9))

    def alter(party: PartyId, packet: m.Packet) -> tuple[m.Packet, ...]:
        if party not in liars or packet.envelope.kind != m.KINDS[m.Unmask]:
            return (packet,)
        shares = session.open_own(packet, m.Unmask).shares
        wrong = {owner: m.SelfMaskShare(bytes(33)) for owner in shares}
        return (m.Packet(session.sign(party, m.Unmask(dict(wrong)))),)

    session.alter = alter
    session.run()
    assert not session.refusals
    everybody = frozenset(federation.plan.party_ids)
    np.testing.assert_array_equal(session.sums[FIRST], plain_sum(federation, everybody))
