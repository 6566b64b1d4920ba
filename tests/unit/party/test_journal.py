"""The party's journal: what a crash leaves, what damage looks like, and that it shows nothing."""

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabedit.acceptance import Assessment, Measures, Vote
from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import JournalError, KeyFileError, StorageError
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import records
from collabedit.party.entries import (
    ContributionMade,
    OpeningBegun,
    OpeningMade,
    OpenSession,
    PacketAccepted,
    SessionStarted,
    TaskCompleted,
    TaskStarted,
    UpdateAccepted,
    UploadAccepted,
    decode_entry,
    encode_entry,
    fold_entries,
)
from collabedit.party.journal import PartyJournal
from collabedit.party.pieces import SealedFile
from collabedit.party.states import Uploaded
from tests.support.crashes import CrashPoints

CANARY = b"canary of a packet, a seed, a statistic"
SESSION, PLAN = b"s" * 32, b"p" * 32
VECTOR: RingArray = np.frombuffer((CANARY * 30)[:800], dtype="<u8").copy()
START = SessionStarted(SESSION, PLAN, bytes(32), PartyId(2))
TASK = TaskStarted(
    TaskIndex(0),
    b"c" * 32,
    CANARY[:32],
    hashlib.sha256(to_bytes(VECTOR)).digest(),
    b"a" * 32,
)
PACKET = PacketAccepted(3, b"b" * 32, CANARY * 3)
ENCODED = CANARY * 4
MADE = ContributionMade(hashlib.sha256(ENCODED).digest())
UPLOADED = UploadAccepted(Uploaded(100, 4, b"r" * 32), b"d" * 32)
SEEDED = UploadAccepted(Uploaded(100, 4, b"r" * 32, b"s" * 32), b"d" * 32)
BEGUN, OPENED = OpeningBegun(b"o" * 32), OpeningMade(b"m" * 32)
BUNDLE = CANARY * 2
FETCHED = UpdateAccepted(hashlib.sha256(BUNDLE).digest(), b"e" * 32)
DONE = TaskCompleted(
    TaskIndex(0), 7, FETCHED.digest, b"t" * 32, 1.5, 2.5, (PartyId(1), PartyId(2), PartyId(5))
)

ASSESSED = Assessment(Vote.NEIGHBOURHOOD, Measures(0.0, 1.0, 20.0), Measures(0.5, None, math.inf))
UNUSABLE = Assessment(Vote.UNUSABLE, Measures(None, None, 20.0), None)
VOTED = [replace(FETCHED, assessment=assessment) for assessment in (ASSESSED, UNUSABLE)]
KEPT = replace(
    DONE, votes=((PartyId(1), Vote.ACCEPT), (PartyId(2), Vote.UNUSABLE)), assessment=ASSESSED
)
CLOSED = replace(KEPT, group_secret=b"g" * 32)


def journal(work: Path, **options: object) -> PartyJournal:
    return PartyJournal(work, randomness=SystemRandomness(), **options)  # type: ignore[arg-type]


def file(work: Path, name: str = "session.journal") -> Path:
    return work / "journal" / name


def whole(sealed: SealedFile) -> bytes:
    return sealed.read(0, sealed.size)


def written(work: Path) -> OpenSession:
    """Leave a session in the midst of its first task."""
    with journal(work) as book:
        book.begin(SESSION, PLAN, PartyId(2))
        book.start_task(TASK, to_bytes(VECTOR))
        book.accept(PACKET)
        book.accept(UPLOADED)
        book.fetched(TaskIndex(0), BUNDLE, FETCHED)
        assert book.unfinished is not None
        return book.unfinished


@pytest.mark.parametrize(
    "entry",
    [
        START,
        TASK,
        PACKET,
        MADE,
        BEGUN,
        OPENED,
        UPLOADED,
        SEEDED,
        FETCHED,
        DONE,
        *VOTED,
        KEPT,
        CLOSED,
    ],
    ids=type,
)
def test_a_record_reads_back(entry: object) -> None:
    assert decode_entry(encode_entry(entry)) == entry  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="record"):
        decode_entry(encode_entry(TASK)[:-1])
    with pytest.raises(ValueError, match="another kind"):
        decode_entry(b"\x0b")


