"""Recompute the vectors of messages and sessions without any code of this project.

    python tests/vectors/verify.py [folder]

A second implementation of every party and of the aggregator, written from docs/SPEC.md, is in
`independent/`. It needs numpy and `cryptography`. One line for each disagreement, and exit code 1.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from independent.ckks import verify_ckks
from independent.closed_session import verify_closed
from independent.counting import verify_counting
from independent.decoy_session import verify_decoys
from independent.encrypted_session import verify_encrypted
from independent.graph import verify_graph
from independent.proto import verify_proto
from independent.refusals import verify_evidence, verify_refusals, verify_votes
from independent.session import verify_session
from independent.wire import Json

NAMES = (
    "proto",
    "session",
    "refusals",
    "evidence",
    "graph",
    "counting",
    "votes",
    "closed",
    "decoys",
    "ckks",
    "encrypted",
)


def verify(files: dict[str, Json]) -> list[str]:
    """Return one line for each disagreement in the vectors, given by file name without ending."""
    session = files["session"]
    checks: dict[str, Callable[[], list[str]]] = {
        "proto": lambda: verify_proto(files["proto"]),
        "session": lambda: verify_session(session),
        "refusals": lambda: verify_refusals(session, files["refusals"]),
        "evidence": lambda: verify_evidence(session, files["evidence"]),
        "graph": lambda: verify_graph(files["graph"]),
        "counting": lambda: verify_counting(files["counting"]),
        "votes": lambda: verify_votes(files["votes"]),
        "closed": lambda: verify_closed(files["closed"]),
        "decoys": lambda: verify_decoys(files["decoys"]),
        "ckks": lambda: verify_ckks(files["ckks"]),
        "encrypted": lambda: verify_encrypted(files["encrypted"]),
    }
    lines = []
    for name, check in checks.items():
        try:
            lines += [f"{name}: {line}" for line in check()]
        except Exception as error:  # noqa: BLE001  a vector that cannot even be read disagrees
            lines.append(f"{name}: {type(error).__name__}: {error}")
    return lines


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    files = {name: json.loads((folder / f"{name}.json").read_text()) for name in NAMES}
    lines = verify(files)
    for line in lines:
        sys.stderr.write(line + "\n")
    if not lines:
        sys.stdout.write(f"{', '.join(NAMES)} agree\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
