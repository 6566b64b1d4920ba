"""What cells share and is dear to make: base model, second moments, targets.

Everything is found by the content that determines it: digests of weights and tokenizer, of the
edit's whole text, and all settings. Never by a case id, which says nothing about the weights that a
target was searched on (the published code reuses targets of other weights in this way).

Targets encode edits: the directory is its owner's alone (0700), as is each file of them (0600).
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from collabedit.demo.assets import MODEL_NAME, fetch_demo_model
from collabedit.errors import InputError
from collabedit.experiments.schema import CovarianceSource, ModelSource
from collabedit.party.editing.artefacts import load_tensors, save_tensors
from collabedit.party.editing.corpus import read_source
from collabedit.party.editing.covariance import Covariance, load_covariance
from collabedit.party.editing.gathering import SELF_SAMPLES, gather_covariance
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.targets import (
    Targets,
    TargetSettings,
    compute_targets,
    settings_digest,
)
from collabedit.party.edits import Edit, edits_digest

_KIND = "target"
_WEIGHT_FILES = ("*.json", "*.safetensors", "*.bin", "*.model")


def find_model(
    source: ModelSource,
    *,
    beside: Path,
    given: Path | None,
    cache: Path,
    report: Callable[[str], None],
) -> Path:
    """Return the directory of an experiment's checkpoint.

    Args:
        source: what the file says.
        beside: the experiment file; a directory in it is relative to its folder.
        given: `--model`.
        cache: where the demo keeps its model.
        report: told of a download.

    Raises:
        InputError: nobody says where the model is.
        ModelError: the demo's model could not be had.
    """
    if given is not None:
        return given
    if source.directory is not None:
        return (beside.parent / source.directory).resolve()
    if source.name == MODEL_NAME:
        return fetch_demo_model(cache, report)
    raise InputError(f"{beside}: give --model DIR, the checkpoint of {source.name}")


def directory_digest(path: Path) -> str:
    """Digest a checkpoint's files without loading it, as hex SHA-256 over names and contents.

    Raises:
        InputError: no weights there.
    """
    files = sorted({file for pattern in _WEIGHT_FILES for file in path.glob(pattern)})
    if not any(file.suffix in {".safetensors", ".bin"} for file in files):
        raise InputError(f"{path}: is no checkpoint (it has no weights)")
    digest = hashlib.sha256(b"collabedit/v1/checkpoint")
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"\n{file.name} {content}".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def base_model(path: Path, dtype: str, device: str, digest: str) -> EditableModel:
    """Load a model once in a process. Whoever edits it takes the edits back.

    Args:
        path: of the checkpoint.
        dtype: of the weights.
        device: as `load_model` takes it.
        digest: of the directory, so that changed files are another model.
    """
    del digest
    return load_model(path, dtype=dtype, device=device)


@dataclass(frozen=True, slots=True)
class Cache:
    """A private directory of shared pieces."""

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)

    def covariance(
        self, model: EditableModel, layers: Sequence[int], source: CovarianceSource
    ) -> Covariance:
        """Read the second moments of the unedited model, gathering them the first time.

        Raises:
            InputError: the source has no text.
        """
        own = source.source == SELF_SAMPLES
        provenance = {"source": SELF_SAMPLES} if own else read_source(source.source)[1]
        key = _key(
            "covariance",
            model.weights_digest(),
            model.tokenizer_digest(),
            list(layers),
            provenance,
            [source.tokens, source.window, source.seed],
        )
        path = self.directory / f"covariance-{key}.safetensors"
        if not path.exists():
            gather_covariance(
                model,
                layers,
                source=source.source,
                tokens=source.tokens,
                window=source.window,
                seed=source.seed,
                stage=lambda _title: lambda _done, _total: None,
            ).save(path)
        return load_covariance(path)

    def targets(
        self,
        model: EditableModel,
        edits: Sequence[Edit],
        *,
        layer: int,
        templates: Sequence[str],
        settings: TargetSettings,
        least_updates: int = 0,
    ) -> Targets:
        """Read z* of edits on the model as it is now, searching for those that are not there.

        Returns:
            z* in the order of `edits`; one file each, so that any set of edits finds its own.
        """
        common = settings_digest(model, layer=layer, templates=templates, settings=settings)
        searched = common if not least_updates else f"{common} {least_updates}"
        paths = {edit: self._target_path(searched, edit) for edit in dict.fromkeys(edits)}
        missing = [edit for edit, path in paths.items() if not path.exists()]
        if missing:
            found = compute_targets(
                model,
                missing,
                layer=layer,
                templates=templates,
                settings=settings,
                least_updates=least_updates,
            )
            for column, edit in enumerate(missing):
                save_tensors(
                    paths[edit],
                    {"target": found.values[:, column]},
                    {"edit": edits_digest((edit,)), "settings": common},
                    kind=_KIND,
                    private=True,
                )
        columns = {
            edit: load_tensors(path, kind=_KIND)[0]["target"] for edit, path in paths.items()
        }
        values = torch.stack([columns[edit] for edit in edits], dim=1)
        return Targets(values, edits_digest(edits), common)

    def _target_path(self, settings: str, edit: Edit) -> Path:
        key = _key("target", settings, edits_digest((edit,)))
        folder = self.directory / "targets"
        folder.mkdir(exist_ok=True)
        return folder / f"{key}.safetensors"


def _key(*parts: object) -> str:
    canonical = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(b"collabedit/v1/cache\n" + canonical.encode()).hexdigest()
