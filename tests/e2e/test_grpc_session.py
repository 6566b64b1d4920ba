"""The session over real gRPC with mutual TLS on loopback."""

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from collabedit.acceptance import Measures, Vote
from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.certificates import create_authority
from collabedit.crypto.ring import to_bytes
from collabedit.errors import (
    AbortReason,
    BoundsError,
    NumericError,
    ProtocolError,
    SessionAbortedError,
    TransportError,
)
from collabedit.exchange import encode_frame
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan, Timing
from collabedit.proto.codec import encode_packet
from collabedit.proto.envelope import sign_message
from collabedit.proto.messages import Advertise, Packet
from tests.support.federations import TestFederation, build_federation
from tests.support.lies import Refusal
from tests.support.networks import HARMFUL, MatrixEditor, Network, client_tls


def with_timing(federation: TestFederation, **seconds: float) -> TestFederation:
    timing = Timing(**{"join": 4.0, "compute": 4.0, "round": 4.0, "liveness": 2.0, **seconds})
    plan = Plan.model_validate({**federation.plan.model_dump(), "timing": timing.model_dump()})
    return TestFederation(plan, federation.identities, federation.edits)


def run(network: Network, parties: list[int], **scales: float) -> None:
    """Play a session, recorded if `network` says where."""
    recorder = network.recorder(AGGREGATOR)
    with recorder or nullcontext(), network.server(network.coordinator(recorder)) as server:
        threads = [
            network.join(
                PartyId(party),
                network.channel(PartyId(party), server.port),
                scale=scales.get(f"party_{party}", 1.0),
            )
            for party in parties
        ]
        assert server.run(linger=5.0)
        for thread in threads:
            thread.join(20)


def assert_parity(network: Network, party: int, layer: int, survivors: set[int]) -> None:
    federation = network.federation
    editor = network.editors[PartyId(party)]
    update = editor.applied[layer][LayerIndex(layer)].dense()
    want = federation.centralised(
        frozenset(PartyId(survivor) for survivor in survivors), TaskIndex(layer)
    )
    assert np.linalg.norm(update - want) / np.linalg.norm(want) < 1e-9


def test_three_parties_get_the_centralised_update(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(3, layers=2)), tmp_path)
    run(network, [1, 2, 3])
    assert not network.errors
    for party in (1, 2, 3):
        assert [task.survivors for task in network.reports[PartyId(party)].tasks] == [
            ("party-1", "party-2", "party-3")
        ] * 2
        for layer in (0, 1):
            assert_parity(network, party, layer, {1, 2, 3})


def test_opened_sums_are_bit_identical_to_the_simulation(tmp_path: Path) -> None:
    federation = with_timing(build_federation(4, layers=2))
    network = Network(federation, tmp_path / "grpc")
    run(network, [1, 2, 3, 4])
    outcome = federation.simulation(tmp_path / "simulation").run(federation.contribute)
    simulated = [
        "sha256:" + hashlib.sha256(to_bytes(outcome.sums[TaskIndex(task)])).hexdigest()
        for task in (0, 1)
    ]
    assert [task.sum_digest for task in network.reports[PartyId(1)].tasks] == simulated


def test_a_party_that_never_comes_is_dropped_at_the_deadline(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(5), join=2.0), tmp_path)
    run(network, [1, 2, 3, 5])
    assert not network.errors
    assert_parity(network, 1, 0, {1, 2, 3, 5})
    dropped = [fields for event, fields in network.events if event == "dropped"]
    assert dropped == [{"party": "party-4", "task": 0, "round": "r0-advertise"}]


def test_too_few_parties_abort_by_name_and_touch_nothing(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(5), join=1.0), tmp_path)
    run(network, [1, 2, 3])
    for party in (1, 2, 3):
        error = network.errors[PartyId(party)]
        assert isinstance(error, SessionAbortedError)
        assert error.reason is AbortReason.BELOW_THRESHOLD
        assert not network.editors[PartyId(party)].applied
        assert network.editors[PartyId(party)].rolled_back


