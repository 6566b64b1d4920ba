"""The opener's part of a task as pure transitions (SPEC 4.12).

All survivors agreed on one set in r4, and its lowest id opens the sum over it: so there is one
opener and one sum for each key. What it is offered is bound by digest before it is fetched.
"""

from collections.abc import Mapping

from collabedit.ciphertexts import choose_opener, offer_bytes
from collabedit.errors import AbortReason
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party.checks import blame_aggregator
from collabedit.proto import messages as m
from collabedit.proto.envelope import sign_message
from collabedit.proto.statements import RefusalError


def signed_seeds(
    setup: s.TaskSetup, contributions: Mapping[PartyId, m.Contribute]
) -> dict[PartyId, bytes]:
    """Return the seeds' digests that contributors signed; none of them with masked sums.

    Raises:
        RefusalError: one is missing, or there where it has no meaning: the aggregator relayed what
            it had to refuse.
    """
    encrypted = setup.plan.is_encrypted
    for party, contribution in contributions.items():
        if bool(contribution.seeds) != encrypted:
            raise blame_aggregator(
                AbortReason.MALFORMED_MESSAGE,
                f"Contribute of party {party} has {'no' if encrypted else 'a'} digest of seeds",
            )
    return {party: each.seeds for party, each in contributions.items() if encrypted}


def after_survivors(state: s.AwaitingSurvivorConfirmations) -> s.Step:
    """r5: the opener waits for the sum, the others for what comes of it."""
    if state.setup.me == choose_opener(state.survivors):
        return s.Step(s.AwaitingSum(state.setup, state.survivors, state.group_secret, state.seeds))
    return s.Step(s.AwaitingRelease(state.setup, state.survivors, state.group_secret))


def on_offer(state: s.AwaitingSum, message: m.OfferSum, attachments: tuple[bytes, ...]) -> s.Step:
    """r5: the sum is there; the driver fetches and opens it."""
    del attachments
    setup = state.setup
    wanted = offer_bytes(setup.plan, setup.context.task, len(state.survivors))
    if message.sum_bytes != wanted:
        raise blame_aggregator(
            AbortReason.MALFORMED_MESSAGE,
            f"a sum of {message.sum_bytes} bytes, the plan has {wanted}",
        )
    return s.Step(
        s.OpeningSum(
            setup,
            state.survivors,
            state.group_secret,
            state.seeds,
            message.sum_digest,
            message.sum_bytes,
        )
    )


def on_decrypted(state: s.OpeningSum, event: s.Uploaded) -> s.Step:
    """r5: say what was uploaded."""
    setup = state.setup
    opened = m.SumOpened(state.sum_digest, event.elements, event.tiles, event.root)
    envelope = sign_message(opened, context=setup.context, sender=setup.me, key=setup.identity)
    following = s.AwaitingRelease(setup, state.survivors, state.group_secret)
    return s.Step(following, (m.Packet(envelope),))


def on_refused(state: s.OpeningSum, event: s.SumRefused) -> s.Step:
    """r5: nothing is released."""
    del state
    raise RefusalError(event.reason, event.detail, culprit=event.culprit)
