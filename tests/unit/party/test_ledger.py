"""The record of openings."""

from pathlib import Path

import pytest

from collabedit.errors import InputError
from collabedit.ids import TaskIndex
from collabedit.party.edits import Edit
from collabedit.party.ledger import Ledger

WEIGHTS = "sha256:" + "11" * 32


def edit(subject: str) -> Edit:
    return Edit(
        prompt="{} lives in",
        subject=subject,
        target_new="Rome",
        target_true=None,
        paraphrase_prompts=(),
        neighborhood=(),
        generation_prompts=(),
        relation=None,
        case_id="1",
    )


def ledger(path: Path, subject: str = "Ada", weights: str = WEIGHTS) -> Ledger:
    return Ledger(path / "ledger.jsonl", edits=[edit(subject)], weights=weights)


def test_the_same_edits_on_the_same_weights_are_refused_after_an_opening(tmp_path: Path) -> None:
    ledger(tmp_path).check()
    ledger(tmp_path).record(bytes(32), TaskIndex(0))
    with pytest.raises(InputError, match="opened before"):
        ledger(tmp_path).check()
    ledger(tmp_path, subject="Bob").check()
    ledger(tmp_path, weights="sha256:" + "22" * 32).check()


def test_the_file_is_private_and_holds_no_text(tmp_path: Path) -> None:
    ledger(tmp_path).record(bytes(32), TaskIndex(3))
    file = tmp_path / "ledger.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "Ada" not in file.read_text()
    assert str(ledger(tmp_path)) == f"Ledger({file})"


def test_a_damaged_file_is_refused_by_line(tmp_path: Path) -> None:
    ledger(tmp_path).record(bytes(32), TaskIndex(0))
    with (tmp_path / "ledger.jsonl").open("a") as stream:
        stream.write('{"edits": "x"\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        ledger(tmp_path, subject="Bob").check()


def test_a_disk_that_refuses_stops_the_opening(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        ledger(tmp_path).record(bytes(32), TaskIndex(0))
