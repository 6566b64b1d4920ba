"""The record of openings."""

from pathlib import Path

import pytest

from collabedit.errors import InputError, JournalError, StorageError
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
    with pytest.raises(StorageError, match="cannot be written"):
        ledger(tmp_path / "gone").record(bytes(32), TaskIndex(0))


def test_the_openings_of_the_session_that_is_resumed_are_no_repetition(tmp_path: Path) -> None:
    ledger(tmp_path).record(bytes(32), TaskIndex(0))
    ledger(tmp_path).check(resuming=bytes(32))
    with pytest.raises(InputError, match="opened before"):
        ledger(tmp_path).check(resuming=b"x" * 32)
    accepting = Ledger(
        tmp_path / "ledger.jsonl", edits=[edit("Ada")], weights=WEIGHTS, accept_repeated=True
    )
    accepting.check()


def test_an_opening_is_written_once_and_never_done_twice(tmp_path: Path) -> None:
    for _ in range(2):
        ledger(tmp_path).record(bytes(32), TaskIndex(0), replayed=True)
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 1
    with pytest.raises(JournalError, match="older copy"):
        ledger(tmp_path).record(bytes(32), TaskIndex(0))
    ledger(tmp_path).record(bytes(32), TaskIndex(1))
