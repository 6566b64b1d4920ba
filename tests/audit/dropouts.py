"""What must hold when parties fall silent: the exact sum, or an abort that opened nothing.

The same over the full and over the sparse graph.

With N parties, threshold t and d lost parties:

* d <= N - t, lost in r0 to r3: the sum is over the others, exactly. A party whose `Contribute` did
  not arrive is not in the sum, however much of its upload did.
* d <= N - t, lost in r4 to r6: the sum is over everybody, exactly. Who contributed stays in: the
  others hold the shares that take its self mask off.
* d = N - t + 1, lost in r0 to r5: BELOW_THRESHOLD at the aggregator and at every party that is
  left. No sum is opened, no update exists, and fewer than t parties revealed shares, so that the
  aggregator could not open one later either. In r4 nobody was asked for shares yet; in r5 the t - 1
  that are left have answered. Lost in r0 to r2, not one frame was uploaded.
* d = N - t + 1, lost in r6: the sum was opened before, once, over all N parties, and is exact:
  that is no disclosure beyond what the plan allows. The t - 1 statements on the update are too few,
  so BELOW_THRESHOLD, no task is recorded, and no party applies the update.

With encrypted sums no shares are revealed, and the opener matters, which is the lowest id of the
contributors:

* Lost in r0 to r3: as above. Whoever contributed and has the lowest id opens.
* Lost in r4, d <= N - t, the opener among them: OPENER_GONE, the opener is the culprit, and nobody
  was offered the sum. Without the opener among them: exact, over everybody.
* Lost in r5, the opener among them: OPENER_GONE, however many others are lost. Nobody else is
  offered the sum. Without it nobody notices before r6.
* d = N - t + 1 lost in r5 without the opener, or in r6: the sum was opened before, as above in r6.

The sum is bit for bit that of what parties contributed before they encrypted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from collabedit.crypto.ring import RingArray, add_into
from collabedit.errors import AbortReason, UnexpectedMessageError
from collabedit.exchange import plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet
from collabedit.recording import Delivery
from collabedit.simulation import Outcome, Simulation
from collabedit.sketch import LowRankUpdate, Matrix
from tests.audit.branching import Case, RecordingSimulation
from tests.support.federations import TestFederation

TASK = TaskIndex(0)
LAYER = LayerIndex(0)
RELATIVE_ERROR = 1e-9
"""Of the merged update against the centralised one, in the Frobenius norm; fixed point is why it
is not zero. The same bound as in the tests of simulation, session and network."""
ENCRYPTED_ERROR = 1e-7
"""With the fewer fractional bits that ciphertexts have room for."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must hold in one cell.

    Attributes:
        survivors: whose vectors are in the sum, empty if none may be opened.
        applies: who applies the update.
        reason: for which the session ends; None if it does not.
        culprit: who is blamed for that.
        silent: the round in which lost parties are missed.
    """

    survivors: frozenset[PartyId]
    applies: frozenset[PartyId]
    reason: AbortReason | None = None
    culprit: PartyId | None = None
    silent: str = ""


def expectation(federation: TestFederation, case: Case) -> Expectation:
    """Return what must hold, by the rules above."""
    plan = federation.plan
    everybody = frozenset(plan.party_ids)
    left = everybody - case.lost
    contributed = left if case.moment < "r4" else everybody
    silent = case.moment[:2]
    nobody = frozenset[PartyId]()
    if plan.is_encrypted and silent == "r5":
        opener = min(everybody)
        if opener in case.lost:
            return Expectation(nobody, nobody, AbortReason.OPENER_GONE, opener)
        silent = "r6"
    if len(left) < plan.threshold:
        opened = everybody if silent == "r6" else nobody
        return Expectation(opened, nobody, AbortReason.BELOW_THRESHOLD)
    if plan.is_encrypted and silent == "r4" and min(everybody) in case.lost:
        return Expectation(nobody, nobody, AbortReason.OPENER_GONE, min(everybody))
    return Expectation(contributed, left, silent=silent)


def survivors(federation: TestFederation, case: Case, outcome: Outcome) -> list[PartyId]:
    """Return whose vectors are in the opened sum; none if none was opened."""
    if outcome.records:
        return sorted(outcome.records[0].survivors)
    return sorted(expectation(federation, case).survivors) if outcome.sums else []


@dataclass
class Witness:
    """Keeps what the parties applied and what the aggregator said it did."""

    applied: dict[PartyId, Matrix] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)

    def apply(
        self, party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]
    ) -> None:
        del task
        self.applied[party] = updates[LAYER].dense()

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        del fields
        self.events.append(event)


def plain_sum(
    federation: TestFederation, survivors: frozenset[PartyId], simulation: Simulation
) -> RingArray:
    """Sum the encoded vectors in the ring without any mask; closed ones as they were recorded."""
    encoding = plan_encoding(federation.plan)
    total: RingArray = np.zeros(federation.plan.task_length(TASK), dtype=encoding.ring.dtype)
    for party in survivors:
        if federation.plan.is_closed(TASK):
            assert isinstance(simulation, RecordingSimulation)
            add_into(total, simulation.contributed[party])
        else:
            add_into(total, encoding.encode(federation.contribute(party, TASK)))
    return total


def failures(
    federation: TestFederation,
    case: Case,
    *,
    simulation: Simulation,
    outcome: Outcome,
    witness: Witness,
    spool: Path,
) -> list[str]:
    """Return every way in which a cell is not what it must be; empty if it is."""
    expected = expectation(federation, case)
    found = _check_end(federation, case, expected, outcome)
    found += _check_sum(federation, expected, simulation, outcome, witness)
    found += _check_updates(federation, expected, witness)
    if expected.reason is not None:
        found += _check_nothing_more(federation, case, expected, simulation, outcome)
    if federation.plan.is_encrypted:
        found += _check_offers(federation, case, outcome)
    if outcome.refusals:
        found.append(f"{len(outcome.refusals)} messages were refused though nobody lied")
    # The released update is a file, too, and stays for who fetches it late.
    left = spool.rglob("*.tiles" if outcome.sums else "*")
    if any(path.is_file() for path in left):
        found.append("spool files are left")
    return found


def _check_end(
    federation: TestFederation, case: Case, expected: Expectation, outcome: Outcome
) -> list[str]:
    found = []
    left = frozenset(federation.plan.party_ids) - case.lost
    reason = outcome.aborted.reason if outcome.aborted else None
    culprit = outcome.aborted.culprit if outcome.aborted else None
    wanted = expected.reason
    if reason is not wanted:
        found.append(f"the session ended with {reason!r}, not {wanted!r}")
    elif culprit != expected.culprit:
        found.append(f"party {culprit} is blamed, not {expected.culprit}")
    if len(outcome.records) != (1 if expected.reason is None else 0):
        found.append(f"{len(outcome.records)} tasks are recorded as finished")
    for party in sorted(left):
        state = outcome.party_states[party]
        if expected.reason is not None:
            ended = isinstance(state, s.Aborted) and state.reason is wanted
        else:
            ended = isinstance(state, s.Completed) and state.survivors == expected.survivors
        if not ended:
            found.append(f"party {party} ended in {state}")
    found += [
        f"party {party} was lost and completed"
        for party in sorted(case.lost)
        if isinstance(outcome.party_states[party], s.Completed)
    ]
    for record in outcome.records:
        if record.survivors != expected.survivors:
            found.append(f"survivors {sorted(record.survivors)}")
        dropouts = {(dropout.party, dropout.round[:2]) for dropout in record.dropouts}
        if dropouts != {(party, expected.silent) for party in case.lost}:
            found.append(f"dropouts are recorded as {sorted(dropouts)}")
    return found


def _check_sum(
    federation: TestFederation,
    expected: Expectation,
    simulation: Simulation,
    outcome: Outcome,
    witness: Witness,
) -> list[str]:
    wanted = 1 if expected.survivors else 0
    found = []
    if (len(outcome.sums), witness.events.count("opened")) != (wanted, wanted):
        found.append(f"{len(outcome.sums)} sums were opened, must be {wanted}")
    for total in outcome.sums.values():
        plain = plain_sum(federation, expected.survivors, simulation)
        differing = int((total != plain).sum())
        if differing:
            found.append(f"{differing} of {len(total)} elements of the sum are wrong")
    return found


def _check_updates(
    federation: TestFederation, expected: Expectation, witness: Witness
) -> list[str]:
    if witness.applied.keys() != expected.applies:
        return [f"{sorted(witness.applied)} applied, must be {sorted(expected.applies)}"]
    if not expected.applies:
        return []
    want = federation.centralised(expected.survivors, TASK)
    errors = {
        party: float(np.linalg.norm(update - want) / np.linalg.norm(want))
        for party, update in witness.applied.items()
    }
    return [
        f"party {party}: relative error {error:.1e} to the centralised update"
        for party, error in sorted(errors.items())
        if not error < (ENCRYPTED_ERROR if federation.plan.is_encrypted else RELATIVE_ERROR)
    ]


def _check_offers(federation: TestFederation, case: Case, outcome: Outcome) -> list[str]:
    """Of an encrypted sum: who was offered it, and that no share was revealed."""
    left = frozenset(federation.plan.party_ids) - case.lost
    opener = min(left if case.moment < "r4" else federation.plan.party_ids)
    sent = [each for each in outcome.transcript if each.kind == "packet"]
    offered = {each.receiver for each in sent if _kind_of(each) == m.KINDS[m.OfferSum]}
    found = []
    if offered - {opener}:
        found.append(f"the sum was offered to {sorted(offered)}, its opener is {opener}")
    if any(_kind_of(each) == m.KINDS[m.Unmask] for each in sent):
        found.append("shares were revealed, and there are no masks")
    return found


def _kind_of(delivery: Delivery) -> int:
    return decode_packet(delivery.data).envelope.kind


def _check_nothing_more(
    federation: TestFederation,
    case: Case,
    expected: Expectation,
    simulation: Simulation,
    outcome: Outcome,
) -> list[str]:
    """What an abort must not have let out (the sum itself is checked elsewhere)."""
    found: list[str] = []
    frames = 0
    revealed: set[PartyId] = set()
    released = False
    for delivery in outcome.transcript:
        if delivery.kind != "packet":
            frames += delivery.kind == "frame"
            continue
        kind = decode_packet(delivery.data).envelope.kind
        released |= kind == m.KINDS[m.Release]
        if kind == m.KINDS[m.Unmask]:
            revealed.add(delivery.sender)
    if expected.survivors:
        return found
    if released:
        found.append("an update was released")
    if len(revealed) >= federation.plan.threshold:
        found.append(f"{len(revealed)} parties revealed shares, enough to open the sum")
    if case.moment < "r5" and revealed:
        found.append(f"{len(revealed)} parties revealed shares before they were asked")
    if case.moment < "r3" and frames:
        found.append(f"{frames} frames were uploaded")
    try:
        simulation.coordinator.bundle(TASK)
    except UnexpectedMessageError:
        return found
    return [*found, "an update can be downloaded"]