def test_an_overflow_refuses_at_the_party_and_the_others_go_on(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(5)), tmp_path)
    run(network, [1, 2, 3, 4, 5], party_2=1e6)
    assert isinstance(network.errors[PartyId(2)], NumericError)
    assert_parity(network, 1, 0, {1, 3, 4, 5})


def test_a_key_beyond_the_bounds_refuses_at_the_party_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    network = Network(with_timing(build_federation(5)), tmp_path)
    run(network, [1, 2, 3, 4, 5], party_2=12.0)
    assert isinstance(network.errors[PartyId(2)], BoundsError)
    assert_parity(network, 1, 0, {1, 3, 4, 5})
    (dropped,) = [fields for event, fields in network.events if event == "dropped"]
    assert (dropped["party"], dropped["reason"]) == ("party-2", "INPUT_REFUSED")


def test_a_party_without_checks_gets_nothing_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(with_timing(build_federation(5)), tmp_path)
    monkeypatch.setattr("collabedit.exchange.check_columns", lambda *_columns, **_caps: None)
    run(network, [1, 2, 3, 4, 5], party_2=12.0)
    for party in network.federation.plan.party_ids:
        error = network.errors[party]
        assert isinstance(error, SessionAbortedError)
        assert (error.reason, error.culprit) == (AbortReason.BOUNDS_EXCEEDED, "")
        assert not network.editors[party].applied
    assert not [event for event, _ in network.events if event == "opened"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("beyond the layout", "tile"),
        ("too long", "must have"),
        ("another payload for a stored tile", "tile 0"),
        ("larger than any message", ""),
    ],
)
def test_a_bad_frame_costs_its_sender_the_upload_and_nobody_else_anything(
    how: str, said: str, tmp_path: Path
) -> None:
    network = Network(with_timing(build_federation(5)), tmp_path)
    coordinator = network.coordinator()

    def spoil(frames: Iterable[bytes]) -> Iterator[bytes]:
        sent = list(frames)
        payload = sent[0][48:]
        yield from sent[:1]
        yield {
            "beyond the layout": encode_frame(len(sent), payload),
            "too long": encode_frame(0, payload + bytes(8)),
            "another payload for a stored tile": encode_frame(0, bytes(len(payload))),
            "larger than any message": encode_frame(0, bytes(20 << 20)),
        }[how]
        yield from sent[1:]

    with network.server(coordinator) as server:
        channels = {
            party: network.channel(PartyId(party), server.port) for party in (1, 2, 3, 4, 5)
        }
        upload = channels[2].upload
        channels[2].upload = (  # type: ignore[method-assign]
            lambda task, frames: upload(task, lambda have: spoil(frames(have)))
        )
        threads = [network.join(PartyId(party), channel) for party, channel in channels.items()]
        assert server.run(linger=5.0)
        for thread in threads:
            thread.join(20)
    assert set(network.errors) == {2}
    assert_parity(network, 1, 0, {1, 3, 4, 5})
    refused = [str(fields["why"]) for event, fields in network.events if event == "refused"]
    # gRPC itself refuses a message above its limit; it never reaches us.
    assert all(said in why for why in refused)
    assert bool(refused) == bool(said)


@pytest.mark.lie(
    role="party",
    lie="comes with a certificate of another authority",
    round="any",
    refused_by="TransportError",
)
def test_a_certificate_of_another_authority_is_named(tmp_path: Path, refusal: Refusal) -> None:
    network = Network(with_timing(build_federation(3), join=1.0), tmp_path)
    coordinator = network.coordinator()
    stranger = create_authority("somebody else")
    with network.server(coordinator) as server:
        # Our own certificate and trust are the stranger's: the aggregator's fails to verify.
        thread = network.join(
            PartyId(1),
            network.channel(
                PartyId(1), server.port, tls=client_tls(stranger, "party-1"), patience=1.5
            ),
        )
        thread.join(20)
        error = network.errors.pop(PartyId(1))
        assert isinstance(error, TransportError)
        assert "another authority" in str(error)
        # We trust the right authority but show a stranger's certificate: refused at the handshake.
        tls = client_tls(stranger, "party-1", trusts=network.authority)
        thread = network.join(
            PartyId(1), network.channel(PartyId(1), server.port, tls=tls, patience=1.5)
        )
        thread.join(20)
        refusal(network.errors[PartyId(1)])
    assert not [event for event, _ in network.events if event == "joined"]


