"""What an experiment file may say, and the cells that it stands for."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import InputError
from collabedit.experiments.schema import Experiment, load_experiment, parse_methods

FILE = """
version = 1
name = "small"
title = "A small one"
[model]
name = "tiny"
[[editors]]
editor = "memit"
[[grids]]
methods = ["collabedit-sequential", "centralised", "task-arithmetic", "unedited"]
parties = [3]
edits_per_party = [2]
"""


def values(**grid: object) -> dict[str, Any]:
    made = copy.deepcopy(tomllib.loads(FILE))
    made["grids"][0].update(grid)
    return made


def labels(**grid: object) -> list[str]:
    return [cell.label for cell in Experiment.model_validate(values(**grid)).cells()]


def test_cells_are_all_combinations_in_order() -> None:
    found = labels(methods=["ties", "centralised"], edits_per_party=[1, 2], seeds=[4, 5])
    assert found == [
        f"{method}, memit, 3x{edits}, seed {seed}"
        for seed in (4, 5)
        for edits in (1, 2)
        for method in ("ties", "centralised")
    ]


def test_a_policy_is_of_sessions_and_a_memory_of_methods_that_remember() -> None:
    assert labels(conflict=[0.5], policy=["none", "drop"]) == [
        "collabedit-sequential, memit, 3x2, conflict 50%, none, seed 0",
        "collabedit-sequential, memit, 3x2, conflict 50%, drop, seed 0",
        "centralised, memit, 3x2, conflict 50%, none, seed 0",
        "task-arithmetic, memit, 3x2, conflict 50%, none, seed 0",
        "unedited, memit, 3x2, conflict 50%, none, seed 0",
    ]
    assert labels(rounds=[2], memory=[0, 1]) == [
        "collabedit-sequential, memit, 3x2, 2 rounds, seed 0",
        "collabedit-sequential, memit, 3x2, 2 rounds with memory 1, seed 0",
        "centralised, memit, 3x2, 2 rounds, seed 0",
        "centralised, memit, 3x2, 2 rounds with memory 1, seed 0",
        "task-arithmetic, memit, 3x2, 2 rounds, seed 0",
        "unedited, memit, 3x2, 2 rounds, seed 0",
    ]
    assert len(labels(memory=[0, 1], policy=["none", "majority"])) == 4


def test_grids_that_overlap_give_each_cell_once() -> None:
    made = values(methods=["ties"])
    made["grids"].append({**made["grids"][0], "edits_per_party": [2, 3]})
    assert [cell.edits_per_party for cell in Experiment.model_validate(made).cells()] == [2, 3]


def test_only_some_methods() -> None:
    experiment = Experiment.model_validate(values())
    found = experiment.cells(only=parse_methods(["centralised"]))
    assert [cell.method for cell in found] == ["centralised"]
    with pytest.raises(InputError, match="--only magic: no such method"):
        parse_methods(["magic"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed = 3", "seed"),
        ("methods = []", "grids.0.methods"),
        ('methods = ["magic"]', "grids.0.methods.0"),
        ("parties = [2]", "grids.0.parties.0"),
        ("edits_per_party = [0]", "grids.0.edits_per_party.0"),
        ("overlap = [1.5]", "grids.0.overlap.0"),
        ("overlap = [0.5]\nconflict = [1.0]", "take more than the 2 edits"),
        ("conflict = [0.1]", "of 2 edits is none"),
    ],
)
def test_a_bad_file_is_refused_with_the_field_at_fault(
    tmp_path: Path, change: str, said: str
) -> None:
    field = change.split(" = ", maxsplit=1)[0]
    kept = [line for line in FILE.splitlines() if not line.startswith(f"{field} =")]
    path = tmp_path / "file.toml"
    path.write_text("\n".join([*kept, change]))
    with pytest.raises(InputError) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_editors_need_two_labels_and_all_but_ridge_a_covariance() -> None:
    made = values()
    made["editors"] = [{"editor": "memit"}, {"editor": "memit", "layers": [1]}]
    with pytest.raises(ValueError, match="the same label"):
        Experiment.model_validate(made)
    made["editors"][1]["label"] = "one layer"
    assert len(Experiment.model_validate(made).cells()) == 7, "the unedited model has no editor"
    made["covariance"] = None
    with pytest.raises(ValueError, match="needs a covariance"):
        Experiment.model_validate(made)


def test_a_bound_needs_a_cell_that_measures_it() -> None:
    made = values(methods=["collabedit-parallel"])
    made["acceptance"] = {"layer_error": 1e-5}
    Experiment.model_validate(made)
    made["acceptance"]["score_gap"] = 1.0
    with pytest.raises(ValueError, match="no cell of these methods measures"):
        Experiment.model_validate(made)
    made["grids"][0]["methods"] = ["collabedit-sequential", "centralised"]
    bounds = Experiment.model_validate(made).acceptance
    assert bounds.measurable(frozenset({"centralised"})).layer_error is None
    assert bounds.measurable(frozenset({"collabedit-sequential"})).score_gap is None


@pytest.mark.parametrize("content", [b"\xff", b"version = ", b"x" * (1 << 21)])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)):
        load_experiment(path)
    with pytest.raises(InputError, match="cannot read the experiment"):
        load_experiment(tmp_path / "none.toml")
