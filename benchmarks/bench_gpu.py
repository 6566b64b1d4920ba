"""A party's work on one device: targets, second moments, and sums of keys beside its matmul rate.

    python benchmarks/bench_gpu.py [--model DIRECTORY] [--device cuda] [--autocast bfloat16]

Needs a CUDA device and the demo's model (`make demo` fetches it), or whatever `--device` and
`--model` say; without them the record says that nothing ran, and why. `--device cpu` is for trying
the script. Products K Kᵀ, as of second moments and of sketches' statistics, stand beside the rate
of large square products in the same dtype on the same device, which is the roofline.
"""

import argparse
from pathlib import Path

import torch
from bench_keys import measure, settle
from bench_targets import FACTS, SETTINGS
from models import DEMO_MODEL
from timing import milliseconds, time_in_turn, write_record

from collabedit.cli.console import parse_layers
from collabedit.party.editing.means import Means, parse_means
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.proposal import CONTEXT_TEMPLATES
from collabedit.party.editing.targets import compute_targets
from collabedit.party.edits import Edit


def measure_targets(
    model: EditableModel, layer: int, means: Means, *, runs: int
) -> dict[str, object]:
    """Time the search of all facts' targets."""
    edits = [
        Edit(case_id=str(number), prompt=prompt, subject=subject, target_new=target)
        for number, (prompt, subject, target) in enumerate(FACTS)
    ]

    def search() -> None:
        compute_targets(
            model,
            edits,
            layer=layer,
            templates=CONTEXT_TEMPLATES,
            settings=SETTINGS,
            means=means,
        )
        settle(model.device)

    timed = time_in_turn({"targets": search}, runs=runs)["targets"]
    rate = round(len(edits) / timed.wall, 3)
    what = f"targets, autocast {means.autocast}"
    return {"what": what, **milliseconds(timed), "edits_per_second": rate}


def measure_products(
    device: torch.device, size: int, keys: int, *, runs: int
) -> list[dict[str, object]]:
    """Time K Kᵀ, [size, keys] times its transpose, beside a square product, in two dtypes."""
    rows: list[dict[str, object]] = []
    for dtype in (torch.float32, torch.float64):
        square = torch.randn(size, size, device=device, dtype=dtype)
        wide = torch.randn(size, keys, device=device, dtype=dtype)

        def roofline(square: torch.Tensor = square) -> None:
            square @ square
            settle(device)

        def gram(wide: torch.Tensor = wide) -> None:
            wide @ wide.T
            settle(device)

        name = str(dtype).removeprefix("torch.")
        times = time_in_turn({"square product": roofline, "K K^T": gram}, runs=runs)
        counts = {"square product": 2.0 * size**3, "K K^T": 2.0 * size**2 * keys}
        best = {what: counts[what] / timed.best for what, timed in times.items()}
        rows += [
            {
                "what": f"{what}, {name}",
                **milliseconds(timed),
                "gigaflop_per_second": round(best[what] / 1e9, 1),
                "share_of_roofline": round(best[what] / best["square product"], 3),
            }
            for what, timed in times.items()
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--layers", default="4-8")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--autocast", default="off", help="off, bfloat16: of the search")
    parser.add_argument("--size", type=int, default=4096, help="length of a key in products")
    parser.add_argument("--keys", type=int, default=8192, help="keys in products")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    missing = None
    if device.type == "cuda" and not torch.cuda.is_available():
        missing = "no CUDA device here, or a torch without CUDA"
    elif not arguments.model.exists():
        missing = f"no model in {arguments.model.name}; `make demo` fetches it"
    if missing is not None:
        write_record("gpu", [], ran=False, why=missing)
        return
    model = load_model(arguments.model, device=arguments.device)
    layers = parse_layers(arguments.layers)
    means = parse_means(arguments.autocast, None)
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.hf.get_input_embeddings().num_embeddings
    windows = torch.randint(vocabulary, (arguments.windows, 128), generator=generator)
    rows = [
        measure_targets(model, layers[-1], means, runs=arguments.runs),
        *measure(model, layers, windows, runs=arguments.runs),
        *measure_products(device, arguments.size, arguments.keys, runs=arguments.runs),
    ]
    is_cuda = device.type == "cuda"
    write_record(
        "gpu",
        rows,
        ran=True,
        device=torch.cuda.get_device_name(device) if is_cuda else str(device),
        model=arguments.model.name,
        torch=torch.__version__,
        layers=list(layers),
        tf32=torch.backends.cuda.matmul.allow_tf32,
    )


if __name__ == "__main__":
    main()
