"""Evidence: signed statements that prove to a third person that their signer broke the protocol.

SPEC 11. Somebody who trusts neither side needs the plan, for the pinned identities, and the
envelopes; nothing that a party says *about* them counts. Each proof rests on one sentence of the
form "an honest holder of this key never signs these", and the sentence is checked here:

* `repeated-statement`: two different bodies of one kind in one context. An aggregator signs exactly
  one Roster, RelayShares, Confirmed, ProposeSurvivors, SurvivorsConfirmed, Release and
  UpdateVerified of a task, whoever it sends it to; a party exactly one statement of each round.
  Signatures are deterministic, and a repeated or resumed delivery has the same bytes.
* `roster-fork`: the aggregator relays, in Confirmed, a Confirm of another transcript than the one
  that follows from its own Roster and RelayShares; or, in RelayShares, shares of or for somebody
  outside of its own Roster. An honest one refuses such a Confirm (SPEC 4.3(d)), and such shares
  (SPEC 4.2(g)).
* `survivor-fork`: the same of ProposeSurvivors and SurvivorsConfirmed (SPEC 4.5(d)).
* `update-fork`: the same of Release and UpdateVerified (SPEC 4.7(d)).
* `invalid-relay`: one list of the aggregator that does not decode, or relays an entry that is not
  of a party of the plan, is of another context or kind, does not decode, is not signed, or votes
  where no vote is asked, or not where one is. An honest one checks each entry before it relays it
  (SPEC 4).

*Can a lying party make an honest aggregator look guilty?* No. Every proof against the aggregator
needs its signature on each of the statements that contradict each other or themselves. What a party
signs enters only as an entry which an honest aggregator refuses: a Confirm of an invented
transcript never gets into Confirmed. All statements of a proof have one context, and of each kind
an honest aggregator signed only one there, so its statements of two tasks or for two parties cannot
be combined into a contradiction.

*Can a cheating aggregator frame a party?* Forks and relays accuse the aggregator alone, whatever
its lists hold. A repeated statement needs two signatures of the party's own key in one context. The
session id is the aggregator's choice, so it could have a party sign anew in an old session's
context by using the id again: a party therefore writes each session down and enters none twice
(`party.sessions`). Whoever takes that memory away, or runs one identity in two places, does sign
two statements; the proof says what the key signed, not why.

*What a fork does not prove*: that two lists exist. Either the aggregator showed somebody other
lists than these, or it relayed a wrong statement of a party that lies with it. Both end the task;
an honest aggregator does neither.

`Unmask` holds shares and is never evidence, neither on its own nor as an entry of a list.
"""

import contextlib
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from collabedit.acceptance import Vote
from collabedit.errors import (
    AbortReason,
    CryptoError,
    InvalidEvidenceError,
    MalformedMessageError,
)
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from collabedit.proto.envelope import check_identities, open_envelope, verify_signature
from collabedit.proto.statements import (
    RefusalError,
    reason_of,
    roster_transcript,
    survivor_transcript,
)
from collabedit.proto.votes import check_vote

T = TypeVar("T", bound=m.Message)


