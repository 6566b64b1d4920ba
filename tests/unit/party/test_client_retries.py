"""Which failures of a call pass, and which are final."""

import time
from collections.abc import Iterator
from io import BytesIO

import grpc
import pytest

from collabedit.crypto.certificates import create_authority
from collabedit.errors import CollabEditError, ProtocolError, TransportError
from collabedit.ids import TaskIndex
from collabedit.party.client import GrpcChannel
from tests.support.networks import client_tls

STATUS = grpc.StatusCode


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.fixture
def channel() -> Iterator[GrpcChannel]:
    tls = client_tls(create_authority("test"), "party-1")
    made = GrpcChannel("127.0.0.1:1", tls=tls, server_name="aggregator", patience=5.0)
    yield made
    made.close(finished=True)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(STATUS.UNAVAILABLE, "Socket closed"),
        Failure(STATUS.DEADLINE_EXCEEDED),
        Failure(STATUS.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"),
    ],
    ids=["unreachable", "late", "busy"],
)
def test_what_passes_is_tried_again(channel: GrpcChannel, failure: Failure) -> None:
    outcomes: list[Failure | str] = [failure, failure, "answer"]

    def call() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Failure):
            raise outcome
        return outcome

    started = time.monotonic()
    assert channel._call(call) == "answer"
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure(STATUS.RESOURCE_EXHAUSTED, "Received message larger than max"), TransportError),
        (Failure(STATUS.FAILED_PRECONDITION, "no upload is due"), ProtocolError),
        (Failure(STATUS.UNAUTHENTICATED), ProtocolError),
    ],
    ids=["too large", "refused", "unsigned"],
)
def test_what_does_not_pass_is_final(
    channel: GrpcChannel, failure: Failure, kind: type[CollabEditError]
) -> None:
    calls = 0

    def call() -> str:
        nonlocal calls
        calls += 1
        raise failure

    with pytest.raises(kind):
        channel._call(call)
    assert calls == 1


def test_a_download_that_broke_begins_anew(
    channel: GrpcChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise Failure(STATUS.UNAVAILABLE, "Socket closed")

    streams = [broken(), iter([b"wh", b"ole"])]
    monkeypatch.setattr(channel, "_download", lambda *_, **__: streams.pop(0))
    file = BytesIO(b"longer than what is fetched")
    channel.fetch(TaskIndex(0), limit=5, file=file)
    assert file.getvalue() == b"whole"
    assert channel.bytes_received == 5


def test_a_file_that_takes_no_more_is_no_reason_to_fetch_again(
    channel: GrpcChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

    streams = [iter([b"whole"])]
    monkeypatch.setattr(channel, "_download", lambda *_, **__: streams.pop(0))
    with pytest.raises(OSError, match="No space"):
        channel.fetch(TaskIndex(0), limit=5, file=Full())
