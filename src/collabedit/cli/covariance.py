"""`collabedit covariance`: second moments of a model's keys over general text."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from collabedit.api.places import check_place
from collabedit.api.reporting import Advance
from collabedit.cli.console import parse_layers, progress_bar, say
from collabedit.cli.ranks import use_ranks


def run(
    model: Annotated[Path, typer.Option(help="Model directory.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    source: Annotated[
        str,
        typer.Option(help="Text file, directory of *.txt, `python-docs` or `self-samples`."),
    ] = "self-samples",
    layers: Annotated[
        str | None, typer.Option(help="Like 4-8 or 3,5; default: the architecture's.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of text.")] = 100_000,
    window: Annotated[int, typer.Option(min=8, help="Tokens per window.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of `self-samples`.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the model's weights.")] = "float32",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda:1 ...; spread: over all GPUs.")
    ] = "auto",
) -> None:
    """Measure how a model's keys are spread over general text; the plan pins the result.

    Real text of the model's domain is best. `self-samples` needs nothing but the model. Several
    processes share the work if `torchrun` starts them (docs/several-devices.md).
    """
    from collabedit.party.editing.architectures import UNPUBLISHED
    from collabedit.party.editing.gathering import gather_covariance
    from collabedit.party.editing.model import load_model

    chosen = parse_layers(layers) if layers else None
    ranks, device = use_ranks(device)
    if ranks.is_first:
        check_place(out)
    loaded = load_model(model, dtype=dtype, device=device)
    chosen = chosen or (loaded.architecture.defaults or UNPUBLISHED).layers(loaded.n_layers)
    with ExitStack() as stack:

        def stage(title: str) -> Advance:
            return stack.enter_context(progress_bar(title))

        covariance = gather_covariance(
            loaded,
            chosen,
            source=source,
            tokens=tokens,
            window=window,
            seed=seed,
            stage=stage,
            ranks=ranks,
        )
    if ranks.is_first:
        out.parent.mkdir(parents=True, exist_ok=True)
        covariance.save(out)
    ranks.finish()
    say(f"wrote {out}: layers {list(chosen)}, {covariance.tokens} tokens")
    typer.echo(f"sha256:{covariance.digest()}")