@given(
    done=st.builds(
        TaskCompleted,
        task=st.integers(0, 2**32 - 1).map(TaskIndex),
        cursor=st.integers(0, 2**64 - 1),
        update_digest=st.binary(min_size=32, max_size=32),
        sum_digest=st.binary(min_size=32, max_size=32),
        compute_seconds=st.floats(0, 1e9),
        protocol_seconds=st.floats(0, 1e9),
        survivors=st.lists(st.integers(1, 500).map(PartyId), max_size=9).map(tuple),
        votes=st.lists(
            st.tuples(st.integers(1, 500).map(PartyId), st.sampled_from(Vote)), max_size=9
        ).map(tuple),
        assessment=st.sampled_from([None, ASSESSED, UNUSABLE]),
        group_secret=st.none() | st.binary(min_size=32, max_size=32),
    )
)
def test_a_completed_task_reads_back_whatever_it_has(done: TaskCompleted) -> None:
    data = encode_entry(done)
    assert decode_entry(data) == done
    assert (done.group_secret or b"") in data
    assert "group_secret" not in repr(done)
    with pytest.raises(ValueError, match="record"):
        decode_entry(data[:20])


def test_records_that_cannot_follow_each_other_are_no_session() -> None:
    for entries in (
        *([], [TASK], [START, START], [START, PACKET], [START, TASK, TASK]),
        *([START, MADE], [START, TASK, MADE, MADE]),
    ):
        with pytest.raises(ValueError, match=r"start|record|task"):
            fold_entries(entries)  # type: ignore[arg-type]


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    before = written(tmp_path)
    with journal(tmp_path) as book:
        assert book.unfinished == before
        assert before.cursor == 3
        assert book.brought() == to_bytes(VECTOR)
        assert book.update(TaskIndex(0), FETCHED.digest) == BUNDLE
        book.complete_task(DONE)
    with journal(tmp_path) as book:
        assert book.unfinished == OpenSession(START, (DONE,))
        assert book.unfinished.cursor == 7
        assert book.update(TaskIndex(0), FETCHED.digest) == BUNDLE
        assert not file(tmp_path, "task-0.vector").exists()
        book.end()
    with journal(tmp_path) as book:
        assert book.unfinished is None
        assert [path.name for path in file(tmp_path).parent.iterdir()] == ["lock"]


def test_files_are_private_and_show_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    paths = [tmp_path / "journal.key", *file(tmp_path).parent.iterdir()]
    assert {path.name for path in paths} == {
        *("journal.key", "lock", "session.journal", "task-0.vector", "task-0.update")
    }
    assert stat.S_IMODE(file(tmp_path).parent.stat().st_mode) == 0o700
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        # Any eight bytes of a secret would do: a block that was written in the clear is seen.
        assert not any(CANARY[i : i + 8] in content for i in range(len(CANARY) - 8))
        assert SESSION[:8] not in content
    assert len(file(tmp_path, "task-0.vector").read_bytes()) > 800


def test_a_completed_tasks_seed_is_no_longer_in_the_journal(tmp_path: Path) -> None:
    written(tmp_path)
    with journal(tmp_path) as book:
        book.complete_task(DONE)
        assert book.unfinished is not None
        assert book.unfinished.task is None
    storage = records.StorageKey(
        tmp_path / "journal.key", (tmp_path / "journal.key").read_bytes(), SystemRandomness()
    )
    opened, kept = records.RecordFile.open(file(tmp_path), storage, name="session.journal")
    opened.close()
    assert len(kept) == 2
    assert CANARY[:32] not in b"".join(kept)


