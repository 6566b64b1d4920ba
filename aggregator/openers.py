"""r5 of encrypted sums: one party opens the sum, or nobody does (SPEC 4.12)."""

from dataclasses import replace

from collabedit.aggregator import states as s
from collabedit.errors import AbortReason
from collabedit.ids import PartyId
from collabedit.proto import messages as m
from collabedit.proto.statements import RefusalError


def opener_gone(opener: PartyId) -> RefusalError:
    """Build the refusal that ends a task whose sum nobody else may open."""
    return RefusalError(
        AbortReason.OPENER_GONE,
        f"party {opener} alone may open the sum, and is not there; nobody takes its place, since "
        "of two openings the second could be of another sum",
        culprit=opener,
    )


def hindrance(state: s.Summing | s.CollectingOpening) -> RefusalError | None:
    """Return why the sum must not be opened any more: its opener left, or too many others did."""
    if state.opener in state.progress.gone:
        return opener_gone(state.opener)
    left, threshold = state.confirmed - state.progress.gone, state.progress.setup.plan.threshold
    if len(left) < threshold:
        return RefusalError(
            AbortReason.BELOW_THRESHOLD,
            f"{len(left)} parties are left to verify, the plan asks for {threshold}",
            culprit=None,
        )
    return None


def offered(state: s.Summing, event: s.Summed) -> s.CollectingOpening:
    """Wait for the opener of a sum that is stored."""
    return s.CollectingOpening(
        state.progress, state.survivors, state.opener, state.confirmed, event.sum_digest
    )


def on_sum_opened(
    state: s.CollectingOpening, sender: PartyId, message: m.SumOpened, packet: m.Packet
) -> s.State:
    """File what the opener says it uploaded.

    Raises:
        RefusalError: of another sum, or of another length; the opener is the culprit.
    """
    del packet
    setup = state.progress.setup
    if message.sum_digest != state.sum_digest:
        raise RefusalError(AbortReason.DIGEST_MISMATCH, "another sum was offered", culprit=sender)
    wanted = setup.plan.statistics_length(setup.context.task)
    if message.elements != wanted:
        raise RefusalError(
            AbortReason.MALFORMED_MESSAGE,
            f"{message.elements} opened integers where the plan has {wanted}",
            culprit=sender,
        )
    return replace(state, answers={**state.answers, sender: message})


def end_opening(state: s.CollectingOpening, progress: s.Progress) -> s.Step:
    """Go on to the merge."""
    awaiting = state.confirmed - progress.gone
    return s.Step(s.Opening(progress, state.survivors, (), awaiting, opener=state.opener))
