"""From revealed shares to the masks that the sum still carries (SPEC 4.6).

A share is never taken on trust: a self-mask seed must meet its owner's commitment, a mask key must
give the public key that its owner advertised. If the first t shares don't, other sets of t are
tried, so one wrong share cannot spoil a sum that enough right ones support. Without a set that
fits, nothing is opened. With one, shares that are not on its polynomial are reported: whoever
revealed them altered them, or their owner dealt them so.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from collabedit.aggregator.states import StrayShare
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.kdf import commit, is_equal
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, pair_mask_key, pair_sign, self_mask_key
from collabedit.crypto.shamir import combine
from collabedit.errors import AbortReason, InvalidShareError
from collabedit.ids import PartyId
from collabedit.proto.envelope import context_fields
from collabedit.proto.messages import Advertise, Context, ShareKeys, Unmask
from collabedit.proto.neighbours import find_neighbours
from collabedit.proto.statements import RefusalError, owner_context

MAXIMUM_SUBSETS = 2000
"""Sets of t shares to try before giving up: every one or two liars among 60 parties, every single
one in any plan, as long as t right shares are left."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The masks that a sum carries, and the shares that did not fit while others did."""

    masks: tuple[SignedMask, ...] = field(repr=False)
    strays: tuple[StrayShare, ...]


def recover_masks(
    context: Context,
    *,
    roster: Mapping[PartyId, Advertise],
    sharers: Mapping[PartyId, ShareKeys],
    survivors: frozenset[PartyId],
    revealed: Mapping[PartyId, Unmask],
    threshold: int,
) -> Recovered:
    """Reconstruct each survivor's self mask and each dropped party's masks with the survivors.

    Args:
        context: of the task.
        roster: advertised keys of the transcript's parties.
        sharers: commitments of the transcript's parties, and thereby who chose whom.
        survivors: whose vectors are in the sum.
        revealed: who revealed what; one kind of share for each owner, checked on arrival.
        threshold: shares that determine a secret: the graph's, not the plan's.

    Raises:
        RefusalError: BELOW_THRESHOLD, if too few of an owner's holders answered; INVALID_SHARE, if
            no set of shares leads to its secret.
    """
    masks: list[SignedMask] = []
    strays: list[StrayShare] = []
    for owner in sorted(sharers):
        shares = {
            sender: unmask.shares[owner].value
            for sender, unmask in revealed.items()
            if owner in unmask.shares
        }
        if len(shares) < threshold:
            raise RefusalError(
                AbortReason.BELOW_THRESHOLD,
                f"{len(shares)} holders of a share of party {owner} answered, {threshold} needed",
                culprit=None,
            )
        if owner in survivors:
            seed, wrong = _reconstruct(
                shares,
                threshold=threshold,
                owner=owner,
                public_image=partial(commit, "self-mask", owner_context(context, owner)),
                expected=sharers[owner].self_mask_commitment,
            )
            key = self_mask_key(seed, owner_context(context, owner))
            masks.append(SignedMask(1, Keystream(key)))
            strays += wrong
            continue
        secret, wrong = _reconstruct(
            shares,
            threshold=threshold,
            owner=owner,
            public_image=_mask_public,
            expected=roster[owner].mask_public,
        )
        strays += wrong
        agreement = AgreementKey.from_secret(secret)
        for survivor in sorted(survivors & find_neighbours(owner, sharers)):
            key = pair_mask_key(agreement, roster[survivor].mask_public, context_fields(context))
            masks.append(SignedMask(pair_sign(survivor, owner), Keystream(key)))
    return Recovered(tuple(masks), tuple(strays))


def _mask_public(secret: bytes) -> bytes:
    return AgreementKey.from_secret(secret).public


def _subsets(parties: Sequence[PartyId], threshold: int) -> Iterator[tuple[PartyId, ...]]:
    """List the sets of `threshold` parties: as if nobody lied, then one, then two, and so on.

    In the order of `itertools.combinations` thousands of sets would hold the same first party.
    """
    seen = set()
    for liars in range(len(parties) - threshold + 1):
        for left_out in itertools.combinations(parties, liars):
            subset = tuple(party for party in parties if party not in left_out)[:threshold]
            if subset not in seen:
                seen.add(subset)
                yield subset


def _reconstruct(
    shares: Mapping[PartyId, bytes],
    *,
    threshold: int,
    owner: PartyId,
    public_image: Callable[[bytes], bytes],
    expected: bytes,
) -> tuple[bytes, list[StrayShare]]:
    tried = 0
    for subset in itertools.islice(_subsets(sorted(shares), threshold), MAXIMUM_SUBSETS):
        tried += 1
        fitting = {party: shares[party] for party in subset}
        try:
            secret = combine(fitting, threshold=threshold)
        except InvalidShareError:
            continue
        if is_equal(public_image(secret), expected):
            wrong = _off_polynomial(shares, fitting, threshold=threshold)
            return secret, [StrayShare(owner, wrong)] if wrong else []
    # All sets were tried unless their number was cut off; then an honest owner means many liars.
    blame = f"party {owner} dealt wrong ones"
    if tried < MAXIMUM_SUBSETS:
        liars = len(shares) - threshold + 1
        blame += f", or at least {liars} of the {len(shares)} parties that revealed them lied"
    raise RefusalError(
        AbortReason.INVALID_SHARE,
        f"no {threshold} shares of party {owner} lead to what it committed to: {blame}",
        culprit=None,
    )


def _off_polynomial(
    shares: Mapping[PartyId, bytes], fitting: Mapping[PartyId, bytes], *, threshold: int
) -> tuple[PartyId, ...]:
    """List whose shares are not on the polynomial of degree t - 1 through the t `fitting` ones."""

    def fits(others: Mapping[PartyId, bytes]) -> bool:
        try:
            combine({**fitting, **others}, threshold=threshold)
        except InvalidShareError:
            return False
        return True

    if fits(shares):
        return ()
    return tuple(
        party
        for party in sorted(shares.keys() - fitting.keys())
        if not fits({party: shares[party]})
    )
