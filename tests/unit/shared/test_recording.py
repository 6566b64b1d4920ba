"""Recordings: what goes in comes out, in pieces, once; whatever else is refused by its name."""

import dataclasses
import errno
import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collabedit import database as database_module
from collabedit.errors import InputError, StorageError
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.recorder import Recorder
from collabedit.recording import FILE, PIECE_BYTES, SCHEMA, Delivery, Kind, Recording, Sighting
from collabedit.sketch import LowRankUpdate
from tests.support.federations import build_federation

PLAN = build_federation(3, layers=2).plan
FIRST, ONE = TaskIndex(0), PartyId(1)
SESSION = bytes(range(32))


def at(kind: Kind, data: bytes, *, sender: int = 1, time: int = 0) -> Delivery:
    receiver = AGGREGATOR if sender else ONE
    return Delivery(PartyId(sender), receiver, FIRST, kind, data, time)


def simulated(directory: Path, session_id: bytes = SESSION) -> Recorder:
    recorder = Recorder(directory, PLAN, role="simulation")
    recorder.begin(session_id)
    return recorder


def test_what_was_recorded_is_read_back_in_order(tmp_path: Path) -> None:
    total = np.arange(7, dtype=np.uint64) << np.uint64(40)
    update = LowRankUpdate(np.ones((20, 2)), np.full((2, 48), 0.5))
    sent = [
        at("packet", b"a", time=3),
        at("frame", b"b" * 100, time=4),
        at("bundle", b"", sender=0),
    ]
    with simulated(tmp_path) as recorder:
        for each in sent:
            recorder.deliver(each)
        recorder.open_sum(FIRST, {PartyId(1), PartyId(3)}, total)
        recorder.verify(FIRST, {LayerIndex(0): update})
    with Recording(tmp_path) as recording:
        assert (recording.plan.digest, recording.session_id) == (PLAN.digest, SESSION)
        assert (recording.role, recording.origin) == ("simulation", "simulation")
        assert list(recording.deliveries()) == sent
        assert list(recording.deliveries(kind="frame", task=FIRST)) == sent[1:2]
        assert not list(recording.deliveries(task=TaskIndex(1)))
        assert list(recording.sightings())[1] == Sighting(ONE, AGGREGATOR, 100, 4)
        np.testing.assert_array_equal(recording.sums()[FIRST], total)
        assert recording.survivors() == {FIRST: {1, 3}}
        np.testing.assert_array_equal(recording.updates()[LayerIndex(0)].left, update.left)
        assert recording.check() == 5


def test_a_party_is_named_as_in_the_plan_and_its_clock_is_read(tmp_path: Path) -> None:
    with Recorder(tmp_path, PLAN, role="party", party=PartyId(2), now=lambda: 77) as recorder:
        recorder.begin(SESSION)
        recorder.deliver(at("packet", b"x", time=1))
    with Recording(tmp_path / FILE) as recording:
        assert (recording.origin, recording.party) == ("party-2", 2)
        assert [each.at for each in recording.deliveries()] == [77]


def test_the_same_again_is_kept_once_and_equal_contents_share_their_bytes(tmp_path: Path) -> None:
    data = os.urandom(3 * PIECE_BYTES + 5)
    with simulated(tmp_path) as recorder:
        for receiver in (1, 2, 3, 1):
            recorder.deliver(Delivery(AGGREGATOR, PartyId(receiver), FIRST, "bundle", data))
    assert (tmp_path / FILE).stat().st_size < 1.1 * len(data) + 50_000
    with Recording(tmp_path) as recording:
        assert [each.receiver for each in recording.deliveries()] == [1, 2, 3]
        assert all(each.data == data for each in recording.deliveries())
        pieces = recording._database.execute("SELECT count(*) FROM pieces").fetchone()
    assert pieces == (4,)


def test_pieces_are_read_one_at_a_time(tmp_path: Path) -> None:
    alive = 0

    def pieces() -> Iterator[bytes]:
        nonlocal alive
        for number in range(5):
            alive += 1
            yield bytes([number]) * 1000

    delivery = at("sum", b"", sender=0)
    with simulated(tmp_path) as recorder:
        digest = recorder.deliver_pieces(delivery, pieces)
        assert alive == 10
        assert recorder.deliver_pieces(delivery, pieces, digest=digest) == digest
        assert alive == 10
    with Recording(tmp_path) as recording:
        (read,) = recording.deliveries()
    assert hashlib.sha256(read.data).digest() == digest
    assert read.data == b"".join(bytes([number]) * 1000 for number in range(5))


