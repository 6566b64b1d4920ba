"""From a named source of text to a covariance artefact: what `collabedit covariance` does."""

import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from collabedit.errors import InputError
from collabedit.party.editing.corpus import read_source, sample_windows, token_windows
from collabedit.party.editing.covariance import Covariance, second_moments
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks

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
    ranks: Ranks = ALONE,
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
        ranks: that share the work; the first one reads the text, or lets the model write it.

    Raises:
        InputError: no text there, or no layer or token asked for.
        ModelError: the model has no such layer.
        RankError: a rank is gone, or has other weights.
    """
    for layer in layers:
        model.block(layer)  # refuses a layer that is not there, before text is written
    window = min(window, model.context_length)
    if tokens < window:
        raise InputError(f"{tokens} tokens do not fill one window of {window}")
    windows: Tensor | None = None
    provenance: dict[str, str] = {}
    if ranks.is_first:
        windows, provenance = _windows(
            model, source=source, tokens=tokens, window=window, seed=seed, stage=stage
        )
    return second_moments(
        model,
        ranks.broadcast(windows),
        layers,
        provenance=json.loads(ranks.broadcast_text(json.dumps(provenance))),
        progress=stage("second moments of keys"),
        ranks=ranks,
    )


def _windows(
    model: EditableModel, *, source: str, tokens: int, window: int, seed: int, stage: Stage
) -> tuple[Tensor, dict[str, str]]:
    """Return windows of text [windows, T], and where the text is from."""
    if source == SELF_SAMPLES:
        windows = sample_windows(
            model,
            window=window,
            count=tokens // window,
            generator=torch.Generator().manual_seed(seed),
            batch_size=64,
            progress=stage("text by the model itself"),
        )
        return windows, {"source": SELF_SAMPLES, "seed": str(seed)}
    text, provenance = read_source(source)
    return token_windows(model, text, window=window, max_tokens=tokens), provenance
