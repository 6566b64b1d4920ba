"""`party apply --camouflage`: another checkpoint of the same update, which stays as it is."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from collabedit.ids import LayerIndex
from collabedit.party.editing.camouflage import load_decoys, row_space
from collabedit.party.editing.editor import key_maps, load_plan_covariance
from collabedit.party.editing.updates import load_update
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.processes import Federation, run_here
from tests.support.saved_models import store_update

INPUT = 2
RANK = 3


@pytest.fixture
def update(federation: Federation, tmp_path: Path) -> Path:
    """An update as `party join` stores it, of rank 3 in every layer."""
    return store_update(federation.plan, tmp_path / "update.safetensors", rank=RANK)


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    path = tmp_path / "decoys.json"
    path.write_text(json.dumps([f"{name} {way}" for name in "abcdef" for way in ("hill", "lake")]))
    return path


def apply(federation: Federation, update: Path, output: Path, *more: object) -> list[object]:
    return [
        *("party", "apply", "--plan", federation.plan_file, "--model", federation.model),
        *("--update", update, "--output", output, *more),
    ]


def changes(federation: Federation, edited: Path) -> dict[str, Matrix]:
    """What was added to each weight that changed."""
    base, now = (load_file(path / "model.safetensors") for path in (federation.model, edited))
    added = {name: now[name].astype(np.float64) - base[name] for name in base}
    return {name: delta for name, delta in added.items() if delta.any()}


def test_the_checkpoint_has_another_row_space_and_the_update_stays(
    federation: Federation, update: Path, decoys: Path, tmp_path: Path
) -> None:
    stored = update.read_bytes()
    run_here(*apply(federation, update, tmp_path / "plain")).ok()
    hide = ("--camouflage", decoys, "--covariance", federation.covariance)
    outcome = run_here(*apply(federation, update, tmp_path / "one", *hide))
    outcome.ok()
    assert f"{RANK} of 12 decoys are mixed into {RANK} directions" in "\n".join(outcome.lines)
    more = ("--camouflage-strength", "2.5", "--camouflage-decoys-per-direction", "3")
    run_here(*apply(federation, update, tmp_path / "two", *hide, *more)).ok()
    run_here(*apply(federation, update, tmp_path / "again", *hide)).ok()
    assert update.read_bytes() == stored
    plain, one, two, again = (
        changes(federation, tmp_path / name) for name in ("plain", "one", "two", "again")
    )
    assert plain.keys() == one.keys() == two.keys()
    maps = key_maps(federation.plan, load_plan_covariance(federation.plan, federation.covariance))
    layer = LayerIndex(federation.plan.editing.layers[0].index)
    released = load_update(update, weights=federation.plan.model.weights).updates[layer]
    mapped = LowRankUpdate(released.left, maps[layer].remap_rows(released.right))
    space = row_space(mapped)
    assert space.shape[1] == RANK
    phi = maps[layer].map_keys(np.eye(released.right.shape[1]))
    edited = np.linalg.solve(phi, space)  # keys that Φ maps into the row space
    name = next(iter(plain))  # of the lowest layer
    before = plain[name] @ edited
    for hidden in (one, two, again):
        np.testing.assert_allclose(
            hidden[name] @ edited, before, rtol=0, atol=1e-4 * np.abs(before).max()
        )
    for left, right in ((one, plain), (two, one), (again, one)):
        difference = np.linalg.norm(left[name] - right[name])
        assert difference > 0.2 * np.linalg.norm(plain[name])


@pytest.fixture
def files(update: Path, decoys: Path) -> tuple[Path, Path]:
    return update, decoys


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--camouflage-strength", "2"], "--camouflage-strength has no meaning without"),
        (["--camouflage-decoys-per-direction", "2"], "--camouflage-decoys-per-direction has no"),
        (["--covariance", "DIRECTORY/covariance.safetensors"], "--covariance has no meaning"),
        (["--camouflage", "DECOYS"], "needs the covariance file"),
        (
            [
                *("--camouflage", "DECOYS", "--covariance", "DIRECTORY/covariance.safetensors"),
                *("--camouflage-decoys-per-direction", "5"),
            ],
            "12 decoys for 3 directions with 5 each: give 15 or more",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    more: list[str], said: str, federation: Federation, files: tuple[Path, Path], tmp_path: Path
) -> None:
    update, decoys = files
    options = [
        text.replace("DIRECTORY", str(federation.directory)).replace("DECOYS", str(decoys))
        for text in more
    ]
    outcome = run_here(*apply(federation, update, tmp_path / "out", *options))
    assert outcome.code == INPUT
    assert said in outcome.lines[-1]
    assert not (tmp_path / "out").exists()


def test_decoys_are_subjects_or_records(tmp_path: Path) -> None:
    path = tmp_path / "decoys.json"
    path.write_text(json.dumps(["Oslo ", "Rome", "Oslo"]))
    assert [edit.subject for edit in load_decoys(path)] == ["Oslo", "Rome"]
    record = {"prompt": "Oslo lies in", "subject": "Oslo", "target_new": "Chad"}
    path.write_text(json.dumps([record, {**record, "prompt": "Where is Oslo"}]))
    assert [edit.prompt for edit in load_decoys(path)] == ["{} lies in"]


@pytest.mark.parametrize("entries", [["Oslo", ""], ["Oslo", 3], ["Oslo", "{}"]])
def test_an_entry_that_is_no_subject_is_named_by_number(
    entries: list[object], federation: Federation, update: Path, tmp_path: Path
) -> None:
    path = tmp_path / "decoys.json"
    path.write_text(json.dumps(entries))
    hide = ("--camouflage", path, "--covariance", federation.covariance)
    outcome = run_here(*apply(federation, update, tmp_path / "out", *hide))
    assert outcome.code == INPUT
    assert f"{path}: entry 2: is no subject" in outcome.lines[-1]
    assert "Oslo" not in outcome.lines[-1]
