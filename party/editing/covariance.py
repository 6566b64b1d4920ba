"""Uncentred second moments E[k kᵀ] of keys over general text: what an edit should leave alone.

One pass over the tokens serves all layers and ends behind the highest. Products are taken and
accumulated in float64: in float32 the sum loses positive semidefiniteness on real models, which
shows only later, as a failed Cholesky factor. Every token of a window counts, the first included,
as in MEMIT (kmeng01/memit, `rome/layer_stats.py`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collabedit.errors import InputError, NumericError
from collabedit.party.editing.artefacts import load_tensors, save_tensors
from collabedit.party.editing.hooks import capturing_input, stopping_after
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks

Matrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Covariance:
    """Second moments of keys, per layer. Public: general text only, no edit.

    Attributes:
        matrices: layer -> E[kkᵀ], [d_in, d_in], float64, symmetric; an average, not a sum.
        tokens: how many keys were averaged.
        provenance: what determined it (model, tokenizer, text), for people and for caches.
    """

    matrices: Mapping[int, Matrix] = field(repr=False)
    tokens: int
    provenance: Mapping[str, str]

    def digest(self) -> str:
        """Digest the content in canonical form, as hex SHA-256.

        Over token count, provenance, and per ascending layer its number, size and little-endian
        float64 entries row by row. The same artefact has the same digest whatever wrote its file.
        """
        head = {"tokens": self.tokens, "provenance": dict(self.provenance)}
        digest = hashlib.sha256(b"collabedit/v1/covariance\n")
        digest.update(json.dumps(head, sort_keys=True).encode())
        for layer in sorted(self.matrices):
            matrix = self.matrices[layer]
            digest.update(f"\n{layer} {len(matrix)}\n".encode())
            digest.update(np.ascontiguousarray(matrix, dtype="<f8").data)
        return digest.hexdigest()

    def check_weights(self, model: EditableModel) -> None:
        """Refuse second moments that are known to be of other weights than the model's.

        The dtype that the model was loaded in is part of its weights' digest: gather in the one
        that is edited. A covariance whose provenance names no weights passes.

        Raises:
            InputError: the provenance names other weights.
        """
        gathered, found = self.provenance.get("weights"), model.weights_digest()
        if gathered not in (None, found):
            dtype = self.provenance.get("dtype", "unknown")
            raise InputError(
                f"the covariance is of another model: gathered on weights {gathered} ({dtype}), "
                f"this model's are {found} ({str(model.dtype).removeprefix('torch.')})"
            )

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        tensors = {str(layer): torch.from_numpy(m) for layer, m in self.matrices.items()}
        metadata = {
            "tokens": str(self.tokens),
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
            "sha256": self.digest(),
        }
        save_tensors(path, tensors, metadata, kind="covariance", private=False)


def load_covariance(path: Path, *, digest: str | None = None) -> Covariance:
    """Read what `Covariance.save` wrote.

    Args:
        path: the file.
        digest: the one that the plan states; None accepts any intact file.

    Raises:
        InputError: no such file, malformed, damaged, or not the plan's.
    """
    tensors, metadata = load_tensors(path, kind="covariance")
    try:
        covariance = Covariance(
            matrices={int(name): tensor.numpy() for name, tensor in sorted(tensors.items())},
            tokens=int(metadata["tokens"]),
            provenance=json.loads(metadata["provenance"]),
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: is no covariance file: {error!r}") from error
    for layer, matrix in covariance.matrices.items():
        if matrix.dtype != np.float64 or matrix.shape != (len(matrix), len(matrix)):
            # Rounded to half precision a second moment has lost its small directions, and those are
            # what the editor moves in.
            raise InputError(
                f"{path}: layer {layer} holds {matrix.dtype} {list(matrix.shape)}, no square "
                "float64 matrix; gather the covariance again"
            )
    found = covariance.digest()
    if found != metadata.get("sha256"):
        raise InputError(f"{path}: is damaged: its content does not match its digest")
    if digest is not None and found != digest:
        raise InputError(f"{path}: has digest {found}, the plan states {digest}")
    return covariance


def second_moments(
    model: EditableModel,
    windows: Tensor,
    layers: Sequence[int],
    *,
    provenance: Mapping[str, str],
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Covariance:
    """Average k kᵀ over all tokens of `windows`, for all `layers` in one pass.

    Args:
        model: the unedited model.
        windows: token ids, [windows, T], without padding.
        layers: whose keys.
        provenance: of the text; the model's digests are added to it.
        batch_size: windows per forward pass.
        progress: called with windows done and their number, at several ranks those of this one.
        ranks: that share the windows and get the same result; each has all of `windows`.

    Raises:
        NumericError: a key is not finite.
        RankError: a rank is gone, or has other weights.
    """
    if not len(windows) or not layers:
        raise InputError("a second moment needs at least one window and one layer")
    sums = {
        layer: torch.zeros(
            model.d_in(layer),
            model.d_in(layer),
            dtype=torch.float64,
            device=model.weight(layer).device,
        )
        for layer in layers
    }
    weights = model.weights_digest()
    ranks.agree("weights", weights)
    top = model.projection(max(layers))
    # Whole batches: kernels may round a window otherwise in other company.
    starts = ranks.split(range(0, len(windows), batch_size))[ranks.rank]
    batches = [windows[start : start + batch_size] for start in starts]
    done, total = 0, sum(map(len, batches))
    with torch.inference_mode():
        for batch in batches:
            with ExitStack() as stack:
                captures = {
                    layer: stack.enter_context(capturing_input(model.projection(layer)))
                    for layer in layers
                }
                stack.enter_context(stopping_after(top))
                model.forward(batch)
            for layer, captured in captures.items():
                keys = captured.values.flatten(0, 1).double()
                sums[layer].addmm_(keys.T, keys)
            if progress:
                done += len(batch)
                progress(done, total)
    return Covariance(
        matrices={
            layer: _average(ranks.sum_all(own), windows.numel()) for layer, own in sums.items()
        },
        tokens=windows.numel(),
        provenance={
            **provenance,
            "window": str(windows.shape[1]),
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": weights,
            "tokenizer": model.tokenizer_digest(),
        },
    )


def _average(total: Tensor, count: int) -> Matrix:
    matrix: Matrix = (total / count).cpu().numpy()
    if not np.isfinite(matrix).all():
        raise NumericError("the second moment of keys is not finite")
    # A product's two triangles may differ in the last bit.
    symmetric: Matrix = (matrix + matrix.T) / 2
    return symmetric
