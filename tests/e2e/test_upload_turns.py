"""Uploads take turns over real gRPC, and one that stalls keeps nobody waiting."""

import functools
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from collabedit.aggregator import service
from collabedit.aggregator.turns import Turns
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.channel import Frames
from collabedit.party.client import GrpcChannel
from tests.e2e.test_grpc_session import with_timing
from tests.support.federations import TestFederation, build_federation
from tests.support.networks import Network

PARTIES = 6
STALLER = PartyId(1)


class TimedChannel(GrpcChannel):
    """Notes when its uploads were over; may stall in them until the others are through."""

    others: threading.Barrier | None = None
    uploaded: float = 0.0

    def _counted(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        for index, frame in enumerate(super()._counted(frames)):
            yield frame
            if index == 0 and self.others is not None:
                self.others.wait(20)

    def upload(self, task: TaskIndex, frames: Frames) -> None:
        super().upload(task, frames)
        self.uploaded = time.monotonic()


def run(
    federation: TestFederation, directory: Path, monkeypatch: pytest.MonkeyPatch, *, stalls: bool
) -> dict[PartyId, TimedChannel]:
    monkeypatch.setattr("tests.support.networks.GrpcChannel", TimedChannel)
    network = Network(federation, directory)
    coordinator = network.coordinator()
    channels: dict[PartyId, TimedChannel] = {}
    done = threading.Barrier(PARTIES)
    with network.server(coordinator) as server:
        running = threading.Thread(target=server.run, kwargs={"linger": 5.0})
        running.start()
        threads = []
        for party in federation.plan.party_ids:
            channel = network.channel(party, server.port)
            assert isinstance(channel, TimedChannel)
            if stalls and party == STALLER:
                channel.others = done
            elif stalls:
                upload = channel.upload

                def then_wait(task: TaskIndex, frames: Frames, upload: object = upload) -> None:
                    upload(task, frames)  # type: ignore[operator]
                    done.wait(20)

                channel.upload = then_wait  # type: ignore[method-assign]
            channels[party] = channel
            threads.append(network.join(party, channel))
        for thread in (*threads, running):
            thread.join(30)
        assert (len(server._turns), server._turns.waiting) == (0, 0)
    assert not network.errors
    assert set(network.reports) == set(federation.plan.party_ids)
    return channels


def test_an_upload_that_stalls_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = with_timing(build_federation(PARTIES, layers=1, tile_bytes=1024), liveness=20.0)
    monkeypatch.setattr(service, "Turns", functools.partial(Turns, places=1))
    # The staller sends its second frame only once everybody else's upload is acknowledged.
    channels = run(federation, tmp_path / "hub", monkeypatch, stalls=True)
    last = max(channel.uploaded for party, channel in channels.items() if party != STALLER)
    assert channels[STALLER].uploaded > last


def test_uploads_go_on_one_after_the_other_where_there_is_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = with_timing(build_federation(PARTIES, layers=1, tile_bytes=1024), liveness=20.0)
    most, lock = 0, threading.Lock()

    class Watched(Turns):
        def keep(self, call: object) -> bool:
            nonlocal most
            with lock:
                most = max(most, len(self))
            return super().keep(call)

    monkeypatch.setattr(service, "Turns", functools.partial(Watched, places=1, idle=60.0))
    run(federation, tmp_path / "hub", monkeypatch, stalls=False)
    assert most == 1
