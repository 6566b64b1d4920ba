"""`party apply`, `party export` and `party undo` on files, as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.audit_reports import rich
from tests.support.processes import Federation, run_here
from tests.support.saved_models import store_update

INPUT, ACCEPTANCE = 2, 7


@pytest.fixture
def update(federation: Federation, tmp_path: Path) -> Path:
    return store_update(federation.plan, tmp_path / "update.safetensors", scale=0.02)


def apply(federation: Federation, update: Path, output: Path, *more: object) -> list[object]:
    return [
        *("party", "apply", "--plan", federation.plan_file, "--model", federation.model),
        *("--update", update, "--output", output, *more),
    ]


def export(federation: Federation, update: Path, output: Path, *more: object) -> list[object]:
    return [
        *("party", "export", "--plan", federation.plan_file),
        *("--update", update, "--output", output, *more),
    ]


def undo(federation: Federation, edited: Path, output: Path, *more: object) -> list[object]:
    return [
        *("party", "undo", "--plan", federation.plan_file),
        *("--edited", edited, "--output", output, *more),
    ]


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_an_edit_and_its_undo(federation: Federation, update: Path, tmp_path: Path) -> None:
    run_here(*apply(federation, update, tmp_path / "edited")).ok()
    assert weights(tmp_path / "edited") != weights(federation.model)
    outcome = run_here(*undo(federation, tmp_path / "edited", tmp_path / "back"))
    outcome.ok()
    assert "from its kept originals" in outcome.lines[-1]
    assert "bit for bit the model that the plan names" in outcome.lines[-1]
    assert weights(tmp_path / "back") == weights(federation.model)
    assert {p.name for p in (tmp_path / "back").iterdir()} == {
        path.name for path in federation.model.iterdir()
    }


def test_an_undo_by_subtraction_says_what_it_reached(
    federation: Federation, update: Path, tmp_path: Path
) -> None:
    edited, back = tmp_path / "edited", tmp_path / "back"
    run_here(*apply(federation, update, edited, "--no-keep-originals")).ok()
    outcome = run_here(*undo(federation, edited, back))
    assert outcome.code == INPUT
    assert "has not kept its originals" in outcome.lines[-1]
    outcome = run_here(*undo(federation, edited, back, "--update", update))
    assert outcome.code == ACCEPTANCE
    assert federation.plan.model.weights in outcome.lines[-1]
    assert not back.exists()
    subtract = ("--update", update, "--accept-rounding")
    outcome = run_here(*undo(federation, edited, back, *subtract))
    outcome.ok()
    assert "not bit for bit" in outcome.lines[-1]
    found = load_file(back / "model.safetensors")
    for name, wanted in load_file(federation.model / "model.safetensors").items():
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-6)


def test_an_adapter_names_its_model_and_layers(
    federation: Federation, update: Path, tmp_path: Path
) -> None:
    outcome = run_here(*export(federation, update, tmp_path / "a", "--base-model", "org/model"))
    outcome.ok()
    assert "rank 3 in layer 1, 3 in layer 3" in outcome.lines[-1]
    configuration = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert configuration["base_model_name_or_path"] == "org/model"
    assert configuration["target_modules"] == [
        *("model.layers.1.mlp.down_proj", "model.layers.3.mlp.down_proj")
    ]


def test_cards_hold_the_audit_and_no_edit(
    federation: Federation, update: Path, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.json"
    report = rich()
    audit.write_text(report.model_dump_json())
    run_here(*apply(federation, update, tmp_path / "edited", "--audit", audit)).ok()
    run_here(*export(federation, update, tmp_path / "adapter", "--audit", audit)).ok()
    secrets = {
        text
        for name in federation.parties
        for record in json.loads(federation.member(name).edits.read_text())
        for text in (
            record["requested_rewrite"]["subject"],
            record["requested_rewrite"]["prompt"],
            *record["paraphrase_prompts"],
        )
    }
    assert len(secrets) > 10
    for directory in ("edited", "adapter"):
        card = (tmp_path / directory / "README.md").read_text()
        assert all(verdict.severity in card for verdict in report.verdicts)
        for path in (tmp_path / directory).rglob("*"):
            written = path.read_bytes() if path.is_file() else b""
            if path.name not in {"tokenizer.json", "model.safetensors"}:
                assert not [text for text in secrets if text.encode() in written], path


@pytest.fixture
def files(federation: Federation, update: Path) -> tuple[Federation, Path]:
    return federation, update


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        (export, ["--format", "gguf"], "--format gguf: must be peft"),
        (export, ["--audit", "PLAN"], "is no report of an audit"),
        (export, ["--audit", "nowhere"], "nowhere: No such file"),
        (apply, ["--report", "PLAN"], "is no report of `party join`"),
        (apply, ["--previous", "UPDATE"], "continues no session"),
        (export, ["--previous", "UPDATE"], "continues no session"),
    ],
)
def test_what_does_not_fit_is_refused(
    command: Callable[..., list[object]],
    more: list[str],
    said: str,
    files: tuple[Federation, Path],
    tmp_path: Path,
) -> None:
    federation, update = files
    options = [
        text.replace("PLAN", str(federation.plan_file)).replace("UPDATE", str(update))
        for text in more
    ]
    outcome = run_here(*command(federation, update, tmp_path / "out", *options))
    assert outcome.code == INPUT
    assert said in outcome.lines[-1]
    assert not (tmp_path / "out").exists()


def test_an_undo_of_something_else_is_refused(federation: Federation, tmp_path: Path) -> None:
    outcome = run_here(*undo(federation, federation.model, tmp_path / "out"))
    assert outcome.code == INPUT
    assert "it was not written by this program" in outcome.lines[-1]
    outcome = run_here(
        *undo(federation, federation.model, tmp_path / "out", "--previous", federation.plan_file)
    )
    assert "--previous has no meaning without --update" in outcome.lines[-1]
