"""A party that dies in its upload, and an aggregator that dies in a stream, over real gRPC."""

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from collabedit.aggregator import uploads
from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.ring import to_bytes
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import ProtocolError, TransportError
from collabedit.exchange import FRAME_OVERHEAD, TileLayout, bitmap_tiles
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import client
from collabedit.party.channel import Frames
from collabedit.party.client import GrpcChannel
from collabedit.party.journal import PartyJournal
from collabedit.party.member import Member, SessionReport
from collabedit.party.session import run_session
from collabedit.proto import messages as m
from collabedit.proto.messages import Packet
from tests.e2e.test_grpc_session import with_timing
from tests.support.crashes import CrashError
from tests.support.federations import build_federation
from tests.support.networks import MatrixEditor, Network

ONE, FIRST = PartyId(1), TaskIndex(0)
BEFORE_DEATH = 5


class DyingChannel(GrpcChannel):
    """That of a process which says nothing any more once it is dead."""

    dies = False
    dead = False

    def deliver(self, packet: Packet) -> None:
        if self.dead:
            raise CrashError
        super().deliver(packet)

    def close(self, *, finished: bool) -> None:
        if not self.dead:
            super().close(finished=finished)
        self._closing.set()
        self._channel.close()


class MortalGrpcChannel(DyingChannel):
    """Notes the frames that it sends, and may die in its first upload."""

    coordinator: Coordinator

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.sent: list[bytes] = []

    def _counted(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        for frame in super()._counted(frames):
            if self.dies and len(self.sent) == BEFORE_DEATH:
                self.await_arrival()
                self.dead = True
                raise RuntimeError("gone")  # gRPC breaks the stream
            self.sent.append(frame)
            yield frame

    def await_arrival(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if len(bitmap_tiles(self.coordinator.stored_tiles(ONE, FIRST))) == BEFORE_DEATH:
                return
            time.sleep(0.01)

    def upload(self, task: TaskIndex, frames: Frames) -> None:
        try:
            super().upload(task, frames)
        except (ProtocolError, TransportError) as error:
            raise CrashError from error


@pytest.mark.parametrize("closed", [None, "check_columns = 4"])
def test_a_party_that_died_in_its_upload_sends_only_what_is_missing(
    closed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SETTLE_BYTES", 1)
    federation = with_timing(
        build_federation(3, layers=2, tile_bytes=1024, closed=closed), liveness=20.0
    )
    network = Network(federation, tmp_path / "hub")
    coordinator = network.coordinator()
    monkeypatch.setattr("tests.support.networks.GrpcChannel", MortalGrpcChannel)
    member = Member(federation.plan, ONE, federation.identities[ONE], SystemRandomness())
    work = tmp_path / "work"
    work.mkdir()

    def live(channel: GrpcChannel) -> tuple[SessionReport, MatrixEditor]:
        editor = MatrixEditor(federation, ONE)
        with PartyJournal(work, randomness=SystemRandomness()) as journal:
            report = run_session(member, channel, editor, journal=journal)
            journal.end()
        return report, editor

    with network.server(coordinator) as server:
        running = threading.Thread(target=server.run, kwargs={"linger": 5.0})
        running.start()
        others = [
            network.join(PartyId(party), network.channel(PartyId(party), server.port))
            for party in (2, 3)
        ]
        first = network.channel(ONE, server.port)
        assert isinstance(first, MortalGrpcChannel)
        first.coordinator, first.dies = coordinator, True
        # A dead process deletes nothing either.
        with monkeypatch.context() as patched:
            patched.setattr(PartyJournal, "end", lambda _journal: None)
            with pytest.raises(CrashError):
                live(first)
        second = network.channel(ONE, server.port)
        assert isinstance(second, MortalGrpcChannel)
        report, editor = live(second)
        for thread in (*others, running):
            thread.join(20)
    assert not network.errors

    tiles = TileLayout.of(federation.plan, FIRST).tiles
    indices = [int.from_bytes(frame[4:8], "little") for frame in second.sent]
    assert indices == [*range(BEFORE_DEATH, tiles), *range(tiles)]  # task 0, then task 1
    assert second.bytes_sent < tiles * (1024 + FRAME_OVERHEAD) * 2
    if closed is None:
        outcome = federation.simulation(tmp_path / "simulation").run(federation.contribute)
        assert [task.sum_digest for task in report.tasks] == [
            "sha256:" + hashlib.sha256(to_bytes(outcome.sums[TaskIndex(task)])).hexdigest()
            for task in (0, 1)
        ]
    other = network.editors[PartyId(2)].applied
    for layer in (0, 1):
        mine, theirs = (each[layer][LayerIndex(layer)].dense() for each in (editor.applied, other))
        assert np.array_equal(mine, theirs)
        wanted = federation.centralised(frozenset(federation.plan.party_ids), TaskIndex(layer))
        np.testing.assert_allclose(mine, wanted, atol=1e-7)


class LastPacketChannel(DyingChannel):
    """Dies with the session's last packet in memory, after the aggregator heard that it arrived."""

    def next_packet(self, timeout: float) -> Packet | None:
        packet = super().next_packet(timeout)
        if packet is not None and self.dies:
            envelope = packet.envelope
            if envelope.kind == m.KINDS[m.UpdateVerified] and envelope.context.task == 1:
                time.sleep(1.0)  # the poll after it has gone out
                self.dead = True
                raise CrashError
        return packet


def test_the_aggregator_stays_for_a_party_that_died_with_the_last_packet_unwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = build_federation(3, layers=2)
    network = Network(federation, tmp_path / "hub")
    coordinator = network.coordinator()
    member = Member(federation.plan, ONE, federation.identities[ONE], SystemRandomness())
    work = tmp_path / "work"
    work.mkdir()
    with network.server(coordinator) as server:
        running = threading.Thread(target=server.run, kwargs={"linger": 20.0})
        running.start()
        others = [
            network.join(PartyId(party), network.channel(PartyId(party), server.port))
            for party in (2, 3)
        ]
        with monkeypatch.context() as patched:
            patched.setattr("tests.support.networks.GrpcChannel", LastPacketChannel)
            first = network.channel(ONE, server.port)
        assert isinstance(first, LastPacketChannel)
        first.dies = True
        with (
            monkeypatch.context() as patched,
            PartyJournal(work, randomness=SystemRandomness()) as journal,
        ):
            patched.setattr(PartyJournal, "end", lambda _journal: None)
            with pytest.raises(CrashError):
                run_session(member, first, MatrixEditor(federation, ONE), journal=journal)
        for thread in others:
            thread.join(20)
        assert coordinator.finished
        assert running.is_alive()
        editor = MatrixEditor(federation, ONE)
        with PartyJournal(work, randomness=SystemRandomness()) as journal:
            run_session(member, network.channel(ONE, server.port), editor, journal=journal)
        running.join(5)  # it has not to wait for anybody now
        assert not running.is_alive()
    assert not network.errors
    assert len(editor.applied) == 2


class Failure(grpc.RpcError):
    """A call that failed with this status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


STATUS = grpc.StatusCode
TEMPORARY = [
    (STATUS.UNAVAILABLE, "Stream removed (Socket closed)"),
    (STATUS.UNAVAILABLE, "Cancelling all calls"),
    (STATUS.CANCELLED, "CANCELLED"),
    (STATUS.INTERNAL, "Received RST_STREAM with error code 2"),
    (STATUS.UNKNOWN, "Stream removed"),
    (STATUS.RESOURCE_EXHAUSTED, "spool: cannot be written: No space left on device"),
]
FINAL = [
    (STATUS.INTERNAL, "a fault of ours"),
    (STATUS.UNKNOWN, "Exception calling application: x"),
    (STATUS.RESOURCE_EXHAUSTED, "Sent message larger than max (5 vs. 4)"),
    (STATUS.FAILED_PRECONDITION, "TIMEOUT: too slow"),
    (STATUS.INVALID_ARGUMENT, "that session is over"),
]


@pytest.mark.parametrize(("code", "details"), TEMPORARY)
def test_a_call_that_broke_with_its_aggregator_is_repeated(
    code: grpc.StatusCode, details: str, tmp_path: Path
) -> None:
    channel = Network(build_federation(3), tmp_path).channel(ONE, 1, patience=5.0)
    answers: list[Exception | int] = [Failure(code, details), Failure(code, details), 7]

    def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert channel._call(call) == 7
    channel.close(finished=True)


@pytest.mark.parametrize(("code", "details"), FINAL)
def test_an_answer_is_not_asked_for_again(
    code: grpc.StatusCode, details: str, tmp_path: Path
) -> None:
    channel = Network(build_federation(3), tmp_path).channel(ONE, 1, patience=5.0)
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise Failure(code, details)

    with pytest.raises((ProtocolError, TransportError)):
        channel._call(call)
    assert calls == 1
    channel.close(finished=True)


def test_a_disk_that_stays_full_is_named_in_the_end(tmp_path: Path) -> None:
    channel = Network(build_federation(3), tmp_path).channel(ONE, 1, patience=0.3)

    def call() -> None:
        raise Failure(STATUS.RESOURCE_EXHAUSTED, "spool: No space left on device")

    with pytest.raises(TransportError, match="No space left"):
        channel._call(call)
    channel.close(finished=True)


def test_patience_counts_from_the_last_progress(tmp_path: Path) -> None:
    channel = Network(build_federation(3), tmp_path).channel(ONE, 1, patience=0.5)
    for advancing, attempts in ((True, 8), (False, 3)):
        count = 0

        def call() -> None:
            nonlocal count
            count += 1
            if count < 8:
                raise Failure(STATUS.UNAVAILABLE, "Socket closed")

        if advancing:
            channel._call(call, advanced=lambda: True)
        else:
            with pytest.raises(TransportError):
                channel._call(call)
        assert (count >= attempts) is advancing or count <= attempts + 1
    channel.close(finished=True)


def test_a_bitmap_without_end_fills_no_memory() -> None:
    bitmap = bytes([1]) + bytes(client.MAXIMUM_BITMAP_BYTES) + bytes([255])
    assert bitmap_tiles(bitmap[: client.MAXIMUM_BITMAP_BYTES]) == {0}
