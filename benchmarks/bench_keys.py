"""Second moments of keys: tokens per second beside the model's own bare forward pass.

    python benchmarks/bench_keys.py [--model DIRECTORY] [--layers 4-8] [--windows N] [--device D]

Both see the same windows in the same batches, in turn. The forward pass is transformers' own, up to
logits, without gradients and without a cache of keys. Second moments need the blocks up to the last
layer's projection and no logits, but products of keys in float64 for each layer. Without a model,
the demo's if nothing is said (`make demo` fetches it), the random one of `bench_targets` stands in.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from bench_targets import build_model
from models import DEMO_MODEL
from timing import milliseconds, time_in_turn, write_record
from torch import Tensor

from collabedit.cli.console import parse_layers
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.model import EditableModel, load_model

BATCH = 8


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    model: EditableModel, layers: tuple[int, ...], windows: Tensor, *, runs: int
) -> list[dict[str, object]]:
    """Time both, in turn: one row each, the forward pass first."""

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, len(windows), BATCH):
                model.hf(input_ids=windows[start : start + BATCH].to(model.device), use_cache=False)
        settle(model.device)

    def moments() -> None:
        second_moments(model, windows, layers, provenance={}, batch_size=BATCH)

    times = time_in_turn({"forward pass": forward, "second moments": moments}, runs=runs)
    bare = times["forward pass"].wall
    return [
        {
            "what": what,
            **milliseconds(timed),
            "tokens_per_second": round(windows.numel() / timed.wall, 1),
            "rate_over_forward": round(bare / timed.wall, 3),
        }
        for what, timed in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--layers", help="like 4-8; those, of the random model 1-5")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--window", type=int, default=128, help="tokens of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    is_real = arguments.model.exists()
    layers = parse_layers(arguments.layers or ("4-8" if is_real else "1-5"))
    with tempfile.TemporaryDirectory() as directory:
        path = arguments.model if is_real else build_model(Path(directory))
        model = load_model(path, device=arguments.device)
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.windows, arguments.window)
    vocabulary = model.hf.get_input_embeddings().num_embeddings
    windows = torch.randint(vocabulary, shape, generator=generator)
    write_record(
        "keys",
        measure(model, layers, windows, runs=arguments.runs),
        model=arguments.model.name if is_real else "random Llama, 8 blocks",
        device=str(model.device),
        layers=list(layers),
        blocks=model.n_layers,
        key_length=model.d_in(layers[0]),
        tokens=windows.numel(),
        batch=BATCH,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
