"""Edit a model together in one process: the deployed protocol, less sockets.

    python examples/in_one_process.py MODEL_DIRECTORY

Three parties bring a fact each. The aggregator and the parties are the real ones; what a lossy
network does to them can be had with `faults`.
"""

import argparse
from pathlib import Path

from collabedit import Edit, Faults, simulate

EDITS = {
    "alder-hospital": [
        Edit("alder-1", "{} stands in the city of", "Eiffel Tower", " Rome", " Paris"),
    ],
    "birch-library": [
        Edit("birch-1", "{} was written by", "Hamlet", " Goethe", " William Shakespeare"),
    ],
    "cedar-archive": [
        Edit("cedar-1", "The capital of {} is", "Norway", " Bergen", " Oslo"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory of the unedited model")
    parser.add_argument("--covariance", type=Path, help="file of `collabedit covariance`")
    parser.add_argument("--steps", type=int, default=20, help="of the target search")
    arguments = parser.parse_args()
    result = simulate(
        arguments.model,
        EDITS,
        covariance=arguments.covariance,
        editor="ridge" if arguments.covariance is None else "memit",
        target_steps=arguments.steps,
        faults=Faults(duplicate=0.1, delay=3),
    )
    result.raise_if_aborted()
    for layer, update in sorted(result.updates.items()):
        print(f"layer {layer}: an update of rank {update.rank}")
    for when, measures in (("before", result.before), ("after", result.after or {})):
        print(f"efficacy {when}: {measures['efficacy']:.0f} %")


if __name__ == "__main__":
    main()
