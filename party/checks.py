"""What a party refuses of relayed lists, keys and sealed shares (SPEC 4.1 to 4.3)."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from collabedit.crypto.agreement import check_public
from collabedit.crypto.kdf import SECRET_BYTES, commit, is_equal
from collabedit.crypto.sealed import Channel
from collabedit.crypto.shamir import SHARE_BYTES
from collabedit.errors import AbortReason, InvalidPublicKeyError, InvalidSealError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.proto.statements import (
    RefusalError,
    open_list,
    owner_context,
    share_associated_data,
)

T = TypeVar("T", bound=m.Message)


def blame_aggregator(reason: AbortReason, detail: str) -> RefusalError:
    """Build the refusal of something that only the aggregator can have caused."""
    return RefusalError(reason, detail, culprit=AGGREGATOR)


def open_relayed(
    setup: s.TaskSetup,
    envelopes: Sequence[m.Envelope],
    expected: type[T],
    *,
    allowed: Collection[PartyId],
) -> dict[PartyId, T]:
    """Open a list that the aggregator relayed, by the plan's floor and identities (SPEC 4, L1-L5).

    Raises:
        RefusalError: see `open_list`.
    """
    return open_list(
        envelopes,
        expected,
        context=setup.context,
        identities=setup.plan.identity,
        allowed=allowed,
        threshold=setup.plan.threshold,
        relay=AGGREGATOR,
    )


def check_own(envelopes: tuple[m.Envelope, ...], me: PartyId, sent: m.Envelope) -> None:
    """Check that a relayed list holds our own statement as we sent it.

    Raises:
        RefusalError: MISSING_SELF or ALTERED_OWN_MESSAGE.
    """
    own = [envelope for envelope in envelopes if envelope.sender == me]
    if not own:
        raise blame_aggregator(AbortReason.MISSING_SELF, "a list leaves out this party")
    if own[0].body != sent.body:
        raise blame_aggregator(
            AbortReason.ALTERED_OWN_MESSAGE, "a list holds another statement than we sent"
        )


def check_keys(roster: Mapping[PartyId, m.Advertise]) -> None:
    """Check that every advertised key is a usable point and nobody else's.

    Raises:
        RefusalError: INVALID_PUBLIC_KEY. At fault is the party that signed an unusable key or one
            key twice; of two parties with one key, either may have copied it, but an honest
            aggregator would have refused the second.
    """
    seen: set[bytes] = set()
    for party, keys in roster.items():
        if keys.mask_public == keys.seal_public:
            raise RefusalError(
                AbortReason.INVALID_PUBLIC_KEY, f"party {party} repeats a key", culprit=party
            )
        for public in (keys.mask_public, keys.seal_public):
            try:
                check_public(public)
            except InvalidPublicKeyError as error:
                raise RefusalError(
                    AbortReason.INVALID_PUBLIC_KEY, f"party {party}: {error}", culprit=party
                ) from error
            # Two parties with one key would share their masks; an honest party draws its own.
            if public in seen:
                raise blame_aggregator(
                    AbortReason.INVALID_PUBLIC_KEY, f"party {party} has another party's key"
                )
            seen.add(public)


def open_share(
    state: s.AwaitingShares, sender: PartyId, commitment: m.ShareKeys, sealed: bytes
) -> tuple[s.HeldShares, bytes]:
    """Open what `sender` sealed for us: its two shares, and its part of the group secret.

    Raises:
        RefusalError: it isn't what the sender signed, doesn't open, or contradicts a commitment.
    """
    setup = state.setup
    # SPEC 4.2(c): the share that arrives is the one that was signed.
    if not is_equal(hashlib.sha256(sealed).digest(), commitment.digests[setup.me]):
        raise blame_aggregator(
            AbortReason.DIGEST_MISMATCH, f"sealed share of party {sender} was replaced"
        )
    try:
        channel = state.channels.get(sender)
        if channel is None:
            channel = Channel(state.seal_key, state.roster[sender].seal_public)
        plaintext = channel.open(
            sealed,
            associated_data=share_associated_data(setup.context, sender=sender, receiver=setup.me),
        )
    except InvalidSealError as error:
        raise RefusalError(
            AbortReason.INVALID_SEAL, f"share of party {sender} does not open", culprit=sender
        ) from error
    if len(plaintext) != 2 * SHARE_BYTES + SECRET_BYTES:
        raise RefusalError(
            AbortReason.INVALID_SEAL, f"share of party {sender} has a wrong size", culprit=sender
        )
    part = plaintext[2 * SHARE_BYTES :]
    expected = commit("group-part", owner_context(setup.context, sender), part)
    if not is_equal(expected, commitment.group_commitment):
        raise RefusalError(
            AbortReason.INVALID_SHARE,
            f"party {sender} committed to another group contribution",
            culprit=sender,
        )
    held = s.HeldShares(plaintext[:SHARE_BYTES], plaintext[SHARE_BYTES : 2 * SHARE_BYTES])
    return held, part
