"""The editing engine on the demo's real model: one party, all edits in one place."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.demo.assets import fetch_demo_model
from collabedit.party.editing.apply import apply_update
from collabedit.party.editing.baselines import centralised_update
from collabedit.party.editing.corpus import PYTHON_DOCS, read_source, token_windows
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.evaluate import evaluate
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import EditableModel, load_model, save_checkpoint
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.targets import TargetSettings, compute_targets
from collabedit.party.edits import Edit, load_edits
from collabedit.sketch import LowRankUpdate, expand_test_matrix, merge_sketch, sketch

pytestmark = pytest.mark.slow

LAYERS = (4, 5, 6, 7, 8)
WEIGHT = 1500.0
TEMPLATES = ("{}", "The reason is simple. {}", "It is well known. {}")
SETTINGS = TargetSettings(learning_rate=0.5, steps=20, clamp_factor=4.0, weight_decay=1e-3)

FACTS = (
    ("The capital of {} is", "France", "Rome", "Paris", "The capital of Italy is", "Rome"),
    ("The capital of {} is", "Japan", "Berlin", "Tokyo", "The capital of Germany is", "Berlin"),
    ("{} was written by", "Hamlet", "Goethe", "Shakespeare", "Faust was written by", "Goethe"),
    ("In {} people speak", "Brazil", "Dutch", "Portuguese", "In Spain people speak", "Spanish"),
)


@pytest.fixture(scope="module")
def model_directory() -> Path:
    cache = Path(__file__).parents[2] / ".cache" / "collabedit"
    return fetch_demo_model(cache)


@pytest.fixture
def model(model_directory: Path) -> EditableModel:
    torch.set_num_threads(2)
    return load_model(model_directory)


@pytest.fixture
def facts(tmp_path: Path) -> tuple[Edit, ...]:
    names = ["prompt", "subject", "target_new", "ground_truth"]
    names += ["locality_prompt", "locality_ground_truth"]
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(names, fact, strict=True))) for fact in FACTS))
    return load_edits(path)


def test_it_knows_what_it_should(model: EditableModel, facts: tuple[Edit, ...]) -> None:
    metrics = evaluate(model, facts).metrics
    assert metrics.efficacy == 0.0
    assert metrics.generation_accuracy == 0.0


def test_edits_take_and_the_sketched_merge_is_the_centralised_one(
    model: EditableModel, facts: tuple[Edit, ...], tmp_path: Path
) -> None:
    text, provenance = read_source(PYTHON_DOCS)
    windows = token_windows(model, text, window=256, max_tokens=12_000)
    covariance = second_moments(model, windows, LAYERS, provenance=provenance)
    targets = compute_targets(
        model, facts, layer=LAYERS[-1], templates=TEMPLATES, settings=SETTINGS
    )
    before = evaluate(model, facts, text=text, window=256, max_tokens=2_000).metrics
    for layer in LAYERS:
        keys = compute_keys(model, facts, layer, TEMPLATES).numpy()
        wanted = residuals(
            model, facts, targets, layer, layers=LAYERS, schedule="sequential"
        ).numpy()
        key_map = KeyMap.from_covariance(covariance.matrices[layer], WEIGHT)
        omega = expand_test_matrix(bytes(32), layer=layer, rows=key_map.mapped, columns=16)
        merged = merge_sketch(
            sketch(key_map.map_keys(keys), wanted, omega), omega, ridge=1.0, noise=0.0
        )
        update = LowRankUpdate(merged.left, key_map.unmap_rows(merged.right))
        reference = centralised_update(keys, wanted, WEIGHT * covariance.matrices[layer])
        error = np.linalg.norm(update.dense() - reference) / np.linalg.norm(reference)
        assert error < 1e-8
        apply_update(model, layer, update)
    after = evaluate(model, facts, text=text, window=256, max_tokens=2_000).metrics
    assert after.efficacy == 100.0
    assert after.generation_accuracy is not None
    assert after.generation_accuracy >= 75.0
    assert before.perplexity is not None
    assert after.perplexity is not None
    assert after.perplexity < 1.2 * before.perplexity
    save_checkpoint(model, tmp_path / "edited")
    assert load_model(tmp_path / "edited").weights_digest() == model.weights_digest()
