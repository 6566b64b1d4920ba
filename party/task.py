"""One secure sum as a party sees it: rounds r0 to r6 as pure transitions (SPEC 4).

Implements Bonawitz et al. 2017 (CCS) in its version for active adversaries, with two departures:
the consistency check of r2 comes before anything is masked and covers every sealed share, and the
survivor set is signed once more (r4) before a single share leaves this party. `receive` takes what
the aggregator sent, `advance` what the party's own driver did; neither does IO, and a message that
the current state doesn't accept raises and changes nothing.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from collabedit.acceptance import Vote
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.graph import choose_receivers, plan_neighbourhood
from collabedit.crypto.kdf import SECRET_BYTES, commit, derive_key, is_equal
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask, pair_mask_key, pair_sign, self_mask_key
from collabedit.crypto.sealed import Channel
from collabedit.crypto.shamir import split
from collabedit.errors import (
    AbortReason,
    UnexpectedMessageError,
)
from collabedit.exchange import bundle_limit
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import states as s
from collabedit.party.checks import (
    blame_aggregator,
    check_keys,
    check_own,
    open_relayed,
    open_share,
)
from collabedit.party.counting import Counter
from collabedit.party.opener import (
    after_survivors,
    on_decrypted,
    on_offer,
    on_refused,
    signed_seeds,
)
from collabedit.proto import messages as m
from collabedit.proto.envelope import context_fields, open_envelope, sign_message
from collabedit.proto.neighbours import check_receivers, find_neighbours, find_owners
from collabedit.proto.statements import (
    RefusalError,
    owner_context,
    roster_transcript,
    share_associated_data,
    survivor_transcript,
)
from collabedit.proto.votes import accepts, check_vote, rejection

Attachments: TypeAlias = tuple[bytes, ...]


def _sign(setup: s.TaskSetup, message: m.Message) -> m.Envelope:
    return sign_message(message, context=setup.context, sender=setup.me, key=setup.identity)


def start_task(setup: s.TaskSetup) -> s.Step:
    """r0: draw this task's two key pairs and advertise them."""
    mask_key = AgreementKey.generate(setup.randomness)
    seal_key = AgreementKey.generate(setup.randomness)
    advertisement = _sign(setup, m.Advertise(mask_key.public, seal_key.public))
    state = s.AwaitingRoster(setup, mask_key, seal_key, advertisement)
    return s.Step(state, (m.Packet(advertisement),))


def _on_roster(state: s.AwaitingRoster, message: m.Roster, _: Attachments) -> s.Step:
    setup, plan = state.setup, state.setup.plan
    roster = open_relayed(setup, message.advertisements, m.Advertise, allowed=plan.party_ids)
    check_own(message.advertisements, setup.me, state.advertisement)
    check_keys(roster)
    seed = setup.randomness.random_bytes(SECRET_BYTES)
    group_part = setup.randomness.random_bytes(SECRET_BYTES)
    graph = plan_neighbourhood(plan, len(roster), task=setup.context.task)
    # SPEC 4.2(a): this party's own draw, so that nobody else decides who guards its secrets.
    receivers = choose_receivers(
        [party for party in roster if party != setup.me], graph.degree, setup.randomness
    )
    holders = sorted((setup.me, *receivers))
    seed_shares = split(
        seed, threshold=graph.threshold, abscissas=holders, randomness=setup.randomness
    )
    key_shares = split(
        state.mask_key.secret(),
        threshold=graph.threshold,
        abscissas=holders,
        randomness=setup.randomness,
    )
    channels = {to: Channel(state.seal_key, roster[to].seal_public) for to in receivers}
    sealed = {
        to: channel.seal(
            seed_shares[to] + key_shares[to] + group_part,
            associated_data=share_associated_data(setup.context, sender=setup.me, receiver=to),
            randomness=setup.randomness,
        )
        for to, channel in channels.items()
    }
    own = owner_context(setup.context, setup.me)
    commitment = _sign(
        setup,
        m.ShareKeys(
            self_mask_commitment=commit("self-mask", own, seed),
            group_commitment=commit("group-part", own, group_part),
            digests={to: hashlib.sha256(data).digest() for to, data in sealed.items()},
        ),
    )
    following = s.AwaitingShares(
        setup,
        message.advertisements,
        roster,
        state.mask_key,
        state.seal_key,
        channels,
        seed,
        group_part,
        s.HeldShares(seed_shares[setup.me], key_shares[setup.me]),
        commitment,
    )
    return s.Step(following, (m.Packet(commitment, tuple(sealed.values())),))