def test_the_operator_sees_what_was_refused(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(3)), tmp_path)
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        channel = network.channel(
            PartyId(1), server.port, tls=client_tls(network.authority, "nobody")
        )
        network.join(PartyId(1), channel).join(20)
    (fields,) = [fields for event, fields in network.events if event == "refused"]
    assert "no party" in str(fields["why"])


def test_a_certificate_of_another_party_is_refused(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(3)), tmp_path)
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        for name, said in (("party-2", "certificate is party-2's"), ("nobody", "no party")):
            channel = network.channel(
                PartyId(1), server.port, tls=client_tls(network.authority, name)
            )
            network.join(PartyId(1), channel).join(20)
            error = network.errors.pop(PartyId(1))
            assert isinstance(error, ProtocolError)
            assert said in str(error)


def refused_call(
    network: Network,
    coordinator: Coordinator,
    method: str,
    data: bytes,
    *,
    certificate: str,
) -> str:
    """Make one call under this certificate; return the status that refuses it."""
    tls = client_tls(network.authority, certificate)
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    options = [("grpc.ssl_target_name_override", "aggregator")]
    with (
        network.server(coordinator) as server,
        grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options) as raw,
    ):
        if method == "Upload":
            upload: grpc.StreamUnaryMultiCallable[bytes, bytes] = raw.stream_unary(
                "/collabedit.v1.Data/Upload"
            )
            metadata = (("session-id", coordinator.session_id.hex()), ("task", "0"))
            with pytest.raises(grpc.RpcError) as caught:
                upload(iter([data]), metadata=metadata, timeout=10)
        else:
            unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = raw.unary_unary(
                f"/collabedit.v1.Coordination/{method}"
            )
            with pytest.raises(grpc.RpcError) as caught:
                unary(data, timeout=10)
    return caught.value.code().name


@pytest.mark.lie(
    role="party",
    lie="delivers another party's signed message over its own connection",
    round="any",
    refused_by="PERMISSION_DENIED",
)
def test_a_message_of_another_party_than_the_certificate_names_is_refused(
    tmp_path: Path, refusal: Refusal
) -> None:
    network = Network(with_timing(build_federation(3)), tmp_path)
    coordinator = network.coordinator()
    # Rightly signed by party 1: only the connection is party 2's.
    envelope = sign_message(
        Advertise(bytes([1]) * 32, bytes([2]) * 32),
        context=coordinator._setup.context,
        sender=PartyId(1),
        key=network.federation.identities[PartyId(1)],
    )
    data = encode_packet(Packet(envelope))
    refusal(refused_call(network, coordinator, "Deliver", data, certificate="party-2"))
    assert coordinator.waiting_for == {1, 2, 3}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            "Deliver",
            marks=pytest.mark.lie(
                role="party",
                lie="delivers without a party's certificate",
                round="any",
                refused_by="PERMISSION_DENIED",
            ),
        ),
        pytest.param(
            "Collect",
            marks=pytest.mark.lie(
                role="party",
                lie="reads a mailbox without a party's certificate",
                round="any",
                refused_by="PERMISSION_DENIED",
            ),
        ),
        pytest.param(
            "Upload",
            marks=pytest.mark.lie(
                role="party",
                lie="uploads without a party's certificate",
                round="r3",
                refused_by="PERMISSION_DENIED",
            ),
        ),
    ],
)
def test_whoever_is_no_party_is_refused_every_method(
    method: str, tmp_path: Path, refusal: Refusal
) -> None:
    network = Network(with_timing(build_federation(3)), tmp_path)
    coordinator = network.coordinator()
    refusal(refused_call(network, coordinator, method, b"anything", certificate="nobody"))


def test_another_plan_is_refused_with_both_digests(tmp_path: Path) -> None:
    federation = build_federation(3)
    network = Network(federation, tmp_path)
    other = Network(build_federation(3, capacity=40), tmp_path, authority=network.authority)
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        other.join(PartyId(1), other.channel(PartyId(1), server.port)).join(20)
    error = other.errors[PartyId(1)]
    assert isinstance(error, SessionAbortedError)
    assert error.reason is AbortReason.PLAN_MISMATCH
    assert federation.plan.digest.hex() in str(error)


