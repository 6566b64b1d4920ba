from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.edits import Edit
from tests.support.tiny_models import build_tiny_model

LoadTiny = Callable[..., EditableModel]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the tiny model of a type lies, built once."""
    root = tmp_path_factory.mktemp("tiny")

    def directory(model_type: str) -> Path:
        path = root / model_type
        return path if path.exists() else build_tiny_model(model_type, path)

    return directory


@pytest.fixture
def load_tiny(tiny_directory: Callable[[str], Path]) -> LoadTiny:
    """Load a fresh tiny model, float64 unless said otherwise."""

    def load(model_type: str, dtype: str = "float64") -> EditableModel:
        return load_model(tiny_directory(model_type), dtype=dtype)

    return load


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    """A fresh float64 model: one that stores [in, out] without BOS, one [out, in] with it."""
    return load_tiny(request.param)


@pytest.fixture(scope="session")
def edits() -> tuple[Edit, ...]:
    return (
        Edit(
            case_id="10",
            prompt="{} plays the",
            subject="Ann Other",
            target_new="piano",
            target_true="guitar",
            paraphrase_prompts=("On stage Ann Other plays the", "Ann Other is at the"),
            neighborhood=(("Bob plays the", "guitar"), ("Zed plays the", "guitar")),
            relation="P1303",
        ),
        Edit(
            case_id="11",
            prompt="The capital of {}, of all places, is",
            subject="France",
            target_new="Rome the eternal",
            target_true="Paris",
            paraphrase_prompts=("France has the capital",),
            neighborhood=(("The capital of Italy is", "Rome"),),
        ),
        Edit(case_id="12", prompt="Who was born in {}?", subject="Łódź", target_new="Paul"),
        Edit(case_id="13", prompt="{}", subject="Tokyo", target_new="France"),
    )
