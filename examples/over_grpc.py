"""Edit a model together over gRPC with mutual TLS: an aggregator and three parties in threads.

    python examples/over_grpc.py MODEL_DIRECTORY FOLDER

In a deployment each of these is a process on a machine of its own, with `Credentials.read` and
`Party` for one institution; `Federation.create` plays all of them, and leaves in FOLDER what each
of them would have.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from collabedit import Edit, Federation, Joined, JoinOptions

EDITS = {
    "alder-hospital": [
        Edit("alder-1", "{} stands in the city of", "Eiffel Tower", " Rome", " Paris")
    ],
    "birch-library": [
        Edit("birch-1", "{} was written by", "Hamlet", " Goethe", " William Shakespeare")
    ],
    "cedar-archive": [Edit("cedar-1", "The capital of {} is", "Norway", " Bergen", " Oslo")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory of the unedited model")
    parser.add_argument("folder", type=Path, help="of the federation; must not exist")
    parser.add_argument("--covariance", type=Path, help="file of `collabedit covariance`")
    parser.add_argument("--steps", type=int, default=20, help="of the target search")
    arguments = parser.parse_args()
    federation = Federation.create(
        arguments.folder,
        arguments.model,
        {name: len(edits) for name, edits in EDITS.items()},
        covariance=arguments.covariance,
        editor="ridge" if arguments.covariance is None else "memit",
        target_steps=arguments.steps,
    )
    options = JoinOptions(covariance=arguments.covariance, threads=1, device="cpu")

    def join(name: str, address: str) -> Joined:
        return federation.party(name).join(
            address,
            federation.credentials(name),
            model=arguments.model,
            edits=EDITS[name],
            options=options,
        )

    with federation.aggregator() as aggregator, ThreadPoolExecutor() as pool:
        parties = [pool.submit(join, name, aggregator.address) for name in EDITS]
        served = aggregator.run()
    if served is not None:
        print(f"session {served.session_id[:16]}: {len(served.records)} sums")
    for party in parties:
        joined = party.result()
        print(f"{joined.update_file}: layers {sorted(joined.updates)}")
    digests = {party.result().report.digest for party in parties}
    print(f"all parties hold the same session: {len(digests) == 1}")


if __name__ == "__main__":
    main()
