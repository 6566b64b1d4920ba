"""A line is there, whole and for good, or the file is as it was."""

import os
from pathlib import Path

import pytest

from collabedit.durable import append_line, read_lines, replace_file, sync
from collabedit.errors import StorageError


def test_lines_are_added_to_a_file_of_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("written", [0, 2])
def test_a_disk_that_takes_half_a_line_keeps_none_of_it(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    real, room = os.write, [written]

    def fill(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        room[0] -= 1
        return real(file, data[:1])

    monkeypatch.setattr("os.write", fill)
    with pytest.raises(StorageError, match="No space left"):
        append_line(path, "two")
    monkeypatch.undo()
    assert path.read_text() == "one\n"
    append_line(path, "three")
    assert path.read_text() == "one\nthree\n"


@pytest.mark.parametrize("left", ["t", "two", ""])
def test_what_a_writer_left_that_died_half_way_is_no_line(left: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    with path.open("a") as file:
        file.write(left)
    assert read_lines(path) == ["one"]
    append_line(path, "three")
    assert read_lines(path) == ["one", "three"]
    assert path.read_text() == "one\nthree\n"


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "lines") == []


def test_a_disk_that_does_not_sync_keeps_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")

    def refuse(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        append_line(path, "two")
    monkeypatch.undo()
    assert path.read_text() == "one\n"


def test_the_first_line_makes_the_name_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("collabedit.durable.sync", synced.append)
    append_line(tmp_path / "lines", "one")
    append_line(tmp_path / "lines", "two")
    assert synced == [tmp_path]


def test_what_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "gone")


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_a_file_takes_the_place_of_the_one_before(private: bool, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        replace_file(path, data, private=private)
        assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["os.write", "os.fsync"])
def test_a_disk_that_refuses_a_file_keeps_the_one_before_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"one", private=True)

    def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, refuse)
    with pytest.raises(StorageError, match="No space left"):
        replace_file(path, b"two", private=True)
    monkeypatch.undo()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
