"""Every way in which a party can lie to the aggregator, and what becomes of the others.

Scene: five parties, threshold 4, real uploads, a real coordinator; party 2 lies unless said. What
is refused costs its sender and nobody else: the others get the exact sum of whoever is left.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator import states as a
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.sealed import seal
from collabedit.errors import AbortReason, MalformedMessageError, UnexpectedMessageError
from collabedit.exchange import encode_frame
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, encode_body
from collabedit.proto.statements import share_associated_data
from tests.protocol.stage import FIRST, Session, instead_of, kind_of, parties, plain_sum
from tests.support.federations import TestFederation, build_federation
from tests.support.lies import Refusal
from tests.support.randomness import InsecureTestRandomness

LIAR = PartyId(2)
HONEST = parties(1, 3, 4, 5)
SHARE = bytes(33)
SECOND = TaskIndex(1)


@pytest.fixture(scope="module")
def federation() -> TestFederation:
    return build_federation(5)


def content(packet: m.Packet) -> m.Message:
    return decode_body(packet.envelope.kind, packet.envelope.body)


def committed(session: Session, keys: m.ShareKeys) -> m.Envelope:
    """Sign as the liar, whose own machine takes this for what it sent."""
    envelope = session.sign(LIAR, keys)
    state = session.states[LIAR]
    assert isinstance(state, s.AwaitingShares)
    session.states[LIAR] = replace(state, commitment=envelope)
    return envelope


def assert_goes_on(session: Session, survivors: frozenset[PartyId]) -> None:
    """The sum over the survivors is exact, and every honest survivor completed."""
    assert session.coordinator.records, session.coordinator.state
    assert session.survivors == survivors
    np.testing.assert_array_equal(session.sums[FIRST], plain_sum(session.federation, survivors))
    for party in HONEST:
        assert isinstance(session.states[party], s.Completed), session.states[party]


def assert_nothing_opened(session: Session, reason: AbortReason) -> AbortReason:
    """Everybody aborted for this reason, which is returned, and no sum was opened."""
    state = session.coordinator.state
    assert isinstance(state, a.Aborted)
    assert state.reason is reason
    assert not session.sums
    for party in HONEST:
        held = session.states[party]
        assert isinstance(held, s.Aborted)
        assert held.reason is reason
    return state.reason


def lie(
    federation: TestFederation, tmp_path: Path, message: type[m.Message], changed: m.Message
) -> Session:
    """Run with party 2 signing `changed` instead of its `message`."""
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        return m.Packet(session.sign(LIAR, changed), packet.attachments)

    session.alter = instead_of(LIAR, message, make)
    return session.run()


# r0.


FIELD = 2**255 - 19
# All u of low order on Curve25519 and on its twist (Bernstein, "Curve25519", FAQ).
LOW_ORDER = {
    "zero": 0,
    "one": 1,
    "minus one": FIELD - 1,
    "order 8, first": int.from_bytes(
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"), "little"
    ),
    "order 8, second": int.from_bytes(
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"), "little"
    ),
}
UNUSABLE = {
    **LOW_ORDER,
    # The same points and others in every spelling that a lenient decoder takes.
    **{f"{name}, plus p": u + FIELD for name, u in LOW_ORDER.items() if u < 19},
    **{f"{name}, top bit": u + 2**255 for name, u in LOW_ORDER.items()},
    "nine, plus p": FIELD + 9,
    "nine, top bit": 2**255 + 9,
    "all ones": 2**256 - 1,
}


@pytest.mark.lie(
    role="party",
    lie="advertises a low-order or non-canonical point",
    round="r0",
    refused_by="INVALID_PUBLIC_KEY",
)
@pytest.mark.parametrize("key", [u.to_bytes(32, "little") for u in UNUSABLE.values()], ids=UNUSABLE)
@pytest.mark.parametrize("which", ["mask_public", "seal_public"])
def test_an_unusable_key_drops_its_owner(
    key: bytes, which: str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        advertise = content(packet)
        assert isinstance(advertise, m.Advertise)
        return m.Packet(session.sign(LIAR, replace(advertise, **{which: key})))

    session.alter = instead_of(LIAR, m.Advertise, make)
    session.run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.INVALID_PUBLIC_KEY]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="advertises another party's key, or one key twice",
    round="r0",
    refused_by="INVALID_PUBLIC_KEY",
)
@pytest.mark.parametrize("same", ["own", "another party's"])
def test_a_repeated_key_drops_whoever_repeats_it(
    same: str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)
    seen: list[m.Advertise] = []

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        message = content(packet)
        if not isinstance(message, m.Advertise):
            return (packet,)
        seen.append(message)
        if party != LIAR:
            return (packet,)
        copied = message.mask_public if same == "own" else seen[0].mask_public
        return (m.Packet(session.sign(LIAR, replace(message, seal_public=copied))),)

    session.alter = alter
    session.run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.INVALID_PUBLIC_KEY]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="advertises a key of a wrong length",
    round="r0",
    refused_by="MalformedMessageError",
)
def test_a_key_of_a_wrong_length_drops_its_owner(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = lie(federation, tmp_path, m.Advertise, m.Advertise(bytes(31), bytes(range(32))))
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == ["MalformedMessageError"]
    refusal(*session.reasons(LIAR))


# r1.


@pytest.mark.lie(
    role="party",
    lie="shares with an outsider instead of a party of the roster",
    round="r1",
    refused_by="MALFORMED_MESSAGE",
)
def test_shares_for_the_wrong_parties_drop_their_sender(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        keys = content(packet)
        assert isinstance(keys, m.ShareKeys)
        digests = {(PartyId(6) if to == 5 else to): value for to, value in keys.digests.items()}
        return m.Packet(session.sign(LIAR, replace(keys, digests=digests)), packet.attachments)

    session.alter = instead_of(LIAR, m.ShareKeys, make)
    session.run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.MALFORMED_MESSAGE]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="sends other sealed shares than the signed ones",
    round="r1",
    refused_by="DIGEST_MISMATCH",
)
@pytest.mark.parametrize("how", ["changed", "missing", "surplus", "swapped"])
def test_attachments_that_are_not_the_signed_ones_drop_their_sender(
    how: str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    def make(packet: m.Packet) -> m.Packet:
        first, *rest = packet.attachments
        made = {
            "changed": (first[:-1] + bytes([first[-1] ^ 1]), *rest),
            "missing": tuple(rest),
            "surplus": (first, *rest, first),
            "swapped": (*rest, first),
        }
        return replace(packet, attachments=made[how])

    session = Session(federation, tmp_path, alter=instead_of(LIAR, m.ShareKeys, make)).run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.DIGEST_MISMATCH]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party", lie="seals junk for another party", round="r1", refused_by="INVALID_SEAL"
)
def test_a_share_that_does_not_open_costs_its_receiver_only_and_names_the_sender(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        keys = content(packet)
        assert isinstance(keys, m.ShareKeys)
        junk = bytes(126)
        digests = {**keys.digests, PartyId(1): hashlib.sha256(junk).digest()}
        envelope = committed(session, replace(keys, digests=digests))
        return m.Packet(envelope, (junk, *packet.attachments[1:]))

    session.alter = instead_of(LIAR, m.ShareKeys, make)
    session.run()
    # Nobody but party 1 can know: it leaves, the sum is over the rest. A named limit of the design.
    victim = session.states[PartyId(1)]
    assert isinstance(victim, s.Aborted)
    assert (victim.reason, victim.culprit) == (AbortReason.INVALID_SEAL, LIAR)
    refusal(victim.reason)
    assert session.survivors == parties(2, 3, 4, 5)
    np.testing.assert_array_equal(session.sums[FIRST], plain_sum(federation, session.survivors))


# r2, r4, r6: another transcript.


@pytest.mark.parametrize(
    ("changed", "reason", "survivors"),
    [
        pytest.param(
            m.Confirm(bytes(32)),
            AbortReason.ROSTER_FORK,
            HONEST,
            marks=pytest.mark.lie(
                role="party",
                lie="confirms another roster than it was shown",
                round="r2",
                refused_by="ROSTER_FORK",
            ),
        ),
        pytest.param(
            m.ConfirmSurvivors(bytes(32)),
            AbortReason.SURVIVOR_FORK,
            HONEST | {LIAR},
            marks=pytest.mark.lie(
                role="party",
                lie="confirms other survivors than it was shown",
                round="r4",
                refused_by="SURVIVOR_FORK",
            ),
        ),
        pytest.param(
            m.VerifyUpdate(bytes(32), bytes(32)),
            AbortReason.UPDATE_FORK,
            HONEST | {LIAR},
            marks=pytest.mark.lie(
                role="party",
                lie="states another update than was released",
                round="r6",
                refused_by="UPDATE_FORK",
            ),
        ),
    ],
    ids=["r2", "r4", "r6"],
)
def test_another_transcript_drops_its_signer(
    *,
    changed: m.Message,
    reason: AbortReason,
    survivors: frozenset[PartyId],
    federation: TestFederation,
    tmp_path: Path,
    refusal: Refusal,
) -> None:
    session = lie(federation, tmp_path, type(changed), changed)
    assert_goes_on(session, survivors)
    assert session.reasons(LIAR) == [reason]
    refusal(*session.reasons(LIAR))


# r3.


@pytest.mark.lie(
    role="party",
    lie="states a wrong length of its vector",
    round="r3",
    refused_by="MALFORMED_MESSAGE",
)
def test_a_wrong_element_count_drops_the_contribution(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        contribute = content(packet)
        assert isinstance(contribute, m.Contribute)
        return m.Packet(session.sign(LIAR, replace(contribute, elements=contribute.elements + 1)))

    session.alter = instead_of(LIAR, m.Contribute, make)
    session.run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.MALFORMED_MESSAGE]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="signs a wrong root or number of tiles",
    round="r3",
    refused_by="DIGEST_MISMATCH",
)
@pytest.mark.parametrize("field", ["root", "tiles"])
def test_a_root_or_count_that_does_not_match_the_tiles_drops_the_contribution(
    field: str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        contribute = content(packet)
        assert isinstance(contribute, m.Contribute)
        wrong = {"root": bytes(32), "tiles": contribute.tiles + 1}[field]
        changed = replace(contribute, **{field: wrong})  # type: ignore[arg-type]
        return m.Packet(session.sign(LIAR, changed))

    session.alter = instead_of(LIAR, m.Contribute, make)
    session.run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.DIGEST_MISMATCH]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(role="party", lie="leaves tiles out", round="r3", refused_by="MALFORMED_MESSAGE")
@pytest.mark.parametrize("missing", [0, -1, "all"])
def test_gaps_in_the_upload_drop_the_contribution(
    missing: int | str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    def frames(party: PartyId, sent: list[bytes]) -> Iterable[bytes]:
        if party != LIAR:
            return sent
        if isinstance(missing, str):
            return ()
        del sent[missing]
        return sent

    session = Session(federation, tmp_path, alter_frames=frames).run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.MALFORMED_MESSAGE]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party", lie="alters a tile after signing", round="r3", refused_by="DIGEST_MISMATCH"
)
def test_a_tile_changed_after_masking_drops_the_contribution(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    def frames(party: PartyId, sent: list[bytes]) -> Iterable[bytes]:
        if party == LIAR:
            payload = sent[0][48:]
            sent[0] = encode_frame(0, bytes([payload[0] ^ 1]) + payload[1:])
        return sent

    session = Session(federation, tmp_path, alter_frames=frames).run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR) == [AbortReason.DIGEST_MISMATCH]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="sends a tile again with other bytes",
    round="r3",
    refused_by="MalformedMessageError",
)
def test_a_tile_sent_twice_with_other_bytes_keeps_the_first(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    def frames(party: PartyId, sent: list[bytes]) -> Iterable[bytes]:
        if party == LIAR:
            sent.insert(1, encode_frame(0, bytes(len(sent[0]) - 48)))
        return sent

    session = Session(federation, tmp_path, alter_frames=frames).run()
    assert_goes_on(session, HONEST | {LIAR})
    assert session.reasons(LIAR) == ["MalformedMessageError"]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="uploads more after its contribution was accepted",
    round="r3",
    refused_by="UnexpectedMessageError",
)
def test_frames_after_the_contribution_was_accepted_are_refused(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)
    kept: list[bytes] = []

    def frames(party: PartyId, sent: list[bytes]) -> Iterable[bytes]:
        if party == 1:
            kept.extend(sent)
        elif party == 3:
            # Party 1 has contributed by now.
            with pytest.raises(UnexpectedMessageError, match="no upload of party 1") as caught:
                session.coordinator.put_frame(PartyId(1), FIRST, kept[0])
            refusal(caught.value)
        return sent

    session.alter_frames = frames
    session.run()
    assert kept
    assert_goes_on(session, HONEST | {LIAR})


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(
            "changed",
            marks=pytest.mark.lie(
                role="party",
                lie="uploads a tile that is not what its digest says",
                round="r3",
                refused_by="MalformedMessageError",
            ),
        ),
        pytest.param(
            "cut",
            marks=pytest.mark.lie(
                role="party",
                lie="uploads a tile of a wrong length",
                round="r3",
                refused_by="MalformedMessageError",
            ),
        ),
        pytest.param(
            "beyond",
            marks=pytest.mark.lie(
                role="party",
                lie="uploads a tile beyond the end of the vector",
                round="r3",
                refused_by="MalformedMessageError",
            ),
        ),
    ],
)
def test_a_frame_that_is_not_a_tile_of_the_task_is_refused(
    how: str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    def frames(party: PartyId, sent: list[bytes]) -> Iterable[bytes]:
        if party == LIAR:
            payload = sent[0][48:]
            made = {
                "changed": sent[0][:-1] + bytes([sent[0][-1] ^ 1]),
                "cut": encode_frame(0, payload[:-8]),
                "beyond": encode_frame(len(sent), payload),
            }
            sent.insert(0, made[how])
        return sent

    session = Session(federation, tmp_path, alter_frames=frames).run()
    # The honest frames that follow count.
    assert_goes_on(session, HONEST | {LIAR})
    assert len(session.refusals) == 1
    refusal(*session.reasons(LIAR))


@pytest.mark.parametrize(
    "factor",
    [
        pytest.param(
            # The sum of the Gram matrices is no longer positive semidefinite.
            -1,
            marks=pytest.mark.lie(
                role="party",
                lie="contributes statistics that no edits have",
                round="r3",
                refused_by="MERGE_FAILED",
            ),
        ),
        pytest.param(
            1 << 14,
            marks=pytest.mark.lie(
                role="party",
                lie="contributes statistics beyond what its edits may weigh",
                round="r3",
                refused_by="BOUNDS_EXCEEDED",
            ),
        ),
    ],
)
def test_statistics_that_no_edits_have_are_not_merged(
    factor: int, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        honest = session.encoded[LIAR, FIRST].view(np.int64)
        session.encoded[LIAR, FIRST] = (honest * factor).view(np.uint64)
        return packet

    session.alter = instead_of(LIAR, m.Advertise, make)
    session.run()
    state = session.coordinator.state
    assert isinstance(state, a.Aborted)
    # Masks hide whose statistics they are: nobody can be blamed.
    assert state.culprit is None
    for party in federation.plan.party_ids:
        assert isinstance(session.states[party], s.Aborted)
    refusal(state.reason)


@pytest.mark.lie(
    role="party",
    lie="uploads a tile that is too long, empty or of the last tile's length",
    round="r3",
    refused_by="MalformedMessageError",
)
@pytest.mark.parametrize("how", ["long", "empty", "of the last tile"])
def test_a_frame_that_does_not_fit_its_place_is_refused_and_the_right_ones_still_count(
    how: str, federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    def frames(party: PartyId, sent: list[bytes]) -> Iterable[bytes]:
        if party != LIAR:
            return sent
        payload = sent[0][48:]
        wrong = {
            "long": encode_frame(0, payload + bytes(8)),
            "empty": encode_frame(0, b""),
            "of the last tile": encode_frame(0, sent[-1][48:]),
        }
        return (wrong[how], *sent)

    session = Session(federation, tmp_path, alter_frames=frames).run()
    assert_goes_on(session, HONEST | {LIAR})
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="uploads two tiles under each other's index",
    round="r3",
    refused_by="DIGEST_MISMATCH",
)
def test_tiles_under_each_others_index_drop_the_contribution(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    def frames(party: PartyId, sent: list[bytes]) -> Iterable[bytes]:
        if party != LIAR:
            return sent
        assert len(sent) > 2
        first, second, *rest = sent
        return (encode_frame(0, second[48:]), encode_frame(1, first[48:]), *rest)

    session = Session(federation, tmp_path, alter_frames=frames).run()
    assert_goes_on(session, HONEST)
    refusal(*session.reasons(LIAR))


# r5.


def unmask_changed(session: Session, change: dict[PartyId, m.Share | None]) -> None:
    """Let party 2 reveal other shares: None takes one out."""

    def make(packet: m.Packet) -> m.Packet:
        unmask = content(packet)
        assert isinstance(unmask, m.Unmask)
        shares = {**unmask.shares, **{k: v for k, v in change.items() if v is not None}}
        for owner in (owner for owner, value in change.items() if value is None):
            del shares[owner]
        return m.Packet(session.sign(LIAR, m.Unmask(shares)))

    session.alter = instead_of(LIAR, m.Unmask, make)


@pytest.mark.lie(
    role="party",
    lie="reveals the wrong kind of share, one for an outsider, or one too few",
    round="r5",
    refused_by="INVALID_SHARE",
)
@pytest.mark.parametrize(
    "change",
    [
        {PartyId(3): m.MaskKeyShare(SHARE)},
        {PartyId(3): None},
        {PartyId(6): m.SelfMaskShare(SHARE)},
    ],
    ids=["wrong kind", "one missing", "of a stranger"],
)
def test_shares_that_were_not_asked_for_drop_their_sender(
    change: dict[PartyId, m.Share | None],
    federation: TestFederation,
    tmp_path: Path,
    refusal: Refusal,
) -> None:
    session = Session(federation, tmp_path)
    unmask_changed(session, change)
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert session.reasons(LIAR) == [AbortReason.INVALID_SHARE]
    refusal(*session.reasons(LIAR))


@pytest.mark.lie(
    role="party",
    lie="reveals the self-mask share of a dropped party",
    round="r5",
    refused_by="INVALID_SHARE",
)
def test_the_self_mask_share_of_a_dropped_party_is_refused(
    tmp_path: Path, refusal: Refusal
) -> None:
    federation = build_federation(6)
    session = Session(federation, tmp_path)
    unmask_changed(session, {PartyId(6): m.SelfMaskShare(SHARE)})
    inner = session.alter

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        if party == 6 and kind_of(packet) is m.Contribute:
            return ()
        return inner(party, packet)

    session.alter = alter
    session.run()
    assert federation.plan.threshold == 5
    # Party 6 is gone already, so the liar's share is one too few.
    assert_nothing_opened(session, AbortReason.BELOW_THRESHOLD)
    refusal(session.reasons(LIAR)[0])


@pytest.mark.lie(
    role="party",
    lie="reveals both kinds of share of one owner",
    round="r5",
    refused_by="MalformedMessageError",
)
def test_both_kinds_of_share_for_one_owner_cannot_be_encoded(
    federation: TestFederation, refusal: Refusal
) -> None:
    # The message is a mapping, and two entries of one owner do not decode.
    one = m.Unmask({PartyId(1): m.SelfMaskShare(SHARE)})
    other = m.Unmask({PartyId(1): m.MaskKeyShare(SHARE)})
    with pytest.raises(MalformedMessageError) as caught:
        decode_body(m.KINDS[m.Unmask], encode_body(one) + encode_body(other))
    refusal(caught.value)


@pytest.mark.parametrize("liar", [1, 2, 5])
def test_wrong_shares_do_not_spoil_a_sum_that_enough_right_ones_support(
    liar: int, federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        unmask = content(packet)
        assert isinstance(unmask, m.Unmask)
        shares = {owner: m.SelfMaskShare(SHARE) for owner in unmask.shares}
        return m.Packet(session.sign(PartyId(liar), m.Unmask(dict(shares))))

    session.alter = instead_of(liar, m.Unmask, make)
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert not session.refusals


def test_a_share_beyond_the_field_does_not_spoil_the_sum(
    federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)
    unmask_changed(session, {PartyId(3): m.SelfMaskShare(b"\xff" * 33)})
    session.run()
    assert_goes_on(session, HONEST | {LIAR})


@pytest.mark.parametrize("silent", [5, None])
def test_too_few_right_shares_open_nothing(
    silent: int | None, federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        if kind_of(packet) is not m.Unmask:
            return (packet,)
        if party == silent:
            return ()
        if party != LIAR and (silent is not None or party != 3):
            return (packet,)
        unmask = content(packet)
        assert isinstance(unmask, m.Unmask)
        shares = {**unmask.shares, PartyId(4): m.SelfMaskShare(SHARE)}
        return (m.Packet(session.sign(party, m.Unmask(shares))),)

    session.alter = alter
    session.run()
    assert isinstance(session.coordinator.state, a.Aborted)
    assert session.coordinator.state.reason is AbortReason.INVALID_SHARE
    assert session.coordinator.state.culprit is None
    assert not session.sums
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.lie(
    role="party",
    lie="shared another self-mask seed than it committed to",
    round="r5",
    refused_by="INVALID_SHARE",
)
def test_shares_of_a_wrong_secret_open_nothing(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    # Party 2 commits to one self-mask seed and shares another one.
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        keys = content(packet)
        assert isinstance(keys, m.ShareKeys)
        envelope = committed(session, replace(keys, self_mask_commitment=bytes(32)))
        return m.Packet(envelope, packet.attachments)

    session.alter = instead_of(LIAR, m.ShareKeys, make)
    session.run()
    refusal(assert_nothing_opened(session, AbortReason.INVALID_SHARE))


@pytest.mark.lie(
    role="party",
    lie="shared another mask key than it advertised",
    round="r5",
    refused_by="INVALID_SHARE",
)
def test_shares_of_a_wrong_secret_of_a_dropped_party_open_nothing(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    # Party 2 shares another mask key than the one it advertised, and falls silent in r3.
    session = Session(federation, tmp_path)
    other = AgreementKey.from_secret(bytes(range(32)))

    def make(packet: m.Packet) -> Iterable[m.Packet]:
        if kind_of(packet) is m.Contribute:
            return ()
        if kind_of(packet) is m.Advertise:
            state = session.states[LIAR]
            assert isinstance(state, s.AwaitingRoster)
            advertise = m.Advertise(other.public, state.seal_key.public)
            envelope = session.sign(LIAR, advertise)
            session.states[LIAR] = replace(state, advertisement=envelope)
            return (m.Packet(envelope),)
        return (packet,)

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        return make(packet) if party == LIAR else (packet,)

    session.alter = alter
    session.run()
    refusal(assert_nothing_opened(session, AbortReason.INVALID_SHARE))


# Any round.

SENT = (
    m.Advertise,
    m.ShareKeys,
    m.Confirm,
    m.Contribute,
    m.ConfirmSurvivors,
    m.Unmask,
    m.VerifyUpdate,
)
BEFORE_R4 = SENT[:4]


@pytest.mark.lie(
    role="party",
    lie="answers a second time, differently",
    round="any",
    refused_by="UnexpectedMessageError",
)
@pytest.mark.parametrize("message", SENT, ids=lambda kind: kind.__name__)
def test_a_second_different_answer_does_not_replace_the_first(
    message: type[m.Message], federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)
    others: dict[type[m.Message], m.Message] = {
        m.Advertise: m.Advertise(bytes([9]) * 32, bytes([10]) * 32),
        m.ShareKeys: m.ShareKeys(bytes(32), bytes(32), {}),
        m.Confirm: m.Confirm(bytes(32)),
        m.Contribute: m.Contribute(1, 1, bytes(32)),
        m.ConfirmSurvivors: m.ConfirmSurvivors(bytes(32)),
        m.Unmask: m.Unmask({PartyId(1): m.SelfMaskShare(SHARE)}),
        m.VerifyUpdate: m.VerifyUpdate(bytes(32), bytes(32)),
    }

    def make(packet: m.Packet) -> Iterable[m.Packet]:
        return (packet, m.Packet(session.sign(LIAR, others[message])))

    session.alter = instead_of(LIAR, message, make)
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert session.reasons(LIAR) == ["UnexpectedMessageError"]
    refusal(*session.reasons(LIAR))


@pytest.mark.parametrize("message", SENT, ids=lambda kind: kind.__name__)
def test_the_same_answer_twice_is_acknowledged_and_counts_once(
    message: type[m.Message], federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)
    session.alter = instead_of(LIAR, message, lambda packet: (packet, packet, packet))
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert not session.refusals


@pytest.mark.lie(
    role="party",
    lie="signs in another party's name",
    round="any",
    refused_by="InvalidSignatureError",
)
@pytest.mark.parametrize("message", SENT, ids=lambda kind: kind.__name__)
def test_a_message_in_another_partys_name_is_refused_and_the_other_still_answers(
    message: type[m.Message], federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> Iterable[m.Packet]:
        # Party 2 signs its own content as party 5, who has not answered yet.
        stolen = replace(packet.envelope, sender=PartyId(5))
        return (replace(packet, envelope=stolen), packet)

    session.alter = instead_of(LIAR, message, make)
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert session.reasons(5) == ["InvalidSignatureError"]
    refusal(*session.reasons(5))


@pytest.mark.lie(
    role="party",
    lie="leaves in another party's name",
    round="any",
    refused_by="InvalidSignatureError",
)
def test_nobody_leaves_in_another_partys_name(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> Iterable[m.Packet]:
        farewell = session.sign(LIAR, m.Abort(AbortReason.PARTY_LEFT, PartyId(5)))
        return (m.Packet(replace(farewell, sender=PartyId(5))), packet)

    session.alter = instead_of(LIAR, m.Confirm, make)
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    refusal(*session.reasons(5))


def test_an_abort_that_blames_another_party_costs_only_its_sender(
    federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)

    def make(_packet: m.Packet) -> m.Packet:
        return m.Packet(session.sign(LIAR, m.Abort(AbortReason.INVALID_SHARE, PartyId(5))))

    session.alter = instead_of(LIAR, m.Confirm, make)
    session.run()
    assert_goes_on(session, HONEST)


@pytest.mark.lie(
    role="party",
    lie="comes back in a later round after it was dropped",
    round="any",
    refused_by="UnexpectedMessageError",
)
@pytest.mark.parametrize("message", BEFORE_R4, ids=lambda kind: kind.__name__)
def test_a_party_that_was_dropped_cannot_come_back_in_a_later_round(
    message: type[m.Message], federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        if party == LIAR and kind_of(packet) is message:
            return ()
        if party == 1 and session.coordinator.round_name > "r3" and message is not m.Contribute:
            session.deliver(m.Packet(session.sign(LIAR, m.Confirm(bytes(32)))))
        if party == 1 and kind_of(packet) is m.ConfirmSurvivors:
            session.deliver(m.Packet(session.sign(LIAR, m.ConfirmSurvivors(bytes(32)))))
        return (packet,)

    session.alter = alter
    session.run()
    assert_goes_on(session, HONEST)
    assert "UnexpectedMessageError" in session.reasons(LIAR)
    dropouts = session.coordinator.records[0].dropouts
    assert [dropout.party for dropout in dropouts] == [LIAR]
    refusal(*session.reasons(LIAR))


def test_messages_of_an_earlier_task_are_refused_in_the_next(tmp_path: Path) -> None:
    federation = build_federation(5, layers=2)
    session = Session(federation, tmp_path)
    earlier: list[m.Packet] = []

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        if party != LIAR:
            return (packet,)
        if packet.envelope.context.task == 0:
            earlier.append(packet)
            return (packet,)
        # A whole replay is acknowledged and ignored; pasted into this task it is no signature.
        pasted = [
            replace(old, envelope=replace(old.envelope, context=packet.envelope.context))
            for old in earlier
            if old.envelope.kind == packet.envelope.kind
        ]
        session.coordinator._accepted.clear()
        return (*earlier, *(p for p in pasted if p.envelope.kind != 90), packet)

    session.alter = alter
    session.run()
    assert len(session.coordinator.records) == 2
    assert session.coordinator.records[1].survivors == HONEST | {LIAR}
    np.testing.assert_array_equal(
        session.sums[SECOND], plain_sum(federation, HONEST | {LIAR}, SECOND)
    )
    assert set(session.reasons(LIAR)) <= {
        "UnexpectedMessageError",
        "MalformedMessageError",
        "InvalidSignatureError",
    }
    assert session.reasons(LIAR)


def test_a_replay_of_a_whole_earlier_message_changes_nothing(
    federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)
    earlier: list[m.Packet] = []

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        replays = tuple(earlier)
        earlier.append(packet)
        return (*replays, packet)

    session.alter = alter
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert not session.refusals


@pytest.mark.lie(
    role="party",
    lie="replays its messages of another session",
    round="any",
    refused_by="UnexpectedMessageError",
)
def test_messages_of_another_session_are_refused(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    recorded: dict[type[m.Message], m.Packet] = {}

    def record(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        if party == LIAR:
            recorded[kind_of(packet)] = packet
        return (packet,)

    randomness = {PartyId(end): InsecureTestRandomness(77 + end) for end in range(6)}
    Session(federation, tmp_path / "first", alter=record, randomness=randomness).run()
    session = Session(federation, tmp_path / "second")

    def replay(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        return (recorded[kind_of(packet)],) if party == LIAR else (packet,)

    session.alter = replay
    session.run()
    assert_goes_on(session, HONEST)
    assert session.reasons(LIAR)[0] == "UnexpectedMessageError"
    refusal(session.reasons(LIAR)[0])


# Leaving, and coming to the next task.


def test_a_party_that_leaves_after_verifying_is_not_waited_for_in_the_next_task(
    tmp_path: Path,
) -> None:
    federation = build_federation(5, layers=2)
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> Iterable[m.Packet]:
        return (packet, m.Packet(session.sign(LIAR, m.Abort(AbortReason.PARTY_LEFT, LIAR))))

    session.alter = instead_of(LIAR, m.VerifyUpdate, make)
    session.run()
    assert session.coordinator._setup.expected == HONEST


def test_a_party_that_is_silent_in_r4_is_not_waited_for_in_r5(
    federation: TestFederation, tmp_path: Path
) -> None:
    rounds: list[str] = []

    def observe(event: str, fields: object) -> None:
        if event == "round-closed":
            assert isinstance(fields, dict)
            rounds.append(fields["round"])

    session = Session(federation, tmp_path, observer=observe)
    session.alter = instead_of(LIAR, m.ConfirmSurvivors, lambda _packet: ())
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert rounds == ["r4-survivors"]


@pytest.mark.lie(
    role="party",
    lie="seals a share under the associated data of somebody else",
    round="r1",
    refused_by="INVALID_SEAL",
)
def test_a_party_whose_own_share_was_resealed_for_another_context_is_named(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    # Party 2 seals its share for party 1 under the associated data of party 3.
    session = Session(federation, tmp_path)

    def make(packet: m.Packet) -> m.Packet:
        keys = content(packet)
        state = session.states[LIAR]
        assert isinstance(keys, m.ShareKeys)
        assert isinstance(state, s.AwaitingShares)
        sealed = seal(
            sender=state.seal_key,
            receiver_public=state.roster[PartyId(1)].seal_public,
            plaintext=bytes(98),
            associated_data=share_associated_data(
                state.setup.context, sender=LIAR, receiver=PartyId(3)
            ),
            randomness=state.setup.randomness,
        )
        digests = {**keys.digests, PartyId(1): hashlib.sha256(sealed).digest()}
        envelope = committed(session, replace(keys, digests=digests))
        return m.Packet(envelope, (sealed, *packet.attachments[1:]))

    session.alter = instead_of(LIAR, m.ShareKeys, make)
    session.run()
    victim = session.states[PartyId(1)]
    assert isinstance(victim, s.Aborted)
    assert (victim.reason, victim.culprit) == (AbortReason.INVALID_SEAL, LIAR)
    refusal(victim.reason)


# Accusations are kept.


def test_who_was_accused_of_a_bad_seal_is_in_the_log_and_the_report(
    federation: TestFederation, tmp_path: Path
) -> None:
    events: list[dict[str, object]] = []

    def observe(event: str, fields: object) -> None:
        if event == "dropped":
            assert isinstance(fields, dict)
            events.append(fields)

    session = Session(federation, tmp_path, observer=observe)

    def make(packet: m.Packet) -> m.Packet:
        keys = content(packet)
        assert isinstance(keys, m.ShareKeys)
        digests = {**keys.digests, PartyId(1): hashlib.sha256(bytes(126)).digest()}
        envelope = committed(session, replace(keys, digests=digests))
        return m.Packet(envelope, (bytes(126), *packet.attachments[1:]))

    session.alter = instead_of(LIAR, m.ShareKeys, make)
    session.run()
    said = {
        "party": "party-1",
        "round": "r2-confirm",
        "reason": "INVALID_SEAL",
        "accuses": "party-2",
    }
    assert events == [{"task": 0, **said}]
    assert session.coordinator.records[0].to_dict(federation.plan)["dropouts"] == [said]


def test_silence_is_no_accusation(federation: TestFederation, tmp_path: Path) -> None:
    session = Session(federation, tmp_path, alter=instead_of(LIAR, m.Confirm, lambda _packet: ()))
    session.run()
    report = session.coordinator.records[0].to_dict(federation.plan)
    assert report["dropouts"] == [{"party": "party-2", "round": "r2-confirm"}]


def test_a_false_accusation_is_filed_with_its_author(
    federation: TestFederation, tmp_path: Path
) -> None:
    session = Session(federation, tmp_path)

    def make(_packet: m.Packet) -> m.Packet:
        return m.Packet(session.sign(LIAR, m.Abort(AbortReason.INVALID_SHARE, PartyId(5))))

    session.alter = instead_of(LIAR, m.Confirm, make)
    session.run()
    assert_goes_on(session, HONEST)
    (dropout,) = session.coordinator.records[0].dropouts
    assert dropout == a.Dropout(LIAR, "r2-confirm", AbortReason.INVALID_SHARE, PartyId(5))


def deal_badly(session: Session, *victims: int) -> None:
    """Let party 2 deal these parties shares that are off its polynomials, duly sealed."""

    def make(packet: m.Packet) -> m.Packet:
        keys = content(packet)
        state = session.states[LIAR]
        assert isinstance(keys, m.ShareKeys)
        assert isinstance(state, s.AwaitingShares)
        receivers = sorted(keys.digests)
        attachments = dict(zip(receivers, packet.attachments, strict=True))
        for victim in (PartyId(victim) for victim in victims):
            attachments[victim] = seal(
                sender=state.seal_key,
                receiver_public=state.roster[victim].seal_public,
                plaintext=bytes([0, *[victim] * 32]) * 2 + state.group_part,
                associated_data=share_associated_data(
                    state.setup.context, sender=LIAR, receiver=victim
                ),
                randomness=state.setup.randomness,
            )
        digests = {to: hashlib.sha256(attachments[to]).digest() for to in receivers}
        envelope = committed(session, replace(keys, digests=digests))
        return m.Packet(envelope, tuple(attachments[to] for to in receivers))

    session.alter = instead_of(LIAR, m.ShareKeys, make)


def test_one_share_that_was_dealt_wrong_is_outvoted_and_reported(
    federation: TestFederation, tmp_path: Path
) -> None:
    reported: list[object] = []
    session = Session(
        federation,
        tmp_path,
        observer=lambda event, fields: reported.append(fields) if event == "wrong-shares" else None,
    )
    deal_badly(session, 4)
    session.run()
    assert_goes_on(session, HONEST | {LIAR})
    assert reported == [{"task": 0, "owner": "party-2", "revealed_by": ["party-4"]}]


@pytest.mark.lie(
    role="party",
    lie="deals shares that are off its polynomial to more receivers than can be outvoted",
    round="r1",
    refused_by="INVALID_SHARE",
)
def test_shares_off_one_polynomial_open_nothing_and_say_who_it_can_have_been(
    federation: TestFederation, tmp_path: Path, refusal: Refusal
) -> None:
    session = Session(federation, tmp_path)
    deal_badly(session, 1, 4)
    session.run()
    assert_nothing_opened(session, AbortReason.INVALID_SHARE)
    state = session.coordinator.state
    assert isinstance(state, a.Aborted)
    assert state.culprit is None
    assert "party 2 dealt wrong ones, or at least 2 of the 5 parties" in state.detail
    refusal(state.reason)
