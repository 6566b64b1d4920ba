"""What a party remembers of the aggregator's statements, to prove a lie to a third person.

The states of `task` keep what the next round needs, and a refusal there is this party's word. The
`Witness` stands before them: it keeps the aggregator's first statement of each kind of the current
task as it was signed, stops the party at a second, different one, and when a statement is refused
looks for statements that prove the lie by themselves (`proto.evidence`). Whatever it reports was
verified before, so that nobody is sent away with a file that convinces no one.
"""

from collabedit.errors import (
    AbortReason,
    CryptoError,
    InvalidEvidenceError,
    MalformedMessageError,
)
from collabedit.ids import AGGREGATOR
from collabedit.party import states as s
from collabedit.party.task import advance, receive
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.envelope import verify_signature
from collabedit.proto.evidence import (
    Evidence,
    EvidenceKind,
    EvidenceSink,
    repetition_reason,
    statement_name,
    verify,
)

_ROSTER, _SHARES = m.KINDS[m.Roster], m.KINDS[m.RelayShares]

_FORKS = {
    _SHARES: (EvidenceKind.ROSTER_FORK, (_ROSTER,)),
    m.KINDS[m.Confirmed]: (EvidenceKind.ROSTER_FORK, (_ROSTER, _SHARES)),
    m.KINDS[m.SurvivorsConfirmed]: (
        EvidenceKind.SURVIVOR_FORK,
        (_ROSTER, _SHARES, m.KINDS[m.ProposeSurvivors]),
    ),
    m.KINDS[m.UpdateVerified]: (EvidenceKind.UPDATE_FORK, (m.KINDS[m.Release],)),
}
"""What a statement may contradict, in the order of the proof (SPEC 11.2)."""


class Witness:
    """Memory of one session, one task at a time.

    Args:
        plan: the party's own.
        sink: given all evidence; None if nobody collects it.
    """

    def __init__(self, plan: Plan, sink: EvidenceSink | None = None) -> None:
        self._plan = plan
        self._sink = sink
        self._context: m.Context | None = None
        self._first: dict[int, m.Envelope] = {}

    def __repr__(self) -> str:
        return f"Witness({len(self._first)} statements)"

    def receive(self, state: s.State, packet: m.Packet) -> s.Step:
        """Apply one packet like `task.receive`, but stop at a statement that contradicts another.

        Raises:
            UnexpectedMessageError, InvalidSignatureError, MalformedMessageError: see
                `task.receive`; `state` stays valid.
        """
        envelope = packet.envelope
        if isinstance(state, s.Completed | s.Aborted):
            return receive(state, packet)
        first = self._remember(state.setup.context, envelope)
        reason = repetition_reason(AGGREGATOR, envelope.kind)
        if first is not None and reason is not None:
            name = statement_name(envelope.kind)
            detail = f"the aggregator signed a second, different {name}"
            kind = EvidenceKind.REPEATED_STATEMENT
            self._report(kind, (first, envelope), detail)
            return advance(state, s.Contradicted(reason, detail))
        try:
            step = receive(state, packet)
        except MalformedMessageError as error:
            if not self._explain(envelope, str(error)):
                raise
            # Not bytes that somebody damaged on the way: the aggregator signed them.
            return advance(state, s.Contradicted(AbortReason.MALFORMED_MESSAGE, str(error)))
        if isinstance(step.state, s.Aborted):
            self._explain(envelope, step.state.detail)
        return step

    def _remember(self, context: m.Context, envelope: m.Envelope) -> m.Envelope | None:
        """Keep a first statement of its kind; return the first one if this is a different one."""
        if context != self._context:
            self._context = context
            self._first.clear()
        if envelope.sender != AGGREGATOR or envelope.context != context:
            return None
        if repetition_reason(AGGREGATOR, envelope.kind) is None:
            return None
        first = self._first.get(envelope.kind)
        # The same body again is a repeated delivery; also after a restart of the aggregator.
        if first is not None and first.body == envelope.body:
            return None
        try:
            verify_signature(envelope, identities=self._plan.identity)
        except CryptoError:
            return None  # nobody's statement; `receive` refuses it
        if first is None:
            self._first[envelope.kind] = envelope
        return first

    def _explain(self, last: m.Envelope, detail: str) -> bool:
        """Report what proves that the refused statement `last` is a lie; say whether that is so."""
        if self._report(EvidenceKind.INVALID_RELAY, (last,), detail):
            return True
        if last.kind not in _FORKS:
            return False
        kind, before = _FORKS[last.kind]
        if not all(earlier in self._first for earlier in before):
            return False
        statements = tuple(self._first[earlier] for earlier in before)
        return self._report(kind, (*statements, last), detail)

    def _report(self, kind: EvidenceKind, envelopes: tuple[m.Envelope, ...], detail: str) -> bool:
        evidence = Evidence(kind, AGGREGATOR, envelopes, _printable(detail))
        try:
            verify(evidence, self._plan)
        except InvalidEvidenceError:
            return False
        if self._sink is not None:
            self._sink(evidence)
        return True


def _printable(detail: str) -> str:
    """Cut a line for people to what a file of evidence may hold (SPEC 11.3)."""
    return detail.encode("ascii", "replace").decode("ascii")[:500]