def test_a_session_goes_on_in_its_file_and_no_other_does(tmp_path: Path) -> None:
    def record(session_id: bytes = SESSION, **changes: object) -> None:
        options = {"plan": PLAN, "role": "party", "party": ONE, **changes}
        with Recorder(tmp_path, **options) as recorder:  # type: ignore[arg-type]
            recorder.begin(session_id)
            recorder.deliver(at("packet", b"again"))

    record()
    record()
    with pytest.raises(InputError, match="recording of session 0001"):
        record(bytes(32))
    for other in ({"party": PartyId(2)}, {"role": "aggregator", "party": None}):
        with pytest.raises(InputError, match="another session, plan or end"):
            record(**other)
    with pytest.raises(InputError, match="another session, plan or end"):
        record(plan=build_federation(4).plan)
    with Recording(tmp_path) as recording:
        assert len(list(recording.deliveries())) == 1


def test_a_simulation_never_goes_on(tmp_path: Path) -> None:
    simulated(tmp_path).close()
    with pytest.raises(InputError, match="another directory"):
        Recorder(tmp_path, PLAN, role="simulation")


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        recorder = simulated(tmp_path / "new")
        recorder.deliver(at("packet", b"x"))
    finally:
        os.umask(old)
    files = list((tmp_path / "new").iterdir())
    assert len(files) > 1, "the log beside it is private, too"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    recorder.close()
    assert [file.name for file in (tmp_path / "new").iterdir()] == [FILE]


def test_a_second_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 0.01)
    with simulated(tmp_path), pytest.raises(StorageError, match="another process records"):
        Recorder(tmp_path, PLAN, role="simulation")


def test_a_full_disk_keeps_all_that_was_there_and_nothing_of_the_rest(tmp_path: Path) -> None:
    with simulated(tmp_path) as recorder:
        recorder.deliver(at("packet", b"before"))
        (pages,) = recorder._database.execute("PRAGMA page_count").fetchone()
        recorder._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match=f"{FILE}: the session cannot be recorded.*full"):
            recorder.deliver(at("frame", os.urandom(100_000)))
        recorder._database.execute("PRAGMA max_page_count = 100000")
        recorder.deliver(at("packet", b"after"))
    with Recording(tmp_path) as recording:
        assert [each.data for each in recording.deliveries()] == [b"before", b"after"]
        assert recording.check() == 2


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=os.strerror(errno.ENOTDIR)):
        Recorder(tmp_path / "file" / "deeper", PLAN, role="simulation")