@pytest.mark.parametrize("tail", [1, 7, 8, 9, 60])
def test_a_torn_last_record_is_dropped(tail: int, tmp_path: Path) -> None:
    before = written(tmp_path)
    whole = file(tmp_path).read_bytes()
    with journal(tmp_path) as book:
        book.complete_task(DONE)  # any file with records behind the ones that stay
    file(tmp_path).write_bytes(whole[:-tail])
    with journal(tmp_path) as book:
        assert book.unfinished is not None
        assert book.unfinished.inputs == before.inputs[:-1]
        book.accept(FETCHED)
    with journal(tmp_path) as book:
        assert book.unfinished == before


def test_room_that_the_disk_had_reserved_is_dropped(tmp_path: Path) -> None:
    before = written(tmp_path)
    with file(tmp_path).open("ab") as stream:
        stream.write(bytes(5000))
    with journal(tmp_path) as book:
        assert book.unfinished == before


def test_an_altered_byte_anywhere_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    whole = file(tmp_path).read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        file(tmp_path).write_bytes(bytes(damaged))
        with pytest.raises(JournalError, match=r"session\.journal.*--abandon"):
            journal(tmp_path)
    file(tmp_path).write_bytes(whole)
    journal(tmp_path).close()


def cut(whole: bytes) -> list[bytes]:
    """The header and the stored records."""
    parts, start = [whole[:52]], 52
    while start < len(whole):
        end = start + 8 + int.from_bytes(whole[start : start + 4], "little")
        parts.append(whole[start:end])
        start = end
    return parts


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[:2] + parts[3:],
        lambda parts: [*parts[:2], parts[3], parts[2], *parts[4:]],
        lambda parts: [*parts[:3], parts[2], *parts[3:]],
        lambda parts: [parts[0], *parts[2:]],
        lambda parts: parts[1:],
        lambda parts: parts[:1],
    ],
    ids=["left out", "exchanged", "repeated", "no start", "no header", "header alone"],
)
def test_records_out_of_their_place_are_named(
    change: Callable[[list[bytes]], list[bytes]], tmp_path: Path
) -> None:
    written(tmp_path)
    parts = cut(file(tmp_path).read_bytes())
    assert len(parts) == 6
    file(tmp_path).write_bytes(b"".join(change(parts)))
    with pytest.raises(JournalError, match=r"session\.journal.*--abandon"):
        journal(tmp_path)
    with journal(tmp_path, abandon=True) as book:
        assert book.unfinished is None


def test_a_contribution_is_made_once(tmp_path: Path) -> None:
    made: list[bytes] = []

    def make() -> Iterator[bytes]:
        made.append(ENCODED + bytes([len(made)]))
        yield made[-1][:7]
        yield made[-1][7:]

    with journal(tmp_path) as book:
        book.begin(SESSION, PLAN, PartyId(2))
        book.start_task(TASK, to_bytes(VECTOR))
        assert whole(book.encoded(TaskIndex(0), make)) == made[0]
        assert whole(book.encoded(TaskIndex(0), make)) == made[0]
    with journal(tmp_path) as book:
        assert whole(book.encoded(TaskIndex(0), make)) == made[0]
        assert len(made) == 1
        book.complete_task(CLOSED)
        assert not file(tmp_path, "task-0.encoded").exists()
        book.end()
    # What a crash left of it before the journal had its digest is not taken for it.
    written(tmp_path)
    with journal(tmp_path) as book:
        records.write_sealed(file(tmp_path, "task-0.encoded"), book._storage, [ENCODED])
    with journal(tmp_path) as book:
        assert whole(book.encoded(TaskIndex(0), make)) == made[1]