class EvidenceKind(enum.StrEnum):
    """Which sentence about an honest signer the envelopes contradict. Values are stable."""

    REPEATED_STATEMENT = "repeated-statement"
    ROSTER_FORK = "roster-fork"
    SURVIVOR_FORK = "survivor-fork"
    UPDATE_FORK = "update-fork"
    INVALID_RELAY = "invalid-relay"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Statements of one signer. Proves nothing until `verify` returned.

    Attributes:
        kind: what they are said to prove.
        accused: who signed them all, 0 for the aggregator.
        envelopes: byte for byte as they came, in the order of SPEC 11.2.
        note: how it was found, one line for people; no part of the proof.
    """

    kind: EvidenceKind
    accused: PartyId
    envelopes: tuple[m.Envelope, ...] = field(repr=False)
    note: str = field(default="", compare=False)


EvidenceSink: TypeAlias = Callable[[Evidence], None]
"""Receives evidence that was verified before."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence proves, against whom, and where.

    Attributes:
        kind: as claimed, and now proven.
        accused: the signer's id.
        name: its name in the plan.
        session_id: 32 bytes.
        task: the secure sum.
        round: `r0` to `r6`, of the last statement.
        reason: the rule.
        detail: one line for people.
    """

    kind: EvidenceKind
    accused: PartyId
    name: str
    session_id: bytes
    task: TaskIndex
    round: str
    reason: AbortReason
    detail: str


_REPEATED: Mapping[type[m.Message], AbortReason] = {
    m.Roster: AbortReason.ROSTER_FORK,
    m.RelayShares: AbortReason.ROSTER_FORK,
    m.Confirmed: AbortReason.ROSTER_FORK,
    # Whoever answers both would reveal both kinds of share of an owner.
    m.ProposeSurvivors: AbortReason.REPEATED_OPENING,
    m.SurvivorsConfirmed: AbortReason.REPEATED_OPENING,
    # Whoever opens both tells their difference, and about the key.
    m.OfferSum: AbortReason.REPEATED_OPENING,
    m.Release: AbortReason.UPDATE_FORK,
    m.UpdateVerified: AbortReason.UPDATE_FORK,
}
_REPEATED_BY_PARTY: Mapping[type[m.Message], AbortReason] = {
    m.Advertise: AbortReason.ROSTER_FORK,
    m.ShareKeys: AbortReason.ROSTER_FORK,
    m.Confirm: AbortReason.ROSTER_FORK,
    m.Contribute: AbortReason.SURVIVOR_FORK,
    m.ConfirmSurvivors: AbortReason.SURVIVOR_FORK,
    m.SumOpened: AbortReason.REPEATED_OPENING,
    m.VerifyUpdate: AbortReason.UPDATE_FORK,
}
_ENTRIES: Mapping[type[m.Message], tuple[str, type[m.Message]]] = {
    m.Roster: ("advertisements", m.Advertise),
    m.RelayShares: ("commitments", m.ShareKeys),
    m.Confirmed: ("confirmations", m.Confirm),
    m.ProposeSurvivors: ("contributions", m.Contribute),
    m.SurvivorsConfirmed: ("confirmations", m.ConfirmSurvivors),
    m.UpdateVerified: ("confirmations", m.VerifyUpdate),
}
_TYPES = {kind: message for message, kind in m.KINDS.items()}
_UNMASK = m.KINDS[m.Unmask]


def repetition_reason(accused: PartyId, kind: int) -> AbortReason | None:
    """Return why `accused` must not sign this kind twice in a task; None if it may.

    Unmask must not be repeated either, but is never evidence: see the module.
    """
    rules = _REPEATED if accused == AGGREGATOR else _REPEATED_BY_PARTY
    return rules.get(_TYPES[kind])


def round_of(kind: int) -> str:
    """Return the round that a kind of statement belongs to, `r0` to `r6` (SPEC 3.2)."""
    return f"r{kind // 10 - 1}"


def verify(evidence: Evidence, plan: Plan) -> Verdict:
    """Check that the envelopes prove what `evidence` claims, by the plan's identities alone.

    Raises:
        InvalidEvidenceError: they do not; says why.
        PlanError: an identity of the plan is no usable key.
    """
    check_identities(plan)
    accused, envelopes = evidence.accused, evidence.envelopes
    if accused != AGGREGATOR and accused not in plan.party_ids:
        raise InvalidEvidenceError(f"party {accused} is not in the plan")
    counts, prove = _PROOFS[evidence.kind]
    if len(envelopes) not in counts:
        raise InvalidEvidenceError(
            f"{evidence.kind} is not proven by {len(envelopes)} statements but by "
            f"{' or '.join(map(str, counts))}"
        )
    for envelope in envelopes:
        _check_statement(envelope, evidence, plan)
    reason, detail = prove(envelopes, plan)
    last = envelopes[-1]
    return Verdict(
        kind=evidence.kind,
        accused=accused,
        name=plan.party_name(accused),
        session_id=last.context.session_id,
        task=last.context.task,
        round=round_of(last.kind),
        reason=reason,
        detail=detail,
    )


def _check_statement(envelope: m.Envelope, evidence: Evidence, plan: Plan) -> None:
    if envelope.kind == _UNMASK:
        raise InvalidEvidenceError("Unmask holds shares and is never evidence: destroy the file")
    if envelope.sender != evidence.accused:
        raise InvalidEvidenceError(
            f"a statement of {envelope.sender}, the accused is {evidence.accused}"
        )
    if evidence.kind is not EvidenceKind.REPEATED_STATEMENT and envelope.sender != AGGREGATOR:
        raise InvalidEvidenceError(f"{evidence.kind} can only be the aggregator's")
    if envelope.context.plan_digest != plan.digest:
        raise InvalidEvidenceError("a statement belongs to another plan")
    if envelope.context != evidence.envelopes[0].context:
        raise InvalidEvidenceError("the statements are of different sessions, tasks or histories")
    try:
        verify_signature(envelope, identities=plan.identity)
    except CryptoError as error:
        raise InvalidEvidenceError(
            f"{statement_name(envelope.kind)} is not signed by "
            f"{plan.party_name(envelope.sender)}: {error}"
        ) from error


def statement_name(kind: int) -> str:
    """Return the name of a kind of statement (SPEC 3.2)."""
    return _TYPES[kind].__name__


_Finding: TypeAlias = tuple[AbortReason, str]


def _prove_repetition(envelopes: tuple[m.Envelope, ...], _: Plan) -> _Finding:
    first, second = envelopes
    name = statement_name(first.kind)
    if first.kind != second.kind:
        raise InvalidEvidenceError(
            f"{name} and {statement_name(second.kind)} are different statements"
        )
    reason = repetition_reason(first.sender, first.kind)
    if reason is None:
        raise InvalidEvidenceError(f"{name} may be signed more than once")
    if first.body == second.body:
        raise InvalidEvidenceError("both statements say the same")
    for envelope in envelopes:
        if _TYPES[envelope.kind] in _ENTRIES:
            # Undecodable bytes were signed all the same, and show no entries to look through.
            with contextlib.suppress(MalformedMessageError):
                _refuse_shares(_entries(envelope))
    return reason, f"two different {name} were signed where one is allowed"


def _prove_relay(envelopes: tuple[m.Envelope, ...], plan: Plan) -> _Finding:
    (envelope,) = envelopes
    if _TYPES[envelope.kind] not in _ENTRIES:
        raise InvalidEvidenceError(f"{statement_name(envelope.kind)} relays nothing")
    try:
        entries = _entries(envelope)
    except MalformedMessageError as error:
        return (
            AbortReason.MALFORMED_MESSAGE,
            f"{statement_name(envelope.kind)} does not decode: {error}",
        )
    _refuse_shares(entries)
    for entry in entries:
        finding = _fault(envelope, entry, plan)
        if finding is not None:
            return finding
    raise InvalidEvidenceError(f"every entry of {statement_name(envelope.kind)} is in order")


def _entries(envelope: m.Envelope) -> tuple[m.Envelope, ...]:
    """Return what a list relays, unchecked.

    Raises:
        MalformedMessageError: the list does not decode.
    """
    field_name, _ = _ENTRIES[_TYPES[envelope.kind]]
    entries: tuple[m.Envelope, ...] = getattr(decode_body(envelope.kind, envelope.body), field_name)
    return entries


def _refuse_shares(entries: Sequence[m.Envelope]) -> None:
    if any(entry.kind == _UNMASK for entry in entries):
        raise InvalidEvidenceError(
            "an Unmask is relayed, which holds shares and is never evidence: destroy the file"
        )


def _fault(relay: m.Envelope, entry: m.Envelope, plan: Plan) -> _Finding | None:
    """Return why an honest aggregator would not have relayed `entry`, None if it would."""
    what = f"{statement_name(relay.kind)} relays, as party {entry.sender}'s,"
    if entry.sender not in plan.party_ids:
        return AbortReason.UNKNOWN_PARTY, f"{what} a statement of nobody in the plan"
    _, expected = _ENTRIES[_TYPES[relay.kind]]
    try:
        opened = open_envelope(entry, expected, context=relay.context, identities=plan.identity)
        if isinstance(opened, m.VerifyUpdate):
            check_vote(plan, relay.context, opened, sender=entry.sender, culprit=AGGREGATOR)
    except (CryptoError, MalformedMessageError, RefusalError) as error:
        return reason_of(error), f"{what} a statement that has to be refused: {error}"
    return None


def _open(envelope: m.Envelope, expected: type[T], plan: Plan) -> T:
    """Open a statement of the aggregator and check all that it relays.

    Raises:
        InvalidEvidenceError: another kind, undecodable, or a relayed entry is invalid itself.
    """
    try:
        opened = open_envelope(
            envelope, expected, context=envelope.context, identities=plan.identity
        )
    except (CryptoError, MalformedMessageError) as error:
        raise InvalidEvidenceError(f"where {expected.__name__} belongs: {error}") from error
    if expected in _ENTRIES:
        entries = _entries(envelope)
        _refuse_shares(entries)
        for entry in entries:
            finding = _fault(envelope, entry, plan)
            if finding is not None:
                # It proves something else, and only one thing is claimed.
                raise InvalidEvidenceError(
                    f"no fork but {EvidenceKind.INVALID_RELAY}: {finding[1]}"
                )
    return opened


def _contradiction(relay: m.Envelope, own: m.Message, what: str) -> str:
    """Return the line that names whose relayed statement is not `own`, the aggregator's.

    Votes may differ: they are their signers' own.

    Raises:
        InvalidEvidenceError: all agree.
    """
    others = [
        str(entry.sender)
        for entry in _entries(relay)
        if _without_vote(decode_body(entry.kind, entry.body)) != own
    ]
    if not others:
        raise InvalidEvidenceError(
            f"{statement_name(relay.kind)} relays no statement of another {what}"
        )
    return (
        f"{statement_name(relay.kind)} relays the signature of party {', '.join(others)} under "
        f"another {what} than the aggregator's own"
    )


def _without_vote(message: m.Message) -> m.Message:
    return replace(message, vote=Vote.NONE) if isinstance(message, m.VerifyUpdate) else message


def _roster(roster: m.Envelope, shares: m.Envelope, plan: Plan) -> bytes:
    return roster_transcript(
        roster.context,
        advertisements=_open(roster, m.Roster, plan).advertisements,
        commitments=_open(shares, m.RelayShares, plan).commitments,
    )


def _prove_roster_fork(envelopes: tuple[m.Envelope, ...], plan: Plan) -> _Finding:
    roster, shares = envelopes[:2]
    own = m.Confirm(_roster(roster, shares, plan))
    if len(envelopes) == 2:
        return AbortReason.ROSTER_FORK, _foreign_shares(roster, shares)
    relay = envelopes[2]
    _open(relay, m.Confirmed, plan)
    return AbortReason.ROSTER_FORK, _contradiction(relay, own, "transcript")


def _foreign_shares(roster: m.Envelope, shares: m.Envelope) -> str:
    """Return the line that names whose relayed shares are not among the aggregator's own roster.

    Raises:
        InvalidEvidenceError: nobody's.
    """
    listed = {entry.sender for entry in _entries(roster)}
    for entry in _entries(shares):
        commitment = decode_body(entry.kind, entry.body)
        assert isinstance(commitment, m.ShareKeys)  # noqa: S101  for mypy; `_open` checked it
        if not {entry.sender, *commitment.digests} <= listed:
            return (
                f"RelayShares relays shares of party {entry.sender} to or from somebody outside "
                "of the aggregator's own roster"
            )
    raise InvalidEvidenceError("RelayShares relays no shares of another roster")


def _prove_survivor_fork(envelopes: tuple[m.Envelope, ...], plan: Plan) -> _Finding:
    roster, shares, proposal, relay = envelopes
    transcript = survivor_transcript(
        relay.context,
        roster=_roster(roster, shares, plan),
        contributions=_open(proposal, m.ProposeSurvivors, plan).contributions,
    )
    _open(relay, m.SurvivorsConfirmed, plan)
    own = m.ConfirmSurvivors(transcript)
    return AbortReason.SURVIVOR_FORK, _contradiction(relay, own, "survivor set")


def _prove_update_fork(envelopes: tuple[m.Envelope, ...], plan: Plan) -> _Finding:
    released, relay = envelopes
    release = _open(released, m.Release, plan)
    _open(relay, m.UpdateVerified, plan)
    own = m.VerifyUpdate(release.update_digest, release.sum_digest)
    return AbortReason.UPDATE_FORK, _contradiction(relay, own, "update or sum")


_PROOFS: Mapping[
    EvidenceKind, tuple[tuple[int, ...], Callable[[tuple[m.Envelope, ...], Plan], _Finding]]
] = {
    EvidenceKind.REPEATED_STATEMENT: ((2,), _prove_repetition),
    EvidenceKind.ROSTER_FORK: ((2, 3), _prove_roster_fork),
    EvidenceKind.SURVIVOR_FORK: ((4,), _prove_survivor_fork),
    EvidenceKind.UPDATE_FORK: ((2,), _prove_update_fork),
    EvidenceKind.INVALID_RELAY: ((1,), _prove_relay),
}
"""For each kind: how many statements it takes, and who checks what they say."""
