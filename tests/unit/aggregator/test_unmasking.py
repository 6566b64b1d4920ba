"""Shares are never taken on trust."""

from collections.abc import Mapping

import pytest

from collabedit.aggregator.unmasking import MAXIMUM_SUBSETS, Recovered, recover_masks
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.kdf import commit
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, pair_mask_key, self_mask_key
from collabedit.crypto.ring import Ring
from collabedit.crypto.shamir import split
from collabedit.errors import AbortReason
from collabedit.ids import PartyId, TaskIndex
from collabedit.proto import messages as m
from collabedit.proto.envelope import context_fields
from collabedit.proto.statements import RefusalError, owner_context
from tests.support.randomness import InsecureTestRandomness

CONTEXT = m.Context(b"p" * 32, b"s" * 32, TaskIndex(0), b"c" * 32)


class Federation:
    """Parties with their secrets, all shares and who revealed which."""

    def __init__(self, parties: int, threshold: int, dropped: frozenset[int] = frozenset()) -> None:
        randomness = InsecureTestRandomness(parties)
        self.parties = [PartyId(i) for i in range(1, parties + 1)]
        self.threshold = threshold
        self.survivors = frozenset(p for p in self.parties if p not in dropped)
        self.keys = {p: AgreementKey.generate(randomness) for p in self.parties}
        self.seeds = {p: randomness.random_bytes(32) for p in self.parties}
        self.revealed: dict[PartyId, dict[PartyId, m.Share]] = {p: {} for p in self.survivors}
        for owner in self.parties:
            alive = owner in self.survivors
            shares = split(
                self.seeds[owner] if alive else self.keys[owner].secret(),
                threshold=threshold,
                abscissas=self.parties,
                randomness=randomness,
            )
            kind = m.SelfMaskShare if alive else m.MaskKeyShare
            for party in self.survivors:
                self.revealed[party][owner] = kind(shares[party])

    def lie(self, *liars: int) -> None:
        for liar in liars:
            shares = self.revealed[PartyId(liar)]
            for owner, share in shares.items():
                shares[owner] = type(share)(bytes([0]) + bytes([liar]) * 32)

    def masks(self, revealed: Mapping[PartyId, object] | None = None) -> tuple[SignedMask, ...]:
        return self.recovered(revealed).masks

    def recovered(self, revealed: Mapping[PartyId, object] | None = None) -> Recovered:
        who = self.revealed if revealed is None else revealed
        return recover_masks(
            CONTEXT,
            roster={p: m.Advertise(key.public, bytes(32)) for p, key in self.keys.items()},
            sharers={
                p: m.ShareKeys(
                    commit("self-mask", owner_context(CONTEXT, p), self.seeds[p]),
                    bytes(32),
                    {to: bytes(32) for to in self.parties if to != p},
                )
                for p in self.parties
            },
            survivors=self.survivors,
            revealed={p: m.Unmask(self.revealed[p]) for p in who},
            threshold=self.threshold,
        )

    def expected(self) -> list[tuple[int, bytes]]:
        result = []
        for owner in self.parties:
            if owner in self.survivors:
                key = self_mask_key(self.seeds[owner], owner_context(CONTEXT, owner))
                result.append((1, key))
                continue
            for survivor in sorted(self.survivors):
                key = pair_mask_key(
                    self.keys[survivor], self.keys[owner].public, context_fields(CONTEXT)
                )
                result.append((1 if survivor < owner else -1, key))
        return result


def streams(masks: tuple[SignedMask, ...]) -> list[tuple[int, bytes]]:
    return [(mask.sign, mask.keystream.tile(0, 8, Ring.Z64).tobytes()) for mask in masks]


def assert_recovers(federation: Federation) -> None:
    expected = [
        (sign, Keystream(key).tile(0, 8, Ring.Z64).tobytes()) for sign, key in federation.expected()
    ]
    assert streams(federation.masks()) == expected


@pytest.mark.parametrize("dropped", [[], [1], [3], [2, 5]])
def test_the_masks_are_those_that_the_sum_carries(dropped: list[int]) -> None:
    assert_recovers(Federation(7, 5, frozenset(dropped)))


@pytest.mark.parametrize("liar", [1, 4, 7])
def test_one_liar_is_left_out(liar: int) -> None:
    federation = Federation(7, 5, frozenset([2]))
    federation.lie(liar)
    assert_recovers(federation)