def test_what_a_killed_process_left_is_read(tmp_path: Path) -> None:
    recorder = simulated(tmp_path / "live")
    recorder.deliver(at("packet", b"x"))
    (tmp_path / "copy").mkdir()
    for file in (tmp_path / "live").iterdir():
        if not file.name.endswith("-shm"):
            (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    with Recording(tmp_path / "copy") as recording:
        assert [each.data for each in recording.deliveries()] == [b"x"]
    recorder.close()


def made(directory: Path) -> Path:
    with simulated(directory) as recorder:
        recorder.deliver(at("frame", bytes(range(256)) * 40))
        recorder.open_sum(FIRST, {ONE}, np.arange(9, dtype=np.uint64))
    return directory / FILE


def test_an_altered_content_is_found(tmp_path: Path) -> None:
    path = made(tmp_path)
    data = path.read_bytes()
    place = data.index(bytes(range(200)))
    path.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
    with Recording(path) as recording:
        for read in (recording.check, lambda: list(recording.deliveries())):
            with pytest.raises(InputError, match=f"{FILE}: is damaged: content"):
                read()


def read_everything(path: Path) -> None:
    with Recording(path) as recording:
        repr((recording, recording.origin, list(recording.deliveries())))
        list(recording.sightings())
        recording.sums()
        recording.survivors()
        recording.updates()
        recording.check()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_happened_to_a_file_it_is_read_or_refused(seed: int, tmp_path: Path) -> None:
    with simulated(tmp_path) as recorder:
        recorder.deliver(at("frame", bytes(range(256)) * 4))
        recorder.open_sum(FIRST, {ONE}, np.arange(9, dtype=np.uint64))
        recorder.verify(FIRST, {LayerIndex(0): LowRankUpdate(np.ones((20, 1)), np.ones((1, 48)))})
    path, rng = tmp_path / FILE, np.random.default_rng(seed)
    original = path.read_bytes()
    # Where SQLite keeps something: a change of the empty rest of a page is none.
    used = np.flatnonzero(np.frombuffer(original, dtype=np.uint8))
    outcomes = set()
    for _ in range(60 if seed == 0 else 3000):
        damaged = bytearray(original)
        for place in rng.choice(used, size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_everything(path)
            outcomes.add("read")
        except InputError as error:
            outcomes.add("refused" if str(path) in str(error) else str(error))
    assert outcomes == {"read", "refused"}


def test_a_missing_content_is_found(tmp_path: Path) -> None:
    path = made(tmp_path)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM contents WHERE bytes = 72")
        database.execute("UPDATE sums SET digest = zeroblob(32)")
    with Recording(path) as recording:
        with pytest.raises(InputError, match="1 contents are missing"):
            recording.check()
        with pytest.raises(InputError, match="missing or altered"):
            recording.sums()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE session SET plan = replace(plan, 'steps = 20', 'steps = 21')",
            "its plan or its role",
        ),
        ("UPDATE session SET plan = 'x'", "plan: not TOML"),
        ("UPDATE session SET role = 'witness'", "its plan or its role"),
        ("DELETE FROM session", "holds no session"),
        ("PRAGMA user_version = 2", "no recording of format 1"),
        ("PRAGMA application_id = 1", "no recording of format 1"),
    ],
)
def test_another_session_row_or_format_is_refused(change: str, said: str, tmp_path: Path) -> None:
    path = made(tmp_path)
    with sqlite3.connect(path) as database:
        database.execute(change)
    with pytest.raises(InputError, match=said) as caught:
        Recording(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 50, 5000, 20000])
def test_a_cut_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = made(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=FILE):
        Recording(path)


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be read" * 20])
def test_a_foreign_file_is_neither_read_nor_written(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(InputError, match=FILE):
        Recording(path)
    if content:
        with pytest.raises(InputError, match=FILE):
            Recorder(tmp_path, PLAN, role="simulation")
        assert path.read_bytes() == content


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path / FILE}: there is no recording"):
        Recording(tmp_path)


def test_the_shell_example_of_the_documentation_runs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "transcripts.md").read_text()
    example = text.partition("<<'SQL'\n")[2].partition("\nSQL")[0]
    written: dict[str, bytes] = {}
    with simulated(tmp_path) as recorder:
        recorder.deliver(at("packet", b"hello"))
        recorder.open_sum(FIRST, {ONE, PartyId(3)}, np.arange(9, dtype=np.uint64) + 258)
    database = sqlite3.connect(tmp_path / FILE)
    database.create_function("writefile", 2, written.__setitem__)
    rows = [
        row
        for query in example.split(";\n")
        for row in database.execute(query.removesuffix(";")).fetchall()
    ]
    database.close()
    assert rows[0] == ("simulation", None, SESSION.hex().upper())
    assert rows[1] == (1, "packet", 1, 5, 0, 0)
    assert rows[2] == (0, "1,3")
    assert written == {"packet-1": b"hello"}
    assert rows[4] == (0, "0201000000000000")


def test_the_documentation_names_every_column() -> None:
    text = (Path(__file__).parents[3] / "docs" / "transcripts.md").read_text()
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
    tables = [name for name in tables if not name.startswith("sqlite_")]
    assert len(tables) == 7
    for table in tables:
        assert f"`{table}`" in text or f"`{table}." in text
        for column in database.execute(f"PRAGMA table_info({table})"):
            assert f"`{column[1]}`" in text or f".{column[1]}`" in text, (table, column[1])
    database.close()


def test_nothing_recorded_is_printed(tmp_path: Path) -> None:
    with simulated(tmp_path) as recorder:
        recorder.deliver(at("frame", b"canary"))
        texts = [repr(recorder)]
    with Recording(tmp_path) as recording:
        texts += [repr(recording), *map(repr, recording.deliveries())]
    assert "canary" not in "".join(texts)
    assert dataclasses.fields(Delivery)[4].repr is False
