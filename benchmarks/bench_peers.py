"""A client's part of a masked sum, ten parties and ten million numbers: ours and Flower's.

Each client runs in a process of its own, with the Python that has its packages: `make bench-peers`
installs Flower into out/peers. All are measured in turn, several rounds: the first run of a fresh
process, as a client that takes part in one sum, and the one after it, with memory and caches warm.
Flower's ring has 32 bits; ours has 64 by default, and 32 in one row.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from timing import write_record

PARTIES = 10
ELEMENTS = 10_000_000
ROUNDS = 5
HERE = Path(__file__).parent
PEERS = HERE.parent / "out" / "peers" / "bin" / "python"
FLOWER = "peer: Flower SecAgg+"

Answer = dict[str, float | str]


def clients() -> dict[str, tuple[list[str], int]]:
    """Return command and ring of each client that can run here."""
    own = [sys.executable, str(HERE / "peers" / "own_client.py"), str(PARTIES), str(ELEMENTS)]
    flower = [str(PEERS), str(HERE / "peers" / "flower_client.py"), str(PARTIES), str(ELEMENTS)]
    found = {"ours": ([*own, "64"], 64), "ours, the peer's ring": ([*own, "32"], 32)}
    return {FLOWER: (flower, 32), **found} if PEERS.exists() else found


def measure(command: Sequence[str]) -> list[Answer]:
    """Run a client: cold, warm, and once more for its memory."""
    answered = subprocess.run(  # noqa: S603  our own programs
        command, input="run\nrun\nmemory\n", capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in answered.stdout.splitlines()]


def median(rounds: Sequence[Sequence[Answer]], run: int, key: str) -> float:
    return statistics.median(float(answers[run][key]) for answers in rounds)


def main() -> None:
    listed = clients()
    if FLOWER not in listed:
        sys.stderr.write("Flower is not installed here, its row is left out: make bench-peers\n")
    found: dict[str, list[list[Answer]]] = {name: [] for name in listed}
    for _ in range(ROUNDS):
        for name, (command, _ring) in listed.items():
            found[name].append(measure(command))
    rows = []
    for name, (_command, ring) in listed.items():
        answers = found[name]
        row: dict[str, object] = {
            "what": name,
            "version": answers[0][0]["version"],
            "ring_bits": ring,
            "cold_cpu_s": round(median(answers, 0, "cpu"), 4),
            "warm_cpu_s": round(median(answers, 1, "cpu"), 4),
            "cold_wall_s": round(median(answers, 0, "wall"), 4),
            "warm_wall_s": round(median(answers, 1, "wall"), 4),
            "bytes_per_number": round(median(answers, 0, "bytes") / ELEMENTS, 3),
            "peak_bytes_per_number": round(median(answers, 2, "peak") / ELEMENTS, 1),
        }
        if FLOWER in found:
            peer = found[FLOWER]
            for state, run in (("cold", 0), ("warm", 1)):
                ratio = median(peer, run, "cpu") / median(answers, run, "cpu")
                row[f"{state}_times_less_cpu"] = round(ratio, 2)
        rows.append(row)
    write_record("peers", rows, parties=PARTIES, elements=ELEMENTS, rounds=ROUNDS)


if __name__ == "__main__":
    main()
