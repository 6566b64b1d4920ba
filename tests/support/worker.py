"""A party as a process of its own, without a model: real sessions that start quickly.

    python -m tests.support.worker --plan PLAN --name NAME --statistics FILE --connect HOST:PORT ...

It is `party join` with an editor that reads its statistics from a file. Everything else, journal
included, is the product's.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from collabedit.acceptance import Measures
from collabedit.api.credentials import read_identity, read_tls
from collabedit.cli.console import errors_to_exit_codes
from collabedit.cli.logs import LogObserver, configure_logs
from collabedit.crypto.rng import SystemRandomness
from collabedit.editing import Layer
from collabedit.errors import CollabEditError
from collabedit.ids import LayerIndex
from collabedit.party.client import POLL_SECONDS, ClientTls, GrpcChannel
from collabedit.party.decisions import Decision
from collabedit.party.items import Item
from collabedit.party.journal import PartyJournal
from collabedit.party.ledger import Ledger
from collabedit.party.member import Member, SessionReport
from collabedit.party.recorded_channel import RecordedChannel
from collabedit.party.session import forget, run_session
from collabedit.party.sessions import EnteredSessions
from collabedit.plan import load_plan
from collabedit.recorder import Recorder
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.federations import weighed


@dataclass
class StoredEditor:
    """Statistics from a file; keeps digests of what it applies, as that is in the model's basis."""

    statistics_file: Path
    perplexity_after: float = 20.0
    measure_seconds: float = 0.0
    applied: list[str] = field(default_factory=list)
    rolled_back: bool = False
    decisions: tuple[Decision, ...] = ()

    def weigh(self, decisions: Sequence[Decision], past_claims: Sequence[int]) -> None:
        assert not past_claims
        self.decisions = tuple(decisions)

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        with np.load(self.statistics_file) as stored:
            pairs = [
                (stored[f"keys-{layer.index}"], stored[f"residuals-{layer.index}"])
                for layer in layers
            ]
        return [weighed(pair, self.decisions) for pair in pairs]

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        self.applied += [
            hashlib.sha256(updates[layer].to_bytes()).hexdigest() for layer in sorted(updates)
        ]

    def rollback(self) -> None:
        self.applied.clear()
        self.rolled_back = True

    def measure(self) -> Measures:
        time.sleep(self.measure_seconds)
        perplexity = self.perplexity_after if self.applied else 20.0
        return Measures(efficacy=1.0, neighbourhood=None, perplexity=perplexity)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    files = ("plan", "identity", "tls-cert", "tls-key", "tls-ca", "statistics", "items", "work")
    for option in files:
        parser.add_argument(f"--{option}", type=Path, required=True)
    for option in ("name", "connect"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--patience", type=float, default=60.0)
    parser.add_argument("--perplexity-after", type=float, default=20.0)
    parser.add_argument("--measure-seconds", type=float, default=0.0)
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


def _join(options: argparse.Namespace) -> None:
    configure_logs(as_json=True, debug=True)
    plan = load_plan(options.plan)
    party = plan.party_id(options.name)
    member = Member(plan, party, read_identity(options.identity, plan, party), SystemRandomness())
    tls = read_tls(options.tls_cert, options.tls_key, options.tls_ca, name=options.name)
    options.work.mkdir(parents=True, exist_ok=True)
    with PartyJournal(options.work, randomness=SystemRandomness()) as journal:
        journal.check(plan.digest, party)
        channel = GrpcChannel(
            options.connect,
            tls=ClientTls(tls.certificate, tls.key, tls.authority),
            server_name=plan.federation.aggregator.name,
            patience=options.patience,
            upload_seconds=plan.timing.upload,
            poll_seconds=min(POLL_SECONDS, plan.timing.liveness / 3),
        )
        editor = StoredEditor(options.statistics, options.perplexity_after, options.measure_seconds)
        observe = LogObserver(options.name)
        recorder = None
        if options.record is not None:
            recorder = Recorder(options.record, plan, role="party", party=party)
        try:
            report = run_session(
                member,
                channel if recorder is None else RecordedChannel(channel, recorder, party),
                editor,
                ledger=Ledger(options.work / "ledger.jsonl", edits=(), weights=plan.model.weights),
                enter=EnteredSessions(options.work / "sessions.txt").enter,
                journal=journal,
                items=_items(options.items),
                verified=forget if recorder is None else recorder.verify,
                observer=observe,
            )
        except CollabEditError as error:
            observe("failed", {"why": str(error), "rolled_back": editor.rolled_back})
            raise
        if recorder is not None:
            recorder.close()
        observe("finished", {"bytes": channel.bytes_sent})
        _write_report(options.work / "report.json", report, editor, channel)
        journal.end()


def _items(path: Path) -> list[Item]:
    listed = json.loads(path.read_text())
    return [
        Item(case_id, bytes.fromhex(topic), bytes.fromhex(fact)) for case_id, topic, fact in listed
    ]


def _write_report(
    path: Path, report: SessionReport, editor: StoredEditor, channel: GrpcChannel
) -> None:
    values = {
        "session": report.session_id,
        "tasks": [
            {
                "survivors": list(task.survivors),
                "sum_digest": task.sum_digest,
                "update_digest": task.update_digest,
                "votes": dict(task.votes),
            }
            for task in report.tasks
        ],
        "applied": editor.applied,
        "bytes_sent": channel.bytes_sent,
    }
    path.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    with errors_to_exit_codes():
        _join(_parse())
