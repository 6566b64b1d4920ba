"""Frames are written beside each other, within bounds, and none is acknowledged before it lasts."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from collabedit.aggregator import uploads
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.tiles import TileStore
from collabedit.aggregator.uploads import Intake
from collabedit.errors import MalformedMessageError
from collabedit.exchange import TileLayout, bitmap_tiles, decode_frame, encode_frame, tiles_root
from collabedit.ids import PartyId, TaskIndex

LAYOUT = TileLayout(elements=40, element_bytes=8, per_tile=2)
ONE, TASK = PartyId(1), TaskIndex(0)
FRAMES = [encode_frame(index, bytes([index]) * 16) for index in range(LAYOUT.tiles)]


class Slow:
    """The part of a coordinator that uploads reach, over a real store; notes what is under way."""

    def __init__(self, store: TileStore, *, seconds: float) -> None:
        self.store, self.seconds = store, seconds
        self.lock, self.writing, self.most = threading.Lock(), 0, 0

    def put_frame(self, party: PartyId, task: TaskIndex, frame: bytes) -> int:
        assert task == TASK
        with self.lock:
            self.writing += 1
            self.most = max(self.most, self.writing)
        time.sleep(self.seconds)
        try:
            tile = decode_frame(frame, layout=LAYOUT)
            self.store.put(party, tile)
        finally:
            with self.lock:
                self.writing -= 1
        return tile.index

    def settle_upload(self, party: PartyId, task: TaskIndex) -> None:
        assert task == TASK
        self.store.settle(party)


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(TileStore(tmp_path / "spool", LAYOUT), seconds=0.005)


@pytest.fixture
def intake(slow: Slow) -> Iterator[Intake]:
    made = Intake(cast("Coordinator", slow))
    yield made
    made.close()


def test_all_frames_last_when_the_upload_is_over(slow: Slow, intake: Intake) -> None:
    assert intake.take(ONE, TASK, iter(FRAMES), lambda: True)
    assert bitmap_tiles(slow.store.stored(ONE)) == frozenset(range(LAYOUT.tiles))
    assert slow.store.root(ONE) == tiles_root(
        decode_frame(frame, layout=LAYOUT).digest for frame in FRAMES
    )
    assert slow.most > 1


def test_frames_that_wait_to_be_written_are_bounded_over_all_uploads(
    slow: Slow, intake: Intake
) -> None:
    lock, read = threading.Lock(), 0
    most = 0

    def counted() -> Iterator[bytes]:
        nonlocal read, most
        for frame in FRAMES:
            with lock:
                read += 1
                most = max(most, read - written())
            yield frame

    def written() -> int:
        return sum(len(bitmap_tiles(slow.store.stored(party))) for party in parties)

    parties = [PartyId(number) for number in range(1, 11)]
    threads = [
        threading.Thread(target=intake.take, args=(party, TASK, counted(), lambda: True))
        for party in parties
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uploads, "SETTLE_BYTES", 1)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert written() == len(parties) * LAYOUT.tiles
    # Beside those in the room, one in the hand of each upload's thread, and one that is counted.
    assert most <= intake.frames + 2 * len(parties)


def test_a_frame_that_is_refused_ends_the_upload(slow: Slow, intake: Intake) -> None:
    damaged = FRAMES[3][:-1] + b"\xff"
    taken: list[int] = []

    def frames() -> Iterator[bytes]:
        for index, frame in enumerate([*FRAMES[:3], damaged, *FRAMES[4:]]):
            taken.append(index)
            yield frame
            time.sleep(0.02)

    with pytest.raises(MalformedMessageError, match="tile 3 does not match its digest"):
        intake.take(ONE, TASK, frames(), lambda: True)
    assert taken == [0, 1, 2, 3, 4]
    with pytest.raises(MalformedMessageError):  # also the last one
        intake.take(ONE, TASK, iter([*FRAMES[:3], damaged]), lambda: True)


def test_an_upload_whose_call_is_over_is_not_read_on(slow: Slow, intake: Intake) -> None:
    turns = iter([True, True, False])
    assert not intake.take(ONE, TASK, iter(FRAMES), lambda: next(turns))
    slow.store.settle(ONE)
    assert bitmap_tiles(slow.store.stored(ONE)) == {0, 1, 2}


def test_nothing_is_acknowledged_while_it_is_made_to_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TileStore(tmp_path / "spool", LAYOUT)
    inside, go_on = threading.Event(), threading.Event()
    add = store._journal.add_tiles

    def held(*arguments: object) -> None:
        inside.set()
        assert go_on.wait(10)
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store._journal, "add_tiles", held)
    store.put(ONE, decode_frame(FRAMES[0], layout=LAYOUT))
    settling = threading.Thread(target=store.settle, args=(ONE,))
    settling.start()
    assert inside.wait(10)
    store.put(ONE, decode_frame(FRAMES[1], layout=LAYOUT))  # does not wait for the disk
    assert bitmap_tiles(store.stored(ONE)) == frozenset()
    go_on.set()
    settling.join(10)
    assert bitmap_tiles(store.stored(ONE)) == {0}  # the later one is left for the next time
    store.settle(ONE)
    assert bitmap_tiles(store.stored(ONE)) == {0, 1}
