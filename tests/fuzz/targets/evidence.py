"""Evidence: a file that nobody can forge, and honest statements that never make one.

A file of these bytes is read and checked; it may prove something only by envelopes that the seeds
hold, since a fuzzer has no key. Then, from the same bytes, statements of honest sessions are put
together at will, and must prove nothing.
"""

import functools
from dataclasses import replace

from collabedit.errors import EvidenceFileError, InvalidEvidenceError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.evidence import Evidence, EvidenceKind, verify
from collabedit.proto.evidence_file import format_evidence, parse_evidence
from tests.fuzz.scene import scenes

MOST_ENVELOPES = 4


@functools.cache
def _lies() -> tuple[Evidence, ...]:
    """Genuine evidence: every kind that two statements or one can prove."""
    walk = scenes()[0].walk
    roster = walk.shown_message(1, m.Roster)
    shorter = walk.sign(m.Roster(roster.advertisements[1:]))
    whole = walk.shown[PartyId(1), m.Roster].envelope
    first, second = roster.advertisements[:2]
    swapped = replace(first, signature=second.signature)
    relay = walk.sign(m.Roster((swapped, *roster.advertisements[1:])))
    release = walk.shown[PartyId(1), m.Release].envelope
    verified = walk.shown_message(1, m.UpdateVerified).confirmations
    other = walk.sign(m.VerifyUpdate(bytes(32), bytes(32)), sender=1)
    forked = walk.sign(m.UpdateVerified((other, *verified[1:])))
    confirm = walk.envelope(2, m.Confirm)
    again = walk.sign(m.Confirm(bytes(32)), sender=2)
    two = PartyId(2)
    return (
        Evidence(EvidenceKind.REPEATED_STATEMENT, AGGREGATOR, (whole, shorter), "seed"),
        Evidence(EvidenceKind.REPEATED_STATEMENT, two, (confirm, again), "seed"),
        Evidence(EvidenceKind.INVALID_RELAY, AGGREGATOR, (relay,), "seed"),
        Evidence(EvidenceKind.UPDATE_FORK, AGGREGATOR, (release, forked), "seed"),
    )


def _plan() -> Plan:
    return scenes()[0].walk.federation.plan


@functools.cache
def _signed() -> frozenset[bytes]:
    return frozenset(e.signature for lie in _lies() for e in lie.envelopes)


def run(data: bytes) -> None:
    """Read the bytes as a file, then as a choice of honest statements."""
    try:
        evidence = parse_evidence(data, _plan())
    except EvidenceFileError:
        _put_together(data)
        return
    assert format_evidence(evidence, _plan()) == data
    try:
        verify(evidence, _plan())
    except InvalidEvidenceError:
        return
    assert {e.signature for e in evidence.envelopes} <= _signed(), "a proof without a signer"


def _put_together(data: bytes) -> None:
    if len(data) < 3:
        return
    scene = scenes()[data[0] % 2]
    kinds = tuple(EvidenceKind)
    chosen = [scene.pool[byte % len(scene.pool)] for byte in data[2 : 2 + MOST_ENVELOPES]]
    accused = chosen[0].sender if data[1] % 2 else PartyId(data[1] % 5)
    evidence = Evidence(kinds[data[1] % len(kinds)], accused, tuple(chosen), "")
    try:
        verdict = verify(evidence, _plan())
    except InvalidEvidenceError:
        return
    raise AssertionError(f"honest statements prove {verdict}")


def seeds() -> dict[str, bytes]:
    """Return genuine files, and choices of honest statements."""
    files = {
        f"{evidence.kind.value}-{evidence.accused}": format_evidence(evidence, _plan())
        for evidence in _lies()
    }
    for evidence in _lies():
        verify(evidence, _plan())
    choices = {f"honest-{n:02}": bytes((n, 7 * n % 256, n, n + 40, 3 * n)) for n in range(12)}
    return files | choices
