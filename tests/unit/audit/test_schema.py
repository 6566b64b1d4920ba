"""Audit files: what they expand to, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from collabedit.attacks.registry import installed
from collabedit.audit.running import split_cells
from collabedit.audit.schema import Audit, load_audit, parse_limit_name
from collabedit.errors import InputError
from collabedit.threat_model import Adversary

FILES = sorted((Path(__file__).parents[3] / "audits").glob("*.toml"))


def values(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  any TOML
    return {
        "version": 1,
        "name": "tiny",
        "title": "A tiny one",
        "model": {"name": "tiny"},
        "editor": {"layers": [1, 2]},
        "pool": {"candidates": 20},
        "grids": [{"defences": ["masked"], "parties": [3], "edits": [6]}],
        **changes,
    }


def audit(**changes: Any) -> Audit:  # noqa: ANN401  any TOML
    return Audit.model_validate(values(**changes))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_of_the_project_expand_to_cells_with_views(path: Path) -> None:
    known = installed()
    found = load_audit(path)
    assert found.name == path.stem
    run, _ = split_cells(found.cells(known), known)
    assert {"sum-span", "update-span", "attribution", "differencing", "collusion"} <= {
        cell.attack for cell in run
    }


def test_cells_are_each_there_once_and_in_the_order_of_the_file() -> None:
    grid = {"attacks": ["sum-span"], "defences": ["masked", "closed"], "parties": [3]}
    cells = audit(
        grids=[{**grid, "edits": [6], "seeds": [2, 1]}, {**grid, "edits": [6], "seeds": [1]}]
    ).cells(installed())
    assert [(c.setting.defence, c.setting.seed) for c in cells] == [
        ("masked", 2),
        ("masked", 1),
        ("closed", 2),
        ("closed", 1),
    ]
    assert {cell.setting.scope for cell in cells} == {"first"}


def test_a_star_is_every_attack_and_only_leaves_others_out() -> None:
    known = installed()
    found = audit()
    assert {cell.attack for cell in found.cells(known)} == set(known)
    assert {cell.attack for cell in found.cells(known, only=frozenset({"ica"}))} == {"ica"}


def test_what_has_no_view_is_left_out_with_a_reason() -> None:
    known = installed()
    grid = {"defences": ["masked", "camouflage"], "parties": [3, 4], "edits": [6]}
    run, left_out = split_cells(audit(grids=[grid]).cells(known), known)
    why = {(c.attack, c.setting.defence, c.setting.parties): reason for c, reason in left_out}
    assert "no second sum" in why["differencing", "masked", 3].replace("there is no", "no")
    assert "for recipients" in why["sum-span", "camouflage", 3]
    there = {(c.attack, c.setting.defence, c.setting.parties) for c in run}
    assert ("differencing", "masked", 4) in there
    assert ("update-span", "camouflage", 3) in there
    assert not there & set(why)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grids": [{"defences": ["masked"], "parties": [2], "edits": [6]}]}, "parties"),
        ({"grids": [{"defences": ["sealed"], "parties": [3], "edits": [6]}]}, "defences"),
        ({"grids": [{"defences": ["masked"], "parties": [3], "edits": [11]}]}, "at most half"),
        ({"grids": [{"defences": ["masked"], "parties": [7], "edits": [6]}]}, "each has one"),
        ({"pool": {"candidates": 20, "members": 5}}, "nobody can edit more"),
        ({"pool": {"candidates": 20, "members": 21}}, "exceeds"),
        ({"limits": {"auc:nobody": 0.5}}, "METRIC:ADVERSARY"),
        ({"covariance": {"tokens": 0}}, "tokens"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_the_field(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(tomli_w.dumps(values(**changes)))
    with pytest.raises(InputError, match=said) as caught:
        load_audit(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["version = 1\nversion = 1", "\x00", "[" * 2000])
def test_what_is_no_toml_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="not TOML"):
        load_audit(path)
    with pytest.raises(InputError, match="cannot read"):
        load_audit(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacks": {"guess": {}}}, "attack guess is not installed"),
        ({"attacks": {"spectrum": {"speed": 1}}}, "has no setting speed"),
        (
            {
                "grids": [
                    {"attacks": ["guess"], "defences": ["masked"], "parties": [3], "edits": [6]}
                ]
            },
            "attack guess is not installed",
        ),
    ],
)
def test_attacks_that_are_not_there_and_unknown_settings_are_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        audit(**changes).cells(installed())


def test_a_limit_names_a_metric_and_an_adversary() -> None:
    assert parse_limit_name("recall@n:honest-aggregator") == (
        "recall@n",
        Adversary.HONEST_AGGREGATOR,
    )