def _on_shares(state: s.AwaitingShares, message: m.RelayShares, attachments: Attachments) -> s.Step:
    setup = state.setup
    commitments = open_relayed(setup, message.commitments, m.ShareKeys, allowed=state.roster)
    check_own(message.commitments, setup.me, state.commitment)
    graph = plan_neighbourhood(setup.plan, len(state.roster), task=setup.context.task)
    degree = graph.degree
    for sender, keys in commitments.items():
        check_receivers(keys, sender=sender, roster=state.roster, degree=degree, culprit=AGGREGATOR)
    owners = sorted(find_owners(setup.me, commitments) - {setup.me})
    if len(attachments) != len(owners):
        raise blame_aggregator(
            AbortReason.MALFORMED_MESSAGE, f"{len(attachments)} sealed shares of {len(owners)}"
        )
    shares = {setup.me: state.own_shares}
    parts = {setup.me: state.group_part}
    for sender, sealed in zip(owners, attachments, strict=True):
        shares[sender], parts[sender] = open_share(state, sender, commitments[sender], sealed)
    transcript = roster_transcript(
        setup.context,
        advertisements=state.advertisements,
        commitments=message.commitments,
    )
    following = s.AwaitingConfirmations(
        setup,
        {party: state.roster[party] for party in commitments},
        find_neighbours(setup.me, commitments),
        transcript,
        shares,
        state.mask_key,
        state.self_mask_seed,
        _group_secret(parts, transcript) if degree == len(state.roster) - 1 else None,
    )
    return s.Step(following, (m.Packet(_sign(setup, m.Confirm(transcript))),))


def _group_secret(parts: Mapping[PartyId, bytes], transcript: bytes) -> bytes:
    joined = b"".join(parts[party] for party in sorted(parts))
    return derive_key(joined, label="group-secret", context=transcript)


def _on_confirmed(state: s.AwaitingConfirmations, message: m.Confirmed, _: Attachments) -> s.Step:
    setup = state.setup
    opened = open_relayed(setup, message.confirmations, m.Confirm, allowed=state.roster)
    if any(confirm.transcript != state.transcript for confirm in opened.values()):
        raise blame_aggregator(AbortReason.ROSTER_FORK, "parties were shown different rosters")
    own = owner_context(setup.context, setup.me)
    if setup.plan.is_encrypted:
        return s.Step(
            s.Contributing(
                setup, frozenset(state.roster), state.transcript, {}, (), state.group_secret
            )
        )
    masks = [SignedMask(1, Keystream(self_mask_key(state.self_mask_seed, own)))]
    masks += [
        SignedMask(
            pair_sign(setup.me, peer),
            Keystream(
                pair_mask_key(
                    state.mask_key, state.roster[peer].mask_public, context_fields(setup.context)
                )
            ),
        )
        for peer in sorted(state.neighbours)
    ]
    if setup.plan.counting(setup.context.task) is not None:
        masks.append(_counter(setup, state.group_secret).pad(setup.me))
    following = s.Contributing(
        setup,
        frozenset(state.roster),
        state.transcript,
        state.shares,
        tuple(masks),
        state.group_secret,
    )
    return s.Step(following)


def _counter(setup: s.TaskSetup, group_secret: bytes | None) -> Counter:
    assert group_secret is not None  # noqa: S101  a counting task has the full graph
    return Counter(setup.plan, setup.context, group_secret)


def _on_uploaded(state: s.Contributing, event: s.Uploaded) -> s.Step:
    message = m.Contribute(event.elements, event.tiles, event.root, event.seeds)
    contribution = _sign(state.setup, message)
    following = s.AwaitingSurvivors(
        state.setup,
        state.parties,
        state.transcript,
        state.shares,
        contribution,
        state.group_secret,
    )
    return s.Step(following, (m.Packet(contribution),))


def _on_survivors(
    state: s.AwaitingSurvivors, message: m.ProposeSurvivors, _: Attachments
) -> s.Step:
    setup = state.setup
    contributions = open_relayed(setup, message.contributions, m.Contribute, allowed=state.parties)
    # SPEC 4.5(b): whoever contributed and is called dropped would be unmasked by what follows.
    check_own(message.contributions, setup.me, state.contribution)
    seeds = signed_seeds(setup, contributions)
    transcript = survivor_transcript(
        setup.context, roster=state.transcript, contributions=message.contributions
    )
    following = s.AwaitingSurvivorConfirmations(
        setup, state.shares, frozenset(contributions), transcript, state.group_secret, seeds
    )
    return s.Step(following, (m.Packet(_sign(setup, m.ConfirmSurvivors(transcript))),))


