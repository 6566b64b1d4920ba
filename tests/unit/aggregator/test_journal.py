"""The journal keeps every acknowledged input, in order, and notices what it lost."""

import sqlite3
from pathlib import Path

import pytest

from collabedit.aggregator.journal import InputKind, Journal
from collabedit.errors import JournalError, StorageError
from collabedit.ids import PartyId, TaskIndex

SESSION, PLAN = b"s" * 32, b"p" * 32
FIRST = TaskIndex(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def filled(path: Path, inputs: int = 5) -> Journal:
    journal = Journal(path)
    journal.begin(SESSION, PLAN)
    for number in range(inputs):
        journal.append(InputKind.PACKET, bytes([number]) * 10)
    return journal


def alter(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()


def test_inputs_come_back_in_order_after_a_restart(path: Path) -> None:
    filled(path).close()
    journal = Journal(path)
    assert journal.session is not None
    assert (journal.session.session_id, journal.session.plan_digest) == (SESSION, PLAN)
    journal.append(InputKind.ROUND_CLOSED)
    found = [(entry.number, entry.kind, entry.data) for entry in journal.inputs()]
    packets = [(n, InputKind.PACKET, bytes([n]) * 10) for n in range(5)]
    assert found == [*packets, (5, InputKind.ROUND_CLOSED, b"")]
    assert journal.check(journal.session) == 6


def test_what_is_written_survives_without_a_close(path: Path) -> None:
    """What a `kill -9` leaves: the file is copied while its writer still holds it."""
    journal = filled(path)
    copy = path.with_name("copy.sqlite")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(
            path.with_name(path.name + suffix).read_bytes()
        )
    assert [entry.data for entry in Journal(copy).inputs()] == [
        entry.data for entry in journal.inputs()
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM inputs WHERE number = 2",
        "UPDATE inputs SET data = x'00' WHERE number = 3",
        "UPDATE inputs SET data = x'00', digest = x'00' WHERE number = 3",
        "UPDATE inputs SET kind = 2 WHERE number = 0",
        "UPDATE inputs SET what = 'Confirm of party 2' WHERE number = 0",
        "UPDATE inputs SET at_ms = at_ms + 1 WHERE number = 1",
        "UPDATE inputs SET number = 9 WHERE number = 4",
    ],
)
def test_an_altered_row_is_noticed(statement: str, path: Path) -> None:
    filled(path).close()
    alter(path, statement)
    with pytest.raises(JournalError, match="is damaged"):
        Journal(path)


def test_a_file_that_is_no_journal_is_named(path: Path) -> None:
    path.write_bytes(b"this is not a database, but long enough to be one" * 50)
    with pytest.raises(JournalError, match="journal is damaged"):
        Journal(path)


def test_a_page_of_zeros_is_noticed(path: Path) -> None:
    filled(path, 200).close()
    data = bytearray(path.read_bytes())
    data[8192:12288] = bytes(4096)
    path.write_bytes(data)
    with pytest.raises(JournalError, match="damaged"):
        Journal(path)


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    alter(path, "CREATE TABLE theirs (x)")
    with pytest.raises(JournalError, match="not a journal"):
        Journal(path)


def test_two_aggregators_cannot_share_a_journal(path: Path) -> None:
    journal = filled(path)
    with pytest.raises(JournalError, match="another aggregator"):
        Journal(path)
    journal.append(InputKind.PACKET, b"still mine")


def test_a_directory_that_is_not_there_is_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        Journal(tmp_path / "missing" / "journal.sqlite")


def test_the_journal_is_the_owners_alone(path: Path) -> None:
    journal = filled(path)
    modes = {file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {0o600}
    journal.close()


def test_a_full_disk_refuses_an_input_and_keeps_the_others(path: Path) -> None:
    journal = filled(path)
    journal._database.execute("PRAGMA max_page_count = 12")
    with pytest.raises(StorageError, match="full"):
        journal.append(InputKind.PACKET, bytes(1 << 20))
    assert len(list(journal.inputs())) == 5
    journal._database.execute("PRAGMA max_page_count = 100000")
    journal.append(InputKind.PACKET, b"after space was freed")
    journal.close()
    assert [entry.data for entry in Journal(path).inputs()][-1] == b"after space was freed"


def test_a_read_only_disk_refuses_an_input(path: Path) -> None:
    journal = filled(path)
    journal._database.execute("PRAGMA query_only = ON")
    with pytest.raises(StorageError, match="readonly"):
        journal.append(InputKind.PACKET, b"x")
    journal._database.execute("PRAGMA query_only = OFF")
    journal.append(InputKind.PACKET, b"x")
    assert len(list(journal.inputs())) == 6


def test_a_clock_that_jumps_back_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(path)
    monkeypatch.setattr("time.time_ns", lambda: -5_000_000_000)
    journal.append(InputKind.PACKET, b"before 1970")
    journal.close()
    assert len(list(Journal(path).inputs())) == 6


def test_the_end_erases_inputs_and_keeps_a_log_that_can_be_checked(path: Path) -> None:
    journal = filled(path)
    journal.add_tiles(FIRST, PartyId(1), {0: b"d" * 32})
    session = journal.session
    assert session is not None
    journal.end("finished")
    assert journal.session is None
    assert journal.tiles(FIRST) == {}
    assert [entry.data for entry in journal.inputs(session)] == [None] * 5
    assert journal.check(session) == 5
    journal.close()
    for file in path.parent.iterdir():
        assert bytes([3]) * 10 not in file.read_bytes()
    (again,) = Journal(path).sessions()
    assert again.outcome == "finished"


def test_tiles_are_kept_by_task_and_party(path: Path) -> None:
    journal = filled(path)
    one, two = PartyId(1), PartyId(2)
    journal.add_tiles(FIRST, one, {0: b"a" * 32, 7: b"b" * 32})
    journal.add_tiles(FIRST, two, {0: b"c" * 32})
    journal.add_tiles(TaskIndex(1), one, {0: b"d" * 32})
    journal.close()
    journal = Journal(path)
    assert journal.tiles(FIRST) == {one: {0: b"a" * 32, 7: b"b" * 32}, two: {0: b"c" * 32}}
    journal.forget_tiles(FIRST, one)
    assert journal.tiles(FIRST) == {two: {0: b"c" * 32}}
    journal.forget_tiles(FIRST)
    assert journal.tiles(FIRST) == {}
    assert journal.tiles(TaskIndex(1)) == {one: {0: b"d" * 32}}


def test_without_a_session_nothing_is_written(path: Path) -> None:
    with pytest.raises(JournalError, match="no session"):
        Journal(path).append(InputKind.PACKET, b"x")
