"""The table of camouflage says what its rows show; small, on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.attacks.attack import Prior
from collabedit.experiments.cache import Cache
from collabedit.ids import LayerIndex
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.editor import key_maps
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import load_model
from collabedit.party.edits import Edit
from collabedit.plan import Plan
from tests.audit import camouflage_table
from tests.audit.camouflage_table import (
    AttackRow,
    ModelRow,
    Setting,
    attack_rows,
    failures,
    main,
    model_rows,
    variants,
)
from tests.audit.camouflage_world import World, divergence, edit_model, length
from tests.audit.closed_world import PriorName
from tests.support.federations import build_federation
from tests.support.tiny_models import D_IN, D_MODEL, VOCABULARY, build_tiny_model

LAYER, EDITS = 1, 2
TINY = Setting(edits=(EDITS,), pool=20, source=8, draws=2, measured=EDITS)
NAMES = [f"{first}{last}" for first in ("Ad", "Be", "Cy", "De", "Ev", "Fa") for last in "aeou"][:22]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("camouflage")
    model = load_model(build_tiny_model("llama", directory / "model"), dtype="float64")
    values = build_federation(3).plan.model_dump()
    values["editing"]["layers"] = (
        {"index": LAYER, "inputs": D_IN, "outputs": D_MODEL, "mapped": D_IN},
    )
    values["editing"]["context_templates"] = ("{}",)
    values["editing"]["covariance_weight"] = 1.0
    plan = Plan.model_validate(values)
    generator = torch.Generator().manual_seed(5)
    windows = torch.randint(2, VOCABULARY, (64, 32), generator=generator)
    maps = key_maps(plan, second_moments(model, windows, [LAYER], provenance={}))
    edits = [
        Edit(
            case_id=name,
            prompt="{} plays the",
            subject=f"{name} {name[::-1]}",
            target_new="piano",
            target_true="guitar",
            paraphrase_prompts=(f"{name} likes the",),
            neighborhood=((f"{name[::-1]} plays the", "guitar"),),
        )
        for name in NAMES
    ]
    keys = maps[LAYER].map_keys(compute_keys(model, edits, LAYER, ("{}",)).numpy())
    prior = Prior({LayerIndex(LAYER): keys})
    updates = edit_model(model, plan, maps, edits[:EDITS], Cache(directory / "cache"))
    priors: dict[PriorName, Prior] = {"exact": prior, "generic": prior}
    return World(model, plan, maps, edits, priors, {EDITS: updates}, "made-up names")


@pytest.fixture(scope="module")
def attacks(world: World) -> list[AttackRow]:
    return attack_rows(world, TINY, edits=EDITS)


@pytest.fixture(scope="module")
def models(world: World) -> list[ModelRow]:
    digest = world.model.weights_digest()
    rows = model_rows(world, TINY)
    assert world.model.weights_digest() == digest
    return rows


def test_rows_show_the_control_and_every_variant(attacks: list[AttackRow]) -> None:
    assert {(row.strength, row.per_direction) for row in attacks} == set(variants())
    assert len(attacks) == 3 * 2 * (1 + 2 * (len(variants()) - 1))
    for row in attacks:
        if row.strength == 0:
            assert (row.decoys, row.recall, row.auc) == ("none", 1.0, 1.0)
        assert 0 <= row.recall <= row.wide <= 1
    span = {
        (row.strength, row.per_direction): row.recall
        for row in attacks
        if row.attack == "span" and row.decoys == "inside" and row.prior == "exact"
    }
    assert span[5.0, 1] < 1.0


def test_the_model_is_measured_with_every_variant(models: list[ModelRow]) -> None:
    assert [(row.strength, row.per_direction) for row in models] == variants()
    by_variant = {(row.strength, row.per_direction): row for row in models}
    plain = by_variant[0.0, 1]
    assert plain.ratio == pytest.approx(1.0)
    assert plain.told_apart is None
    # An edit's own prompt is its only context template: its key is in the row space exactly.
    assert all(row.efficacy == plain.efficacy for row in models)
    ratios = [by_variant[strength, 1].ratio for strength in camouflage_table.STRENGTHS]
    assert ratios == sorted(ratios)
    assert by_variant[1.0, 3].ratio > by_variant[1.0, 1].ratio


def test_what_is_not_as_claimed_is_named(attacks: list[AttackRow], models: list[ModelRow]) -> None:
    blind = [replace(row, recall=0.1, wide=0.1) for row in attacks]
    assert any("the control does not leak" in line for line in failures(blind, models))
    assert any("are not among" in line for line in failures(blind, models))
    sharp = [replace(row, recall=1.0, wide=1.0) for row in attacks]
    assert failures(sharp, models) == [
        f"{EDITS} edits, α = 1, q = {q}: the span test names 1.00 of the edits" for q in (1, 3)
    ]
    fair = [replace(row, recall=1.0 if row.strength == 0 else 0.2, wide=1.0) for row in attacks]
    assert not failures(fair, models)
    dear = [replace(row, efficacy=100.0 - 10 * row.strength) for row in models]
    assert "efficacy 90.0, 100.0 without" in failures(fair, dear)[0]


def test_divergence_is_that_of_jensen_and_shannon() -> None:
    one, other = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    found = divergence(one.clamp(min=1e-30).log(), other.clamp(min=1e-30).log())
    np.testing.assert_allclose(found, [np.log(2), 0.0], atol=1e-6)


def test_the_length_is_frobenius(world: World) -> None:
    (update,) = world.updates[EDITS].values()
    assert length(world.updates[EDITS]) == pytest.approx(np.linalg.norm(update.dense()))


def test_the_command_writes_both_tables(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(camouflage_table, "read_world", lambda _options, _setting: world)
    monkeypatch.setattr(camouflage_table, "SMALL", TINY)
    out = tmp_path / "table.json"
    status = main(["--out", str(out)])
    record = json.loads(out.read_text())
    assert status == bool(record["failures"])
    assert {row["attack"] for row in record["attacks"]} == {"span", "pairs", "dictionary"}
    assert len(record["models"]) == len(variants())
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| edits")]
    assert [head.count("|") for head in heads] == [11, 12]
