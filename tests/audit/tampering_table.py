"""`make tampering-table`: how large a lie about a merge must be for parties to notice it.

Run as `python -m tests.audit.tampering_table`. Each row is one way in which an aggregator alters
what it releases (`tests/support/tampering.py`), by one share of ‖ΔW‖ where it comes in sizes, tried
under `SECRETS` group secrets over statistics that weigh what the demo's do. A row is the share of
tries that a party refuses. Writes a JSON record, and exits 1 if a lie of `STATED` or more is ever
believed, or an honest merge ever refused.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from collabedit.bounds import SLACK
from collabedit.crypto.ring import RingArray, add_into
from collabedit.exchange import encode_bundle, encode_checks, merge_vector, plan_encoding
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.closing import ClosedTask, OpenedUpdate, UnverifiedError
from collabedit.proto.messages import Context
from tests.audit.consoles import wide_console
from tests.support.federations import TestFederation, build_federation
from tests.support.tampering import TAMPERINGS, Tampering, Updates

STATED = 1e-2
"""Share of ‖ΔW‖ from which on a lie is refused here. What a party is sure of in a session follows
from the tolerance that it reports, and docs/closed-sums.md, section 8."""

SIZES = (1e-1, STATED, 1e-3, 1e-4, 1e-5, 1e-6)
SECRETS = 10
PARTIES, EDITS_EACH, LAYERS = 5, 6, 2
MAPPED, OUTPUTS = 384, 144
TASK = TaskIndex(0)


@dataclass(frozen=True)
class Row:
    """One lie.

    Attributes:
        name: of the tampering.
        size: share of ‖ΔW‖; None if it has no choice.
        refused: share of tries that were refused.
        ok: whether that is what is stated.
    """

    name: str
    size: float | None
    refused: float

    @property
    def ok(self) -> bool:
        """A lie of the stated size is refused each time; the honest merge never."""
        if self.name == "honest":
            return self.refused == 0
        return self.refused == 1 or (self.size is not None and self.size < STATED * (1 - SLACK))


@dataclass(frozen=True)
class Session:
    """One task under one group secret, as the aggregator has it."""

    federation: TestFederation
    closed: ClosedTask
    total: RingArray
    updates: Updates

    @classmethod
    def of(cls, federation: TestFederation, secret: bytes) -> "Session":
        plan, encoding = federation.plan, plan_encoding(federation.plan)
        closed = ClosedTask(plan, Context(plan.digest, bytes(32), TASK, bytes(32)), secret)
        total = np.zeros(plan.task_length(TASK), dtype=encoding.ring.dtype)
        for party in plan.party_ids:
            add_into(total, closed.contribute(party, federation.statistics(party, TASK)))
        decoded = encoding.decode(total[: plan.statistics_length(TASK)])
        noise = encoding.step * float(np.sqrt(PARTIES / 12))
        updates = merge_vector(plan, TASK, decoded, survivors=plan.party_ids, noise=noise)
        return cls(federation, closed, total, updates)

    def open(self, updates: Updates) -> OpenedUpdate:
        plan = self.federation.plan
        bundle = encode_bundle(updates) + encode_checks(plan, TASK, self.total)
        return self.closed.open(bundle, plan.party_ids)

    def refuses(self, updates: Updates) -> bool:
        try:
            self.open(updates)
        except UnverifiedError:
            return True
        return False

    def damped(self, factor: float) -> Updates:
        """The merge under another ridge."""
        plan, encoding = self.federation.plan, plan_encoding(self.federation.plan)
        editing = plan.editing.model_copy(update={"ridge": factor * plan.editing.ridge})
        other = plan.model_copy(update={"editing": editing})
        decoded = encoding.decode(self.total[: plan.statistics_length(TASK)])
        return merge_vector(other, TASK, decoded, survivors=plan.party_ids, noise=0.0)

    def without(self, party: PartyId) -> Updates:
        """The merge of all others' statistics."""
        plan, encoding = self.federation.plan, plan_encoding(self.federation.plan)
        own = self.closed.contribute(party, self.federation.statistics(party, TASK))
        decoded = encoding.decode((self.total - own)[: plan.statistics_length(TASK)])
        return merge_vector(plan, TASK, decoded, survivors=plan.party_ids, noise=0.0)


def federation() -> TestFederation:
    """Random keys and residuals of the weights that the demo's have."""
    made = build_federation(
        PARTIES,
        layers=LAYERS,
        mapped=MAPPED,
        outputs=OUTPUTS,
        edits_each=EDITS_EACH,
        closed="check_columns = 4",
        schedule='"parallel"',
        tile_bytes=1 << 20,
    )
    scale = 1.2 / np.sqrt(MAPPED * 0.16)
    edits = {place: (keys * scale, wanted) for place, (keys, wanted) in made.edits.items()}
    return TestFederation(made.plan, made.identities, edits)


def rows() -> Iterator[Row]:
    """Try all lies under all secrets."""
    everybody = federation()
    sessions = [Session.of(everybody, bytes([number]) * 32) for number in range(SECRETS)]

    def share(name: str, size: float | None, released: Sequence[Updates]) -> Row:
        refused = [
            session.refuses(updates) for session, updates in zip(sessions, released, strict=True)
        ]
        return Row(name, size, float(np.mean(refused)))

    yield share("honest", None, [session.updates for session in sessions])
    for tampering in TAMPERINGS:
        for size in SIZES if tampering.has_size else (None,):
            yield share(tampering.name, size, [_altered(tampering, s, size) for s in sessions])
    for size in SIZES:
        yield share("another ridge", size, [session.damped(1 + size) for session in sessions])
    yield share("dropped party", None, [session.without(PartyId(2)) for session in sessions])
    yield share("stale update", None, [sessions[i - 1].updates for i in range(SECRETS)])


def _altered(tampering: Tampering, session: Session, size: float | None) -> Updates:
    return tampering.alter(session.updates, 0.0 if size is None else size)


def _table(made: Sequence[Row]) -> Table:
    table = Table(title=f"altered merges refused by a party, {SECRETS} secrets each")
    for heading in ("what is released", "share of ‖ΔW‖", "refused", ""):
        table.add_column(heading)
    for row in made:
        size = "" if row.size is None else f"{row.size:.0e}"
        table.add_row(row.name, size, f"{row.refused:.0%}", "ok" if row.ok else "[red]MISSED[/red]")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the lies and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description="Hold altered merges against the parties' check.")
    parser.add_argument("--out", type=Path, default=Path("out/tampering-table.json"))
    chosen = parser.parse_args(arguments)
    made = list(rows())
    honest = Session.of(federation(), bytes(32))
    checks = honest.open(honest.updates).checks
    missed = sum(not row.ok for row in made)
    record = {
        "record": "tampering-table",
        "stated_size": STATED,
        "secrets": SECRETS,
        "parties": PARTIES,
        "edits_each": EDITS_EACH,
        "sizes": {"mapped": MAPPED, "outputs": OUTPUTS, "layers": LAYERS},
        "honest_miss": max(check.miss for check in checks),
        "tolerance": max(check.tolerance for check in checks),
        "totals": {"rows": len(made), "missed": missed},
        "rows": [{**asdict(row), "ok": row.ok} for row in made],
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console = wide_console()
    console.print(_table(made))
    console.print(
        f"an honest merge misses by {record['honest_miss']:.1e} of ‖Tv‖, allowed are "
        f"{record['tolerance']:.1e}; wrote {chosen.out}"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
