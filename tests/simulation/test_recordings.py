"""Sessions that are recorded: the views cut from a file are those cut from the session itself."""

from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.attacks.span import SumSpan, UpdateSpan
from collabedit.attacks.views import AggregatorView, RecipientView
from collabedit.crypto.signing import SigningKey
from collabedit.errors import InputError, StorageError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.recorder import Recorder
from collabedit.recording import Recording
from collabedit.simulation import Faults, Outcome
from tests.e2e.test_grpc_session import run
from tests.security.test_attacks_synthetic import prior_of
from tests.support.federations import TestFederation, build_federation, encrypted_federation
from tests.support.networks import Network

FIRST = TaskIndex(0)


def recorded(
    federation: TestFederation, directory: Path, *, faults: Faults | None = None, seed: int = 0
) -> Outcome:
    with Recorder(directory / "recording", federation.plan, role="simulation") as recorder:
        simulation = federation.simulation(
            directory / "spool", faults=faults, seed=seed, recorder=recorder
        )
        # With closed sums a party brings statistics, not a vector.
        closed = federation.plan.closed is not None
        return simulation.run(federation.statistics if closed else federation.contribute)


def assert_equal_views(found: AggregatorView, expected: AggregatorView) -> None:
    assert found.plan.digest == expected.plan.digest
    assert found.survivors == expected.survivors
    assert found.sums.keys() == expected.sums.keys()
    assert found.uploads.keys() == expected.uploads.keys()
    for task, total in expected.sums.items():
        np.testing.assert_array_equal(found.sums[task], total)
    for task, uploads in expected.uploads.items():
        assert found.uploads[task].keys() == uploads.keys()
        for party, upload in uploads.items():
            np.testing.assert_array_equal(found.uploads[task][party], upload)


FEDERATIONS = {
    "open": lambda: build_federation(4, layers=2, tile_bytes=256),
    "dense": lambda: build_federation(3, statistics='"dense"'),
    "closed": lambda: build_federation(4, closed="check_columns = 3\nmin_edits = 5"),
}
FAULTS = {
    "calm": (None, 0),
    "rough": (Faults(duplicate=0.4, delay=7, tamper=0.002), 2),
    "lost in r3": (Faults(crash_after_frames={PartyId(3): 1}), 0),
    "failed behind the opening": (Faults(crash_before={PartyId(1): "r6", PartyId(4): "r6"}), 0),
}


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        pytest.param(kind, faults, marks=[pytest.mark.slow] if kind == "dense" else [])
        for kind in FEDERATIONS
        for faults in FAULTS
        if kind != "closed" or faults == "calm"
    ],
)
def test_views_of_a_recording_are_those_of_the_session(
    kind: str, faults: str, tmp_path: Path
) -> None:
    federation = FEDERATIONS[kind]()
    what, seed = FAULTS[faults]
    outcome = recorded(federation, tmp_path, faults=what, seed=seed)
    with Recording(tmp_path / "recording") as recording:
        recording.check()
        assert_equal_views(
            AggregatorView.of_recording(recording), AggregatorView.of(federation.plan, outcome)
        )
        if outcome.updates:
            found = RecipientView.of_recording(recording).updates
            expected = RecipientView.of(federation.plan, outcome).updates
            assert found.keys() == expected.keys()
            for layer, update in expected.items():
                np.testing.assert_array_equal(found[layer].left, update.left)
                np.testing.assert_array_equal(found[layer].right, update.right)
        crossed = dict.fromkeys((d.sender, d.receiver, d.data) for d in outcome.transcript)
        assert list(crossed) == [(d.sender, d.receiver, d.data) for d in recording.deliveries()]
        times = [delivery.at for delivery in recording.deliveries()]
        assert times == sorted(times)


def test_an_encrypted_session_has_what_its_opener_was_given(tmp_path: Path) -> None:
    pytest.importorskip("tenseal")
    federation = encrypted_federation(3)
    with Recorder(tmp_path / "recording", federation.plan, role="simulation") as recorder:
        simulation = federation.simulation(tmp_path / "spool", recorder=recorder)
        outcome = simulation.run(federation.statistics)
    with Recording(tmp_path / "recording") as recording:
        (offer,) = recording.deliveries(kind="sum")
        assert [offer] == [each for each in outcome.transcript if each.kind == "sum"]
        assert_equal_views(
            AggregatorView.of_recording(recording), AggregatorView.of(federation.plan, outcome)
        )


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    """Four parties over gRPC with mutual TLS, every end recorded."""
    directory = tmp_path_factory.mktemp("real")
    network = Network(
        build_federation(4, layers=2), directory / "state", records=directory / "records"
    )
    run(network, [1, 2, 3, 4])
    assert not network.errors
    return network, directory / "records"


