"""Shared pieces are found by content: other weights or another text give another piece."""

import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collabedit.errors import InputError
from collabedit.experiments import cache as module
from collabedit.experiments.cache import Cache, directory_digest, find_model
from collabedit.experiments.schema import CovarianceSource, ModelSource
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.proposal import CONTEXT_TEMPLATES
from collabedit.party.editing.targets import Targets, TargetSettings, compute_targets
from collabedit.party.edits import Edit
from tests.support.tiny_models import build_tiny_model

SETTINGS = TargetSettings(learning_rate=0.5, steps=2, clamp_factor=0.75, weight_decay=0.5)


def edit(subject: str, target: str = "piano") -> Edit:
    return Edit(case_id="1", prompt="{} plays the", subject=subject, target_new=target)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_directory: Path) -> EditableModel:
    return load_model(model_directory, dtype="float64")


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The subjects of each search that really runs."""
    found: list[list[str]] = []

    def counting(model: EditableModel, edits: Sequence[Edit], **rest: object) -> Targets:
        found.append([one.subject for one in edits])
        return compute_targets(model, edits, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "compute_targets", counting)
    return found


def targets(cache: Cache, model: EditableModel, *edits: Edit, **changes: object) -> torch.Tensor:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return cache.targets(
        model, edits, layer=3, templates=CONTEXT_TEMPLATES, settings=settings
    ).values


def test_each_edit_is_searched_once_whatever_set_it_comes_in(
    tmp_path: Path, model: EditableModel, searched: list[list[str]]
) -> None:
    cache = Cache(tmp_path / "cache")
    first = targets(cache, model, edit("Ann"), edit("Bob"))
    again = targets(cache, model, edit("Bob"), edit("Eve"), edit("Ann"), edit("Bob"))
    assert searched == [["Ann", "Bob"], ["Eve"]]
    assert torch.equal(again[:, [2, 0]], first)
    assert torch.equal(again[:, 3], again[:, 0])


def test_other_weights_settings_or_text_are_other_targets(
    tmp_path: Path, model: EditableModel, searched: list[list[str]]
) -> None:
    cache = Cache(tmp_path / "cache")
    first = targets(cache, model, edit("Ann"))
    targets(cache, model, edit("Ann"), steps=3)
    targets(cache, model, edit("Ann", target="guitar"))  # the same case id
    with torch.no_grad():
        weight = model.weight(1)
        kept = weight.clone()
        weight.add_(0.05)
        other = targets(cache, model, edit("Ann"))
        weight.copy_(kept)
    assert len(searched) == 4
    assert not torch.equal(first, other)
    assert torch.equal(targets(cache, model, edit("Ann")), first)
    assert len(searched) == 4


def test_targets_are_their_owners_alone(tmp_path: Path, model: EditableModel) -> None:
    cache = Cache(tmp_path / "cache")
    targets(cache, model, edit("Ann"))
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_a_covariance_is_gathered_once_for_its_text_layers_and_weights(
    tmp_path: Path, model: EditableModel
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris. " * 30)
    source = CovarianceSource(source=str(text), tokens=64, window=16)
    cache = Cache(tmp_path / "cache")

    def gathered() -> int:
        return len(list((tmp_path / "cache").glob("covariance-*")))

    first = cache.covariance(model, (1, 2), source)
    assert cache.covariance(model, (1, 2), source).digest() == first.digest()
    assert gathered() == 1
    text.write_text("The capital of Italy is Rome. " * 30)
    assert cache.covariance(model, (1, 2), source).digest() != first.digest()
    cache.covariance(model, (2,), source)
    assert gathered() == 3


def test_a_checkpoints_digest_follows_its_files(model_directory: Path, tmp_path: Path) -> None:
    digest = directory_digest(model_directory)
    config = model_directory / "config.json"
    kept = config.read_bytes()
    config.write_bytes(kept + b" ")
    assert directory_digest(model_directory) != digest
    config.write_bytes(kept)
    assert directory_digest(model_directory) == digest
    with pytest.raises(InputError, match="has no weights"):
        directory_digest(tmp_path)


def test_where_a_model_is_looked_for(tmp_path: Path) -> None:
    def found(source: ModelSource, given: Path | None = None) -> Path:
        return find_model(
            source, beside=tmp_path / "x.toml", given=given, cache=tmp_path, report=lambda _: None
        )

    here = ModelSource(name="tiny", directory="models/tiny")
    assert found(here) == (tmp_path / "models/tiny").resolve()
    assert found(here, Path("/elsewhere")) == Path("/elsewhere")
    with pytest.raises(InputError, match="give --model DIR, the checkpoint of tiny"):
        found(ModelSource(name="tiny"))