@pytest.mark.parametrize("liar", [1, 10, 20])
def test_one_liar_among_twenty_does_not_use_up_the_attempts(liar: int) -> None:
    federation = Federation(20, 14)
    federation.lie(liar)
    assert_recovers(federation)


def test_two_liars_among_thirty_do_not_use_up_the_attempts() -> None:
    federation = Federation(30, 21)
    federation.lie(1, 2)
    assert_recovers(federation)


def test_as_many_liars_as_there_are_shares_to_spare_are_left_out() -> None:
    federation = Federation(9, 7)
    federation.lie(1, 5)
    assert_recovers(federation)


def test_one_liar_too_many_refuses_and_blames_nobody() -> None:
    federation = Federation(9, 7)
    federation.lie(1, 5, 8)
    with pytest.raises(RefusalError) as caught:
        federation.masks()
    assert caught.value.reason is AbortReason.INVALID_SHARE
    assert caught.value.culprit is None


def test_too_few_shares_refuse() -> None:
    federation = Federation(5, 4)
    with pytest.raises(RefusalError) as caught:
        federation.masks(dict.fromkeys([PartyId(1), PartyId(2), PartyId(3)]))
    assert caught.value.reason is AbortReason.BELOW_THRESHOLD


def test_shares_beyond_the_threshold_are_not_needed() -> None:
    federation = Federation(6, 5)
    assert len(federation.masks(dict.fromkeys(federation.parties[:5]))) == 6


def test_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from collabedit.aggregator import unmasking

    attempts = 0

    def combine(shares: object, *, threshold: int) -> bytes:
        nonlocal attempts
        attempts += 1
        return bytes(32)

    monkeypatch.setattr(unmasking, "combine", combine)
    with pytest.raises(RefusalError):
        Federation(40, 27).masks()
    assert attempts == MAXIMUM_SUBSETS


# Wrong shares that were outvoted are named.


def named(recovered: Recovered) -> dict[int, tuple[int, ...]]:
    return {stray.owner: stray.revealed_by for stray in recovered.strays}


@pytest.mark.parametrize("dropped", [[], [2]])
def test_shares_that_all_fit_name_nobody(dropped: list[int]) -> None:
    assert named(Federation(7, 5, frozenset(dropped)).recovered()) == {}


@pytest.mark.parametrize("liars", [(1,), (4,), (7,), (1, 7)])
def test_whoever_reveals_wrong_shares_is_named_for_every_owner(liars: tuple[int, ...]) -> None:
    federation = Federation(7, 5)
    federation.lie(*liars)
    assert named(federation.recovered()) == dict.fromkeys(range(1, 8), liars)


def test_a_wrong_share_of_a_dropped_party_is_named() -> None:
    federation = Federation(7, 5, frozenset([2]))
    shares = federation.revealed[PartyId(4)]
    shares[PartyId(2)] = m.MaskKeyShare(b"\xff" * 33)
    assert named(federation.recovered()) == {2: (4,)}


def test_a_wrong_share_that_its_owner_dealt_looks_the_same() -> None:
    """Party 3 deals a wrong share to party 6, who reveals it faithfully: it cannot be told."""
    federation = Federation(7, 5)
    federation.revealed[PartyId(6)][PartyId(3)] = m.SelfMaskShare(bytes(33))
    assert named(federation.recovered()) == {3: (6,)}


def test_with_no_share_to_spare_a_liar_cannot_be_outvoted() -> None:
    federation = Federation(5, 4, frozenset([1]))
    federation.lie(2)
    with pytest.raises(RefusalError, match="party 1 dealt wrong ones, or at least 1 of the 4"):
        federation.masks()


def test_a_refusal_says_who_it_can_have_been() -> None:
    federation = Federation(9, 7)
    federation.lie(1, 5, 8)
    with pytest.raises(RefusalError, match="party 1 dealt wrong ones, or at least 3 of the 9"):
        federation.masks()


def test_a_refusal_does_not_count_liars_if_not_all_sets_were_tried() -> None:
    federation = Federation(30, 21)
    federation.lie(*range(1, 11))
    with pytest.raises(RefusalError, match=r"party 1 dealt wrong ones$"):
        federation.masks()
