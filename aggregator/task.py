"""One secure sum as the aggregator sees it: rounds r0 to r6 as pure transitions (SPEC 4).

Every statement is checked here exactly as parties check it, so that one bad message costs its
sender and nobody else: `receive` raises, the state stays, the sender is told. What the aggregator
relays is what it received, byte for byte.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from collabedit.aggregator import states as s
from collabedit.aggregator.openers import (
    end_opening,
    hindrance,
    offered,
    on_sum_opened,
    opener_gone,
)
from collabedit.aggregator.rounds import ROUNDS, expected, waiting_for
from collabedit.aggregator.unmasking import recover_masks
from collabedit.ciphertexts import choose_opener
from collabedit.crypto.agreement import check_public
from collabedit.crypto.graph import plan_neighbourhood
from collabedit.errors import AbortReason, InvalidPublicKeyError, UnexpectedMessageError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.proto import messages as m
from collabedit.proto.envelope import open_envelope, sign_message
from collabedit.proto.neighbours import check_receivers, find_owners
from collabedit.proto.statements import RefusalError, roster_transcript, survivor_transcript
from collabedit.proto.votes import accepts, check_vote, rejection


def start_task(setup: s.TaskSetup) -> s.State:
    """Wait for advertisements of `setup.expected`."""
    return s.CollectingAdvertisements(s.Progress(setup))


def _sign(progress: s.Progress, message: m.Message) -> m.Packet:
    setup = progress.setup
    envelope = sign_message(message, context=setup.context, sender=AGGREGATOR, key=setup.identity)
    return m.Packet(envelope)


def _to_all(
    progress: s.Progress, receivers: frozenset[PartyId], message: m.Message
) -> tuple[s.Outbound, ...]:
    packet = _sign(progress, message)
    return tuple(s.Outbound(party, packet) for party in sorted(receivers))


def _in_order(envelopes: Mapping[PartyId, m.Envelope]) -> tuple[m.Envelope, ...]:
    return tuple(envelopes[party] for party in sorted(envelopes))


# Answers: one function for each round checks a statement and files it.


def _on_advertise(
    state: s.CollectingAdvertisements, sender: PartyId, message: m.Advertise, packet: m.Packet
) -> s.State:
    keys = (message.mask_public, message.seal_public)
    others = {
        key for answer in state.answers.values() for key in (answer.mask_public, answer.seal_public)
    }
    try:
        for key in keys:
            check_public(key)
    except InvalidPublicKeyError as error:
        raise RefusalError(AbortReason.INVALID_PUBLIC_KEY, str(error), culprit=sender) from error
    if keys[0] == keys[1] or others & set(keys):
        raise RefusalError(AbortReason.INVALID_PUBLIC_KEY, "a key is repeated", culprit=sender)
    return replace(
        state,
        envelopes={**state.envelopes, sender: packet.envelope},
        answers={**state.answers, sender: message},
    )


def _on_share_keys(
    state: s.CollectingShares, sender: PartyId, message: m.ShareKeys, packet: m.Packet
) -> s.State:
    check_receivers(
        message,
        sender=sender,
        roster=state.roster,
        degree=state.graph.degree,
        culprit=sender,
    )
    digests = [hashlib.sha256(sealed).digest() for sealed in packet.attachments]
    if digests != [message.digests[receiver] for receiver in sorted(message.digests)]:
        raise RefusalError(
            AbortReason.DIGEST_MISMATCH, "sealed shares do not match their digests", culprit=sender
        )
    return replace(
        state,
        packets={**state.packets, sender: packet},
        answers={**state.answers, sender: message},
    )


def _on_confirm(
    state: s.CollectingConfirmations, sender: PartyId, message: m.Confirm, packet: m.Packet
) -> s.State:
    if message.transcript != state.transcript:
        raise RefusalError(AbortReason.ROSTER_FORK, "another transcript", culprit=sender)
    return replace(state, answers={**state.answers, sender: packet.envelope})


def _on_contribute(
    state: s.CollectingContributions, sender: PartyId, message: m.Contribute, packet: m.Packet
) -> s.State:
    setup = state.progress.setup
    wanted = setup.plan.upload_length(setup.context.task)
    if message.elements != wanted:
        raise RefusalError(
            AbortReason.MALFORMED_MESSAGE,
            f"{message.elements} elements where the plan has {wanted}",
            culprit=sender,
        )
    if bool(message.seeds) != setup.plan.is_encrypted:
        raise RefusalError(
            AbortReason.MALFORMED_MESSAGE,
            "seeds are signed with backend ckks, and with no other",
            culprit=sender,
        )
    return replace(
        state,
        envelopes={**state.envelopes, sender: packet.envelope},
        answers={**state.answers, sender: message},
    )


def _on_confirm_survivors(
    state: s.CollectingSurvivorConfirmations,
    sender: PartyId,
    message: m.ConfirmSurvivors,
    packet: m.Packet,
) -> s.State:
    if message.transcript != state.survivor_transcript:
        raise RefusalError(AbortReason.SURVIVOR_FORK, "another survivor set", culprit=sender)
    return replace(state, answers={**state.answers, sender: packet.envelope})


def _on_unmask(
    state: s.CollectingUnmaskings, sender: PartyId, message: m.Unmask, _: m.Packet
) -> s.State:
    if message.shares.keys() != find_owners(sender, state.sharers):
        raise RefusalError(
            AbortReason.INVALID_SHARE,
            "shares are not of the transcript's parties that chose the sender, and its own",
            culprit=sender,
        )
    for owner, share in message.shares.items():
        if isinstance(share, m.SelfMaskShare) != (owner in state.survivors):
            raise RefusalError(
                AbortReason.INVALID_SHARE, f"wrong kind of share of party {owner}", culprit=sender
            )
    return replace(state, answers={**state.answers, sender: message})


def _on_verify(
    state: s.CollectingVerifications, sender: PartyId, message: m.VerifyUpdate, packet: m.Packet
) -> s.State:
    if (message.update_digest, message.sum_digest) != (state.update_digest, state.sum_digest):
        raise RefusalError(AbortReason.UPDATE_FORK, "another update or sum", culprit=sender)
    setup = state.progress.setup
    check_vote(setup.plan, setup.context, message, sender=sender, culprit=sender)
    votes = {**state.votes, sender: message.vote}
    return replace(
        state,
        answers={**state.answers, sender: packet.envelope},
        votes=votes if setup.plan.is_voted(setup.context.task) else {},
    )


# Ends of rounds: one function for each round, given that enough parties answered.


def _end_advertise(state: s.CollectingAdvertisements, progress: s.Progress) -> s.Step:
    envelopes = _in_order(state.envelopes)
    setup = progress.setup
    graph = plan_neighbourhood(setup.plan, len(state.answers), task=setup.context.task)
    following = s.CollectingShares(progress, envelopes, dict(state.answers), graph)
    return s.Step(following, _to_all(progress, frozenset(state.answers), m.Roster(envelopes)))


def _end_share(state: s.CollectingShares, progress: s.Progress) -> s.Step:
    commitments = tuple(state.packets[party].envelope for party in sorted(state.packets))
    relay = _sign(progress, m.RelayShares(commitments)).envelope
    sealed: dict[PartyId, list[bytes]] = {party: [] for party in sorted(state.answers)}
    for sender in sorted(state.answers):
        receivers = sorted(state.answers[sender].digests)
        for receiver, data in zip(receivers, state.packets[sender].attachments, strict=True):
            if receiver in sealed:
                sealed[receiver].append(data)
    outbound = tuple(
        s.Outbound(receiver, m.Packet(relay, tuple(data))) for receiver, data in sealed.items()
    )
    transcript = roster_transcript(
        progress.setup.context,
        advertisements=state.advertisements,
        commitments=commitments,
    )
    following = s.CollectingConfirmations(
        progress,
        {party: state.roster[party] for party in state.answers},
        dict(state.answers),
        state.graph,
        transcript,
    )
    return s.Step(following, outbound)


def _end_confirm(state: s.CollectingConfirmations, progress: s.Progress) -> s.Step:
    confirmed = frozenset(state.answers)
    following = s.CollectingContributions(
        progress, state.roster, state.sharers, state.graph, state.transcript, confirmed
    )
    message = m.Confirmed(_in_order(state.answers))
    return s.Step(following, _to_all(progress, confirmed, message))


def _end_contribute(state: s.CollectingContributions, progress: s.Progress) -> s.Step:
    survivors = frozenset(state.answers)
    contributions = _in_order(state.envelopes)
    transcript = survivor_transcript(
        progress.setup.context, roster=state.transcript, contributions=contributions
    )
    following = s.CollectingSurvivorConfirmations(
        progress, state.roster, state.sharers, state.graph, survivors, transcript
    )
    message = m.ProposeSurvivors(contributions)
    return s.Step(following, _to_all(progress, survivors, message))


def _end_survivors(state: s.CollectingSurvivorConfirmations, progress: s.Progress) -> s.Step:
    confirmed = frozenset(state.answers)
    message = m.SurvivorsConfirmed(_in_order(state.answers))
    following: s.State
    if progress.setup.plan.is_encrypted:
        opener = choose_opener(state.survivors)
        if opener not in confirmed - progress.gone:
            return _abort(state, progress, opener_gone(opener))
        following = s.Summing(progress, state.survivors, opener, confirmed)
    else:
        following = s.CollectingUnmaskings(
            progress, state.roster, state.sharers, state.graph, state.survivors, confirmed
        )
    return s.Step(following, _to_all(progress, confirmed, message))


def _end_unmask(state: s.CollectingUnmaskings, progress: s.Progress) -> s.Step:
    setup = progress.setup
    try:
        recovered = recover_masks(
            setup.context,
            roster=state.roster,
            sharers=state.sharers,
            survivors=state.survivors,
            revealed=state.answers,
            threshold=state.graph.threshold,
        )
    except RefusalError as refusal:
        return _abort(state, progress, refusal)
    return s.Step(
        s.Opening(
            progress,
            state.survivors,
            recovered.masks,
            frozenset(state.answers),
            recovered.strays,
        )
    )


def _end_verify(state: s.CollectingVerifications, progress: s.Progress) -> s.Step:
    # Whoever verified and then left is not there for the next task.
    present = frozenset(state.answers) - progress.gone
    # Sent whether the votes keep the update or not: the list is the proof, and parties count it.
    outbound = _to_all(progress, present, m.UpdateVerified(_in_order(state.answers)))
    plan, votes = progress.setup.plan, state.votes
    if plan.is_voted(progress.setup.context.task) and not accepts(plan, votes):
        refusal = rejection(plan, votes)
        return s.Step(
            s.Aborted(refusal.reason, refusal.culprit, str(refusal), progress.dropouts, votes),
            outbound,
        )
    following = s.Completed(
        state.survivors, present, state.update_digest, state.sum_digest, progress.dropouts, votes
    )
    return s.Step(following, outbound)


_File: TypeAlias = Callable[[Any, PartyId, Any, m.Packet], s.State]
MESSAGES: Mapping[tuple[type[s.State], type[m.Message]], _File] = {
    (s.CollectingAdvertisements, m.Advertise): _on_advertise,
    (s.CollectingShares, m.ShareKeys): _on_share_keys,
    (s.CollectingConfirmations, m.Confirm): _on_confirm,
    (s.CollectingContributions, m.Contribute): _on_contribute,
    (s.CollectingSurvivorConfirmations, m.ConfirmSurvivors): _on_confirm_survivors,
    (s.CollectingUnmaskings, m.Unmask): _on_unmask,
    (s.CollectingOpening, m.SumOpened): on_sum_opened,
    (s.CollectingVerifications, m.VerifyUpdate): _on_verify,
}
_ENDS: Mapping[type[s.State], Callable[[Any, s.Progress], s.Step]] = {
    s.CollectingAdvertisements: _end_advertise,
    s.CollectingShares: _end_share,
    s.CollectingConfirmations: _end_confirm,
    s.CollectingContributions: _end_contribute,
    s.CollectingSurvivorConfirmations: _end_survivors,
    s.CollectingUnmaskings: _end_unmask,
    s.CollectingOpening: end_opening,
    s.CollectingVerifications: _end_verify,
}
_TYPES = {kind: message for message, kind in m.KINDS.items()}


def receive(state: s.State, packet: m.Packet) -> s.Step:
    """Apply one packet of a party.

    The caller has checked that the sender which the envelope names is the one who is connected.

    Raises:
        UnexpectedMessageError: not legal in `state`, a second answer, or from a party that this
            round isn't about.
        InvalidSignatureError: not signed by the pinned identity.
        MalformedMessageError: not a message of this task.
        RefusalError: it breaks a rule; the sender is the culprit.
        In all cases `state` stays valid.
    """
    envelope = packet.envelope
    kind, sender = _TYPES[envelope.kind], envelope.sender
    if isinstance(state, s.Completed | s.Aborted):
        raise UnexpectedMessageError(f"{kind.__name__} in {type(state).__name__}")
    setup = state.progress.setup
    if sender not in setup.expected:
        raise UnexpectedMessageError(f"{kind.__name__} of party {sender}, who is not in this task")
    if kind is m.Abort:
        farewell = open_envelope(
            envelope, m.Abort, context=setup.context, identities=setup.plan.identity
        )
        return _leave(state, sender, farewell)
    file = MESSAGES.get((type(state), kind))
    if isinstance(state, s.Summing | s.Opening) or file is None:
        raise UnexpectedMessageError(f"{kind.__name__} in {type(state).__name__}")
    if sender not in waiting_for(state):
        raise UnexpectedMessageError(f"party {sender} has answered or is not in this round")
    message: m.Message = open_envelope(
        envelope, kind, context=setup.context, identities=setup.plan.identity
    )
    filed = file(state, sender, message, packet)
    return s.Step(filed) if waiting_for(filed) else _end_round(filed)


def advance(state: s.State, event: s.Event) -> s.Step:
    """Apply an event of the aggregator's own driver.

    Raises:
        UnexpectedMessageError: the event makes no sense in `state`.
    """
    if isinstance(state, s.Summing):
        if isinstance(event, s.Summed):
            refusal = hindrance(state)
            if refusal is not None:
                return _abort(state, state.progress, refusal)
            receiver = frozenset({state.opener})
            offer = m.OfferSum(event.sum_digest, event.sum_bytes)
            return s.Step(offered(state, event), _to_all(state.progress, receiver, offer))
    elif isinstance(state, s.Opening):
        if isinstance(event, s.Merged):
            release = m.Release(event.update_digest, event.update_bytes, event.sum_digest)
            following = s.CollectingVerifications(
                state.progress,
                state.survivors,
                state.awaiting,
                event.update_digest,
                event.sum_digest,
            )
            return s.Step(following, _to_all(state.progress, state.awaiting, release))
    elif isinstance(event, s.RoundClosed) and not isinstance(state, s.Completed | s.Aborted):
        return _end_round(state)
    if isinstance(state, s.Summing | s.Opening) and isinstance(event, s.MergeRefused):
        refusal = RefusalError(event.reason, event.detail, culprit=None)
        return _abort(state, state.progress, refusal)
    raise UnexpectedMessageError(f"{type(event).__name__} in {type(state).__name__}")


def _leave(state: s.Collecting | s.Working, party: PartyId, farewell: m.Abort) -> s.Step:
    progress = state.progress
    if party in progress.gone:
        return s.Step(state)
    farewells = {**progress.farewells, party: farewell}
    left = replace(
        state, progress=replace(progress, gone=progress.gone | {party}, farewells=farewells)
    )
    if isinstance(left, s.Summing | s.Opening):
        return s.Step(left)
    if isinstance(left, s.CollectingOpening):
        refusal = hindrance(left)
        if refusal is None:
            return s.Step(left)
        if refusal.reason is AbortReason.BELOW_THRESHOLD:
            return _abort(left, left.progress, refusal)
    answered = set(left.answers)
    if not isinstance(left, s.CollectingVerifications):
        # What they signed stays in the lists, but they will not answer what comes next.
        answered -= left.progress.gone
    possible = len(waiting_for(left)) + len(answered)
    if waiting_for(left) and possible >= progress.setup.plan.threshold:
        return s.Step(left)
    return _end_round(left)


def _end_round(state: s.State) -> s.Step:
    assert not isinstance(state, s.Summing | s.Opening | s.Completed | s.Aborted)  # noqa: S101
    progress = state.progress
    name = ROUNDS[type(state)]
    known = {dropout.party for dropout in progress.dropouts}
    silent = sorted(expected(state) - state.answers.keys() - known)
    progress = replace(
        progress,
        dropouts=progress.dropouts + tuple(_dropout(progress, party, name) for party in silent),
    )
    if isinstance(state, s.CollectingOpening):
        if not state.answers:
            return _abort(state, progress, opener_gone(state.opener))
        return _ENDS[type(state)](state, progress)
    threshold = progress.setup.plan.threshold
    going_on = set(state.answers)
    if not isinstance(state, s.CollectingVerifications):
        # Nobody is given up, and no sum is opened, for rounds that too few are left for.
        going_on -= progress.gone
    if len(going_on) < threshold:
        refusal = RefusalError(
            AbortReason.BELOW_THRESHOLD,
            f"{len(going_on)} parties answered in {name}, the plan asks for {threshold}",
            culprit=None,
        )
        return _abort(state, progress, refusal)
    step = _ENDS[type(state)](state, progress)
    if isinstance(step.state, s.Aborted) and not step.state.votes:
        return step  # told everybody; after a vote the late ones are still to be told
    late = frozenset(silent) - progress.gone
    # Told at once, so that a slow party stops instead of waiting for rounds that go on without it.
    notices = tuple(
        s.Outbound(party, _sign(progress, m.Abort(AbortReason.TIMEOUT, party)))
        for party in sorted(late)
    )
    return s.Step(step.state, step.outbound + notices)


def _dropout(progress: s.Progress, party: PartyId, round_name: str) -> s.Dropout:
    farewell = progress.farewells.get(party)
    if farewell is None:
        return s.Dropout(party, round_name)
    return s.Dropout(party, round_name, farewell.reason, farewell.culprit)


def _abort(state: s.Collecting | s.Working, progress: s.Progress, refusal: RefusalError) -> s.Step:
    # Dropouts of earlier rounds were told when they dropped, the silent ones of this round not yet.
    told = {dropout.party for dropout in state.progress.dropouts}
    ended = s.Aborted(refusal.reason, refusal.culprit, str(refusal), progress.dropouts)
    farewell = m.Abort(refusal.reason, refusal.culprit)
    receivers = progress.setup.expected - progress.gone - told
    return s.Step(ended, _to_all(progress, receivers, farewell))