def _on_survivors_confirmed(
    state: s.AwaitingSurvivorConfirmations, message: m.SurvivorsConfirmed, _: Attachments
) -> s.Step:
    setup = state.setup
    opened = open_relayed(setup, message.confirmations, m.ConfirmSurvivors, allowed=state.survivors)
    if any(confirm.transcript != state.survivor_transcript for confirm in opened.values()):
        raise blame_aggregator(
            AbortReason.SURVIVOR_FORK, "parties were shown different survivor sets"
        )
    if setup.plan.is_encrypted:
        return after_survivors(state)
    # SPEC 4.6(a): one kind of share for each owner; the two kinds together unmask that owner.
    shares: dict[PartyId, m.Share] = {
        owner: m.SelfMaskShare(held.self_mask)
        if owner in state.survivors
        else m.MaskKeyShare(held.mask_key)
        for owner, held in state.shares.items()
    }
    following = s.AwaitingRelease(setup, state.survivors, state.group_secret)
    return s.Step(following, (m.Packet(_sign(setup, m.Unmask(shares))),))


def _on_release(state: s.AwaitingRelease, message: m.Release, _: Attachments) -> s.Step:
    limit = bundle_limit(state.setup.plan, state.setup.context.task)
    if message.update_bytes > limit:
        raise blame_aggregator(
            AbortReason.MALFORMED_MESSAGE,
            f"an update of {message.update_bytes} bytes, the plan allows {limit}",
        )
    return s.Step(
        s.FetchingUpdate(
            state.setup,
            state.survivors,
            message.update_digest,
            message.update_bytes,
            message.sum_digest,
            state.group_secret,
        )
    )


def _on_fetched(state: s.FetchingUpdate, event: s.UpdateFetched) -> s.Step:
    if not is_equal(event.digest, state.update_digest):
        raise blame_aggregator(
            AbortReason.DIGEST_MISMATCH, "the update is not the one that was released"
        )
    setup = state.setup
    if setup.plan.is_voted(setup.context.task) != (event.vote is not Vote.NONE):
        raise UnexpectedMessageError("a vote where none is asked, or none where one is")
    statement = _sign(setup, m.VerifyUpdate(event.digest, state.sum_digest, event.vote))
    following = s.AwaitingVerification(
        setup, state.survivors, event.digest, state.sum_digest, statement, state.group_secret
    )
    return s.Step(following, (m.Packet(statement),))


def _on_refused(state: s.FetchingUpdate, event: s.UpdateRefused) -> s.Step:
    # The aggregator may have lied, or a party contributed check elements of other statistics.
    del state
    raise RefusalError(event.reason, event.detail, culprit=None)


def _on_verified(
    state: s.AwaitingVerification, message: m.UpdateVerified, _: Attachments
) -> s.Step:
    setup = state.setup
    opened = open_relayed(setup, message.confirmations, m.VerifyUpdate, allowed=state.survivors)
    seen = (state.update_digest, state.sum_digest)
    if any((other.update_digest, other.sum_digest) != seen for other in opened.values()):
        raise blame_aggregator(
            AbortReason.UPDATE_FORK, "parties were given different updates or sums"
        )
    for sender, statement in opened.items():
        check_vote(setup.plan, setup.context, statement, sender=sender, culprit=AGGREGATOR)
    votes: dict[PartyId, Vote] = {}
    if setup.plan.is_voted(setup.context.task):
        # Whose vote is left out or changed would otherwise not know that it did not count.
        check_own(message.confirmations, setup.me, state.statement)
        votes = {sender: statement.vote for sender, statement in opened.items()}
        if not accepts(setup.plan, votes):
            # Everybody who voted sees the same list and comes to the same end: nothing to tell.
            return s.Step(_ended(rejection(setup.plan, votes)))
    secret = state.group_secret if setup.plan.needs_secret(setup.context.task) else None
    return s.Step(s.Completed(state.survivors, *seen, votes, secret))