@pytest.mark.parametrize("name", ["task-0.vector", "task-0.update", "task-0.encoded"])
def test_a_damaged_missing_or_foreign_file_beside_it_is_named(name: str, tmp_path: Path) -> None:
    def read(book: PartyJournal) -> None:
        if name.endswith("vector"):
            book.brought()
        elif name.endswith("encoded"):
            book.encoded(TaskIndex(0), lambda: [ENCODED])
        else:
            book.update(TaskIndex(0), FETCHED.digest)

    written(tmp_path)
    path = file(tmp_path, name)
    with journal(tmp_path) as book:
        read(book)
        whole = path.read_bytes()
        altered = whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]
        for content in (whole[:-1], whole[:-36], whole[:200], altered):
            path.write_bytes(content)
            with pytest.raises(JournalError, match=name):
                read(book)
        # A whole file of the same key that holds something else.
        records.write_sealed(path, book._storage, [CANARY])
        with pytest.raises(JournalError, match=f"{name}: is not the"):
            read(book)
        path.unlink()
        with pytest.raises(JournalError, match=f"{name}: cannot be opened.*--abandon"):
            read(book)


def test_another_key_is_named_and_a_missing_one_is_not_made_anew(tmp_path: Path) -> None:
    written(tmp_path)
    key = tmp_path / "journal.key"
    right = key.read_bytes()
    key.write_bytes(bytes(32))
    with pytest.raises(JournalError, match=r"not written under the key.*--journal-key"):
        journal(tmp_path)
    key.write_bytes(right[:31])
    with pytest.raises(KeyFileError, match="31 bytes"):
        journal(tmp_path)
    key.unlink()
    with pytest.raises(KeyFileError, match="--journal-key"):
        journal(tmp_path)
    assert not key.exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(right)
    with pytest.raises(KeyFileError, match="chmod 600"):
        journal(tmp_path, key_file=elsewhere)
    elsewhere.chmod(0o600)
    journal(tmp_path, key_file=elsewhere).close()


def test_a_second_process_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    with journal(tmp_path), pytest.raises(JournalError, match="another process"):
        journal(tmp_path)
    journal(tmp_path).close()


def test_other_edits_do_not_resume(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(JournalError, match="other edits"):
        journal(tmp_path, inputs=b"i" * 32)


def test_a_session_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    with journal(tmp_path, abandon=True) as book:
        assert book.unfinished is None
    assert [path.name for path in file(tmp_path).parent.iterdir()] == ["lock"]


def test_every_write_that_fails_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full at each write in turn: the error has a name, and the next try goes on."""
    for room in range(30):
        work = tmp_path / str(room)
        work.mkdir()
        points = CrashPoints(room=room)
        with monkeypatch.context() as patched, points.alive():
            points.patch(patched)
            try:
                written(work)
            except StorageError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
            except KeyFileError:
                pytest.fail("the key is written by other calls")
            else:
                break
        with journal(work) as book:
            assert book.unfinished is None or book.unfinished.start == START
        with journal(work, abandon=True):
            pass
        written(work)
    assert room > 8


def test_a_journal_that_failed_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, os.strerror(5))

    with journal(tmp_path) as book:
        book.begin(SESSION, PLAN, PartyId(2))
        book.start_task(TASK, to_bytes(VECTOR))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(StorageError, match="Input/output error"):
                book.accept(PACKET)
        # Whether the first is on the disk is not known; a second must not stand behind it.
        with pytest.raises(JournalError, match="no more records"):
            book.accept(PACKET)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        journal(tmp_path)


def test_an_opening_is_made_once_and_read_back(tmp_path: Path) -> None:
    made = []

    def make() -> Iterator[bytes]:
        made.append(1)
        yield bytes(range(200)) * len(made)

    written(tmp_path)
    with journal(tmp_path) as book:
        assert not book.begin_opening(bytes(32))
        first = whole(book.opened(TaskIndex(0), make))
    with journal(tmp_path) as book:
        assert book.begin_opening(bytes(32))
        assert whole(book.opened(TaskIndex(0), make)) == first
    assert len(made) == 1
    file(tmp_path, "task-0.opened").unlink()
    with journal(tmp_path) as book, pytest.raises(JournalError, match=r"task-0\.opened"):
        book.opened(TaskIndex(0), make)
    assert len(made) == 1
