"""A party as a process of its own, over given statistics: `python -m tests.network.worker`.

Writes what happens as JSON lines to standard output; the last line is its report, or how it failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import CollabEditError
from collabedit.ids import PartyId
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.member import Member
from collabedit.party.session import run_session
from tests.network.session import read_federation
from tests.support.networks import MatrixEditor


def say(event: str, fields: Mapping[str, object]) -> None:
    line = {"event": event, "at": round(time.monotonic(), 3), **fields}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--party", type=int, required=True)
    parser.add_argument("--connect", required=True)
    parser.add_argument("--patience", type=float, required=True)
    options = parser.parse_args()
    federation, party = read_federation(options.directory), PartyId(options.party)
    plan = federation.plan
    name = plan.party_name(party)
    files = [options.directory / f"{name}{suffix}" for suffix in (".pem", "-key.pem")]
    certificate, key, authority = (
        path.read_bytes() for path in (*files, options.directory / "ca.pem")
    )
    channel = GrpcChannel(
        options.connect,
        tls=ClientTls(certificate, key, authority),
        server_name=plan.federation.aggregator.name,
        patience=options.patience,
        upload_seconds=plan.timing.upload,
        poll_seconds=plan.timing.liveness / 3,
    )
    member = Member(plan, party, federation.identities[party], SystemRandomness())
    editor = MatrixEditor(federation, party)
    say("started", {})
    try:
        report = run_session(member, channel, editor, observer=say)
    except CollabEditError as error:
        fields = {"error": type(error).__name__, "why": str(error), "bytes": channel.bytes_sent}
        say("failed", {**fields, "rolled_back": editor.rolled_back})
        raise SystemExit(1) from None
    tasks = [
        {"sum": task.sum_digest, "survivors": list(task.survivors), "update": task.update_digest}
        for task in report.tasks
    ]
    say("finished", {"tasks": tasks, "bytes": channel.bytes_sent})


if __name__ == "__main__":
    main()
