"""Flower's client of a masked sum, for `bench_peers.py`: run by a Python that has `flwr`.

Calls the function that flwr's SecAgg+ client runs for its masked stage, on keys and shares made by
flwr's own functions as in the stages before. Each line on standard input starts a run; each answer
is a line of JSON. `memory` traces what numpy and Python hold at most, beyond the input.
"""

import json
import os
import sys
import time
import tracemalloc
from importlib.metadata import version

import numpy as np
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
)
from flwr.common import ConfigRecord, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import (
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)


def main() -> None:
    parties, elements = int(sys.argv[1]), int(sys.argv[2])
    vector = np.random.default_rng(0).normal(size=elements).astype(np.float32)
    parameters = ndarrays_to_parameters([vector])
    mine, others = generate_key_pairs(), {n: generate_key_pairs() for n in range(1, parties)}
    sealing = generate_key_pairs(), {n: generate_key_pairs() for n in range(1, parties)}
    state = SecAggPlusState()
    state.nid, state.threshold, state.max_weight = 0, 2 * parties // 3 + 1, 1000.0
    state.clipping_range, state.target_range, state.mod_range = 8.0, 1 << 22, 1 << 32
    state.rd_seed = os.urandom(32)
    state.sk1 = private_key_to_bytes(mine[0])
    state.public_keys_dict = {
        n: (public_key_to_bytes(pair[1]), public_key_to_bytes(sealing[1][n][1]))
        for n, pair in others.items()
    }
    state.ss2_dict = {
        n: generate_shared_key(sealing[0][0], pair[1]) for n, pair in sealing[1].items()
    }
    state.rd_seed_share_dict, state.sk1_share_dict = {}, {}
    configs = ConfigRecord(
        {
            Key.SOURCE_LIST: list(others),
            Key.CIPHERTEXT_LIST: [
                encrypt(state.ss2_dict[n], share_keys_plaintext_concat(n, 0, bytes(36), bytes(324)))
                for n in others
            ],
        }
    )
    for line in sys.stdin:
        measures_memory = line.strip() == "memory"
        if measures_memory:
            tracemalloc.start()
        started, used = time.perf_counter(), time.process_time()
        sent = _collect_masked_vectors(state, configs, 1, parameters)
        cpu, wall = time.process_time() - used, time.perf_counter() - started
        peak = tracemalloc.get_traced_memory()[1] if measures_memory else 0
        tracemalloc.stop()
        size = sum(map(len, sent[Key.MASKED_PARAMETERS]))
        answer = {"cpu": cpu, "wall": wall, "peak": peak, "bytes": size, "version": version("flwr")}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
