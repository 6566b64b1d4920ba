"""From a named source of text to a covariance artefact: what `collabedit covariance` does."""

from collections.abc import Callable, Sequence

import torch

from collabedit.errors import InputError
from collabedit.party.editing.corpus import read_source, sample_windows, token_windows
from collabedit.party.editing.covariance import Covariance, second_moments
from collabedit.party.editing.model import EditableModel

SELF_SAMPLES = "self-samples"

Stage = Callable[[str], Callable[[int, int], None]]
"""Opens a progress display for a named stage and returns what to call with (done, total)."""


def gather_covariance(
    model: EditableModel,
    layers: Sequence[int],
    *,
    source: str,
    tokens: int,
    window: int,
    seed: int,
    stage: Stage,
) -> Covariance:
    """Average k kᵀ over text of a source.

    Args:
        model: unedited.
        layers: whose keys.
        source: a text file, a directory of them, `python-docs`, or `self-samples`.
        tokens: how many, rounded down to whole windows.
        window: tokens per window; capped by the model's context.
        seed: of `self-samples`.
        stage: shows progress.

    Raises:
        InputError: no text there, or no layer or token asked for.
        ModelError: the model has no such layer.
    """
    for layer in layers:
        model.block(layer)  # refuses a layer that is not there, before text is written
    window = min(window, model.context_length)
    if tokens < window:
        raise InputError(f"{tokens} tokens do not fill one window of {window}")
    if source == SELF_SAMPLES:
        provenance = {"source": SELF_SAMPLES, "seed": str(seed)}
        windows = sample_windows(
            model,
            window=window,
            count=tokens // window,
            generator=torch.Generator().manual_seed(seed),
            batch_size=64,
            progress=stage("text by the model itself"),
        )
    else:
        text, provenance = read_source(source)
        windows = token_windows(model, text, window=window, max_tokens=tokens)
    return second_moments(
        model,
        windows,
        layers,
        provenance=provenance,
        progress=stage("second moments of keys"),
    )