def test_garbage_and_oversize_are_refused_without_harm(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(3)), tmp_path)
    coordinator = network.coordinator()
    tls = client_tls(network.authority, "party-1")
    with network.server(coordinator) as server:
        credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
        options = [("grpc.ssl_target_name_override", "aggregator")]
        with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options) as raw:
            for method in ("Join", "Deliver", "Collect"):
                call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = raw.unary_unary(
                    f"/collabedit.v1.Coordination/{method}"
                )
                for data, status in (
                    (b"\xff" * 100, grpc.StatusCode.INVALID_ARGUMENT),
                    (b"", grpc.StatusCode.INVALID_ARGUMENT),
                    (bytes(32 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED),
                ):
                    with pytest.raises(grpc.RpcError) as caught:
                        call(data, timeout=10)
                    assert caught.value.code() is status
            upload: grpc.StreamUnaryMultiCallable[bytes, bytes] = raw.stream_unary(
                "/collabedit.v1.Data/Upload"
            )
            for metadata in ((), (("session-id", "zz"), ("task", "0"))):
                with pytest.raises(grpc.RpcError) as caught:
                    upload(iter([b"x"]), metadata=metadata, timeout=10)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        threads = [
            network.join(PartyId(party), network.channel(PartyId(party), server.port))
            for party in (1, 2, 3)
        ]
        assert server.run(linger=5.0)
        for thread in threads:
            thread.join(20)
    assert not network.errors


def test_an_aggregator_that_is_not_there_is_named(tmp_path: Path) -> None:
    network = Network(build_federation(3), tmp_path)
    channel = network.channel(PartyId(1), 1, patience=1.0)
    network.join(PartyId(1), channel).join(20)
    error = network.errors[PartyId(1)]
    assert isinstance(error, TransportError)
    assert "no aggregator answers at 127.0.0.1:1" in str(error)


def test_the_session_leaves_no_thread_of_ours_behind(tmp_path: Path) -> None:
    network = Network(with_timing(build_federation(3)), tmp_path)
    run(network, [1, 2, 3])
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("rpc", "collect"))]


@dataclass
class SlowEditor(MatrixEditor):
    """Measures longer than a round lasts and than a silent party is waited for."""

    seconds: float = 6.0

    def measure(self) -> Measures:
        time.sleep(self.seconds if self.applied else 0.0)
        return super().measure()


@pytest.mark.parametrize("rejecting", [{2}, {2, 3}])
def test_parties_that_evaluate_for_long_are_neither_late_nor_silent(
    rejecting: set[int], tmp_path: Path
) -> None:
    federation = with_timing(
        build_federation(4, layers=2, votes=3), round=3.0, liveness=2.0, compute=60.0, join=20.0
    )
    network = Network(federation, tmp_path)
    coordinator = network.coordinator()
    with network.server(coordinator) as server:
        threads = []
        for party in federation.plan.party_ids:
            after = HARMFUL[Vote.OWN_EDITS if party in rejecting else Vote.ACCEPT]
            editor = SlowEditor(federation, party, after=after)
            channel = network.channel(party, server.port, poll_seconds=0.5)
            threads.append(network.join(party, channel, editor=editor))
        assert server.run(linger=5.0)
        for thread in threads:
            thread.join(30)
    assert "dropped" not in [event for event, _ in network.events]
    (voted,) = [fields["votes"] for event, fields in network.events if event == "voted"]
    assert isinstance(voted, dict)
    assert {name for name, vote in voted.items() if vote == "own-edits"} == {
        f"party-{party}" for party in rejecting
    }
    if len(rejecting) == 1:
        assert not network.errors
        assert all(len(editor.applied) == 2 for editor in network.editors.values())
        return
    assert not network.reports
    for party, own in network.editors.items():
        error = network.errors[party]
        assert isinstance(error, SessionAbortedError)
        assert error.reason is AbortReason.UPDATE_REJECTED
        assert own.rolled_back