def test_a_real_session_shows_what_a_simulated_one_does(
    real: tuple[Network, Path], tmp_path: Path
) -> None:
    network, records = real
    federation = network.federation
    outcome = recorded(federation, tmp_path)
    simulated = AggregatorView.of(federation.plan, outcome)
    with Recording(records / "aggregator") as recording:
        recording.check()
        view = AggregatorView.of_recording(recording)
        assert recording.session_id.hex() == network.reports[PartyId(1)].session_id
    assert view.survivors == simulated.survivors
    for task, total in simulated.sums.items():
        np.testing.assert_array_equal(view.sums[task], total)
        assert view.uploads[task].keys() == set(federation.plan.party_ids)
        # Other masks: nothing of an upload agrees.
        assert not np.array_equal(
            view.uploads[task][PartyId(1)], simulated.uploads[task][PartyId(1)]
        )
    prior, _ = prior_of(federation)
    np.testing.assert_array_equal(
        SumSpan().run(view, prior).scores, SumSpan().run(simulated, prior).scores
    )


def test_every_party_verified_the_simulated_update(
    real: tuple[Network, Path], tmp_path: Path
) -> None:
    network, records = real
    federation = network.federation
    simulated = RecipientView.of(federation.plan, recorded(federation, tmp_path))
    prior, _ = prior_of(federation)
    scores = UpdateSpan().run(simulated, prior).scores
    for party in federation.plan.party_ids:
        name = federation.plan.party_name(party)
        with Recording(records / name) as recording:
            assert (recording.origin, recording.role) == (name, "party")
            recording.check()
            view = RecipientView.of_recording(recording)
            found = UpdateSpan().run(view, prior).scores
            with pytest.raises(InputError, match="this view is the aggregator's"):
                AggregatorView.of_recording(recording)
        np.testing.assert_array_equal(found, scores)


def test_both_ends_recorded_the_same_bytes(real: tuple[Network, Path]) -> None:
    network, records = real
    with Recording(records / "aggregator") as recording:
        at_aggregator = {(d.sender, d.receiver, d.kind, d.data) for d in recording.deliveries()}
        with pytest.raises(InputError, match="aggregator verified no update"):
            RecipientView.of_recording(recording)
    at_parties = set()
    for party in network.federation.plan.party_ids:
        with Recording(records / network.federation.plan.party_name(party)) as recording:
            own = {(d.sender, d.receiver, d.kind, d.data) for d in recording.deliveries()}
        assert all(party in {sender, receiver} for sender, receiver, _, _ in own)
        at_parties |= own
    # The last packets of a session are not always fetched.
    assert at_parties <= at_aggregator
    assert {kind for _, _, kind, _ in at_parties} == {"packet", "frame", "bundle"}


class FailingRecorder(Recorder):
    """Refuses once, at the given call."""

    def __init__(self, directory: Path, federation: TestFederation, *, at: int) -> None:
        super().__init__(directory, federation.plan, role="aggregator")
        self.at, self.calls = at, 0

    def _refuses(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise StorageError("no room")

    def deliver(self, delivery: object) -> None:
        self._refuses()
        super().deliver(delivery)  # type: ignore[arg-type]

    def open_sum(self, *what: object) -> None:
        self._refuses()
        super().open_sum(*what)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_coordinator_whose_recording_is_refused_has_not_moved(tmp_path: Path) -> None:
    """Whatever is refused can be handed in again, and the session ends as without."""
    federation = build_federation(3, tile_bytes=1 << 16)
    expected = AggregatorView.of(federation.plan, recorded(federation, tmp_path / "calm"))
    at = 1
    while True:
        recorder = FailingRecorder(tmp_path / f"record-{at}", federation, at=at)
        with recorder:
            run = Patient(federation, tmp_path / f"spool-{at}", recorder)
            run.play()
        with Recording(tmp_path / f"record-{at}") as recording:
            found = AggregatorView.of_recording(recording)
        assert found.survivors == expected.survivors
        np.testing.assert_array_equal(found.sums[FIRST], expected.sums[FIRST])
        if recorder.calls < at:
            break
        at += 4  # frames and packets, both ways, and the sum
    assert at > 30


class Patient:
    """Parties that hand everything in again that was refused."""

    def __init__(self, federation: TestFederation, directory: Path, recorder: Recorder) -> None:
        self.simulation = federation.simulation(directory)
        self.federation = federation
        keys: dict[PartyId, SigningKey] = federation.identities
        self.simulation.coordinator = again(
            Coordinator(
                federation.plan,
                keys[AGGREGATOR],
                directory=directory,
                randomness=self.simulation._randomness[AGGREGATOR],
                recorder=recorder,
            )
        )
        self.simulation._chain = self.simulation.coordinator._chain

    def play(self) -> None:
        outcome = self.simulation.run(self.federation.contribute)
        assert outcome.aborted is None
        assert not outcome.refusals


def again(coordinator: Coordinator) -> Coordinator:
    for name in ("deliver", "put_frame", "open_pending", "close_round"):
        honest = getattr(coordinator, name)

        def patient(*arguments: object, honest: object = honest) -> object:
            try:
                return honest(*arguments)  # type: ignore[operator]
            except StorageError:
                return honest(*arguments)  # type: ignore[operator]

        setattr(coordinator, name, patient)
    return coordinator
