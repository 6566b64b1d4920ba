"""What the aggregator remembers of the parties' statements, to prove a lie to a third person.

A party signs one statement of each round. The states of `task` file the first and refuse the
second as unexpected, which is all that the session needs. The `Witness` compares them, and if they
differ reports both (`proto.evidence`): with two sets of keys, survivors or updates under its name a
party helps to show institutions different things. The session goes on with what was filed.
"""

import hashlib
from collections.abc import Callable, Mapping

from collabedit.errors import CryptoError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.envelope import verify_signature
from collabedit.proto.evidence import (
    Evidence,
    EvidenceKind,
    EvidenceSink,
    repetition_reason,
    statement_name,
)

LARGEST_STATEMENT = 1 << 16
"""Bytes of a body that are remembered. `ShareKeys` among 500 parties has 20 kB; an honest party
sends nothing larger, and what a hostile one sends must not fill memory or disk."""

_UNMASK = m.KINDS[m.Unmask]


class Witness:
    """Memory of one session, one task at a time.

    Args:
        plan: the session's.
        sink: given evidence, once for each party; None if nobody collects it.
        observer: told of each party that equivocates, as (event, fields).
    """

    def __init__(
        self,
        plan: Plan,
        sink: EvidenceSink | None = None,
        observer: Callable[[str, Mapping[str, object]], None] = lambda _event, _fields: None,
    ) -> None:
        self._plan = plan
        self._sink = sink
        self._observer = observer
        self._context: m.Context | None = None
        self._first: dict[tuple[PartyId, int], m.Envelope] = {}
        # An Unmask holds shares: enough of it is kept to tell it from another, and no more.
        self._unmasked: dict[PartyId, bytes] = {}
        self._caught: set[PartyId] = set()

    def __repr__(self) -> str:
        return f"Witness({len(self._first)} statements, caught {sorted(self._caught)})"

    def see(self, context: m.Context, envelope: m.Envelope) -> None:
        """Compare a delivery, before it is judged, with what its sender signed in this task."""
        if context != self._context:
            self._context = context
            self._first.clear()
            self._unmasked.clear()
        sender = envelope.sender
        if envelope.context != context or sender in self._caught or sender == AGGREGATOR:
            return
        if len(envelope.body) > LARGEST_STATEMENT or not self._is_authentic(envelope):
            return
        if envelope.kind == _UNMASK:
            digest = hashlib.sha256(envelope.body).digest()
            if self._unmasked.setdefault(sender, digest) != digest:
                self._catch(envelope, written=False)
        elif repetition_reason(sender, envelope.kind) is not None:
            first = self._first.setdefault((sender, envelope.kind), envelope)
            if first.body != envelope.body:
                self._catch(envelope, written=self._sink is not None)
                self._report(first, envelope)

    def _is_authentic(self, envelope: m.Envelope) -> bool:
        if envelope.sender not in self._plan.party_ids:
            return False
        try:
            verify_signature(envelope, identities=self._plan.identity)
        except CryptoError:
            return False  # nobody's statement; `task.receive` refuses it
        return True

    def _catch(self, envelope: m.Envelope, *, written: bool) -> None:
        self._caught.add(envelope.sender)
        self._observer(
            "equivocated",
            {
                "party": self._plan.party_name(envelope.sender),
                "task": envelope.context.task,
                "statement": statement_name(envelope.kind),
                "evidence": written,
            },
        )

    def _report(self, first: m.Envelope, second: m.Envelope) -> None:
        if self._sink is None:
            return
        name = statement_name(second.kind)
        note = f"the aggregator was sent a second, different {name}"
        kind = EvidenceKind.REPEATED_STATEMENT
        self._sink(Evidence(kind, second.sender, (first, second), note))