MESSAGES: Mapping[tuple[type[s.State], type[m.Message]], Callable[[Any, Any, Attachments], s.Step]]
MESSAGES = {
    (s.AwaitingRoster, m.Roster): _on_roster,
    (s.AwaitingShares, m.RelayShares): _on_shares,
    (s.AwaitingConfirmations, m.Confirmed): _on_confirmed,
    (s.AwaitingSurvivors, m.ProposeSurvivors): _on_survivors,
    (s.AwaitingSurvivorConfirmations, m.SurvivorsConfirmed): _on_survivors_confirmed,
    (s.AwaitingSum, m.OfferSum): on_offer,
    (s.AwaitingRelease, m.Release): _on_release,
    (s.AwaitingVerification, m.UpdateVerified): _on_verified,
}
EVENTS: Mapping[tuple[type[s.State], type[s.Event]], Callable[[Any, Any], s.Step]] = {
    (s.Contributing, s.Uploaded): _on_uploaded,
    (s.OpeningSum, s.Uploaded): on_decrypted,
    (s.OpeningSum, s.SumRefused): on_refused,
    (s.FetchingUpdate, s.UpdateFetched): _on_fetched,
    (s.FetchingUpdate, s.UpdateRefused): _on_refused,
}
_TYPES = {kind: message for message, kind in m.KINDS.items()}


def receive(state: s.State, packet: m.Packet) -> s.Step:
    """Apply one packet of the aggregator.

    A broken rule leads to `Aborted` with an `Abort` to send; it names the rule and the culprit.

    Raises:
        UnexpectedMessageError: not legal in `state`, or from somebody else; `state` stays valid.
        InvalidSignatureError: not signed by the plan's aggregator; `state` stays valid.
        MalformedMessageError: not a message of this task; `state` stays valid.
    """
    envelope = packet.envelope
    if isinstance(state, s.Completed | s.Aborted):
        raise UnexpectedMessageError(f"kind {envelope.kind} in {type(state).__name__}")
    setup = state.setup
    if envelope.sender != AGGREGATOR:
        raise UnexpectedMessageError(f"statement of party {envelope.sender}, not the aggregator's")
    kind = _TYPES[envelope.kind]
    handler = MESSAGES.get((type(state), kind))
    if handler is None and kind is not m.Abort:
        raise UnexpectedMessageError(f"{kind.__name__} in {type(state).__name__}")
    message: m.Message = open_envelope(
        envelope, kind, context=setup.context, identities=setup.plan.identity
    )
    if isinstance(message, m.Abort):
        if message.reason is AbortReason.UPDATE_REJECTED:
            # SPEC 4.7(i): the proof of a rejection is the list of votes, never the word.
            claim = "the aggregator calls the update rejected and shows no votes"
            return _abort(setup, blame_aggregator(AbortReason.MALFORMED_MESSAGE, claim))
        return s.Step(
            s.Aborted(message.reason, message.culprit, "the aggregator ended the session")
        )
    if handler is None:
        raise UnexpectedMessageError(f"{kind.__name__} in {type(state).__name__}")
    try:
        return handler(state, message, packet.attachments)
    except RefusalError as refusal:
        return _abort(setup, refusal)


def advance(state: s.State, event: s.Event) -> s.Step:
    """Apply what the party's own driver did.

    Raises:
        UnexpectedMessageError: the event makes no sense in `state`.
    """
    if isinstance(state, s.Completed | s.Aborted):
        raise UnexpectedMessageError(f"{type(event).__name__} in {type(state).__name__}")
    if isinstance(event, s.LeaveSession):
        refusal = RefusalError(event.reason, "this party left the session", culprit=state.setup.me)
        return _abort(state.setup, refusal)
    if isinstance(event, s.Contradicted):
        return _abort(state.setup, blame_aggregator(event.reason, event.detail))
    handler = EVENTS.get((type(state), type(event)))
    if handler is None:
        raise UnexpectedMessageError(f"{type(event).__name__} in {type(state).__name__}")
    try:
        return handler(state, event)
    except RefusalError as refusal:
        return _abort(state.setup, refusal)


def _abort(setup: s.TaskSetup, refusal: RefusalError) -> s.Step:
    farewell = _sign(setup, m.Abort(refusal.reason, refusal.culprit))
    return s.Step(_ended(refusal), (m.Packet(farewell),))


def _ended(refusal: RefusalError) -> s.Aborted:
    return s.Aborted(refusal.reason, refusal.culprit, str(refusal))
