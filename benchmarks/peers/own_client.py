"""Our client of a masked sum, for `bench_peers.py`; it is talked to as `flower_client.py` is.

From the real vector to the last frame: fixed point, one self mask and a pairwise mask for each
other party, frames with their digests. Peak memory is beyond the input, as at the peer.
"""

import json
import os
import sys
import time
import tracemalloc
from importlib.metadata import version
from pathlib import Path

import numpy as np

from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask
from collabedit.exchange import plan_encoding
from collabedit.ids import TaskIndex
from collabedit.party.contribution import masked_upload

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from plans import create_identities, create_plan

TASK = TaskIndex(0)
COLUMNS = 1000


def main() -> None:
    parties, elements, ring_bits = map(int, sys.argv[1:])
    plan = create_plan(
        create_identities(parties),
        mapped=elements // COLUMNS - 200,
        outputs=200,
        capacity=COLUMNS,
        ring_bits=ring_bits,
    )
    encoding = plan_encoding(plan)
    vector = np.random.default_rng(0).normal(size=plan.task_length(TASK))
    masks = tuple(
        SignedMask(1 if number % 2 else -1, Keystream(os.urandom(32))) for number in range(parties)
    )
    for line in sys.stdin:
        measures_memory = line.strip() == "memory"
        if measures_memory:
            tracemalloc.start()
        started, used = time.perf_counter(), time.process_time()
        size = 0
        for frame in masked_upload(plan, TASK, encoding.encode(vector), masks).frames():
            size += len(frame)
        cpu, wall = time.process_time() - used, time.perf_counter() - started
        peak = tracemalloc.get_traced_memory()[1] if measures_memory else 0
        tracemalloc.stop()
        answer = {
            "cpu": cpu,
            "wall": wall,
            "peak": peak,
            "bytes": size,
            "version": version("collabedit"),
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
