"""Encrypted sums over the whole protocol in memory: what masks would give, opened by one party."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collabedit import simulation as simulation_module
from collabedit.aggregator.bundles import Bundles
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.opening import OpenedTask
from collabedit.aggregator.states import Summing
from collabedit.ciphertexts import task_chunks
from collabedit.crypto.ckks.wire import HEADER_BYTES
from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.encrypted import CHUNK_BYTES, SEED_BYTES
from collabedit.errors import AbortReason, StorageError
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import decryption
from collabedit.party.contribution import MaskedUpload, contributed_vector, uploaded_vector
from collabedit.party.states import Aborted, TaskSetup, Uploaded
from collabedit.proto.statements import RefusalError
from collabedit.simulation import Faults, Outcome
from tests.simulation.test_restarts import (
    MortalJournal,
    MortalSimulation,
    QuickJournal,
    Restless,
    simulation,
)
from tests.support.federations import encrypted_federation
from tests.support.lies import Refusal
from tests.support.updates import error, run

FIRST = TaskIndex(0)


@pytest.mark.parametrize("schedule", ['"sequential"', '"parallel"'])
@pytest.mark.parametrize("statistics", ['"sketch"', '"dense"'])
def test_update_equals_the_centralised_one(schedule: str, statistics: str, tmp_path: Path) -> None:
    federation = encrypted_federation(4, layers=3, schedule=schedule, statistics=statistics)
    outcome, received = run(federation, federation.simulation(tmp_path))
    assert outcome.aborted is None
    assert not outcome.refusals
    assert len(received) == 12
    everybody = frozenset(federation.plan.party_ids)
    for (_, layer), update in received.items():
        assert error(update, federation.centralised(everybody, layer)) < 1e-7


@pytest.fixture
def vectors(monkeypatch: pytest.MonkeyPatch) -> dict[PartyId, RingArray]:
    """What each party contributes to the first task, before it is encrypted."""
    made: dict[PartyId, RingArray] = {}
    honest = contributed_vector

    def noted(setup: TaskSetup, brought: bytes, group_secret: bytes | None) -> RingArray:
        vector = honest(setup, brought, group_secret)
        if setup.context.task == FIRST:
            made[setup.me] = vector
        return vector

    monkeypatch.setattr(simulation_module, "contributed_vector", noted)
    return made


@pytest.mark.parametrize("round_name", ["r0", "r1", "r2", "r3", "r4", "r6"])
def test_dropouts_in_every_round(
    round_name: str, tmp_path: Path, vectors: dict[PartyId, RingArray]
) -> None:
    federation = encrypted_federation(5, layers=2)
    faults = Faults(crash_before={PartyId(2): round_name})
    outcome, received = run(federation, federation.simulation(tmp_path, faults=faults))
    assert outcome.aborted is None
    survivors = outcome.records[0].survivors
    assert (2 in survivors) == (round_name in {"r4", "r6"})
    for party in (1, 3, 4, 5):
        found = received[PartyId(party), FIRST]
        assert error(found, federation.centralised(survivors, FIRST)) < 1e-7
    # Bit for bit what masks would have left: the plain sum of integers, and of check elements.
    plain = np.sum([vectors[party] for party in survivors], axis=0, dtype=np.uint64)
    np.testing.assert_array_equal(outcome.sums[FIRST], plain)
    digest = hashlib.sha256(to_bytes(np.asarray(plain))).digest()
    assert outcome.records[0].sum_digest == digest


@pytest.mark.parametrize("round_name", ["r0", "r1", "r2", "r3"])
def test_whoever_uploads_may_open(round_name: str, tmp_path: Path) -> None:
    """The lowest id is not there any more before r4: the next one that contributed opens."""
    federation = encrypted_federation(5)
    faults = Faults(crash_before={PartyId(1): round_name})
    outcome, received = run(federation, federation.simulation(tmp_path, faults=faults))
    assert outcome.records[0].survivors == {2, 3, 4, 5}
    (offer,) = [delivery for delivery in outcome.transcript if delivery.kind == "sum"]
    assert offer.receiver == 2
    assert len(received) == 4


@pytest.mark.parametrize("round_name", ["r4", "r5"])
def test_without_its_opener_a_task_ends_and_nothing_is_opened(
    round_name: str, tmp_path: Path
) -> None:
    federation = encrypted_federation(5)
    faults = Faults(crash_before={PartyId(1): round_name})
    outcome, received = run(federation, federation.simulation(tmp_path, faults=faults))
    assert outcome.aborted is not None
    assert (outcome.aborted.reason, outcome.aborted.culprit) == (AbortReason.OPENER_GONE, 1)
    assert not received
    assert not outcome.sums
    for party in (2, 3, 4, 5):
        state = outcome.party_states[PartyId(party)]
        assert isinstance(state, Aborted)
        assert state.reason is AbortReason.OPENER_GONE


def test_too_few_uploads_end_the_task(tmp_path: Path) -> None:
    federation = encrypted_federation(5)
    faults = Faults(crash_before={PartyId(2): "r3", PartyId(3): "r3"})
    outcome, _ = run(federation, federation.simulation(tmp_path, faults=faults))
    assert outcome.aborted is not None
    assert outcome.aborted.reason is AbortReason.BELOW_THRESHOLD


def test_a_lossy_network_changes_nothing(tmp_path: Path, vectors: dict[PartyId, RingArray]) -> None:
    federation = encrypted_federation(5)
    faults = Faults(duplicate=0.3, delay=20)
    outcome, _ = run(federation, federation.simulation(tmp_path, faults=faults, seed=3))
    assert outcome.aborted is None
    survivors = outcome.records[0].survivors
    plain = np.sum([vectors[party] for party in survivors], axis=0, dtype=np.uint64)
    np.testing.assert_array_equal(outcome.sums[FIRST], plain)


# Parties that lie about ciphertexts


def forged(
    monkeypatch: pytest.MonkeyPatch, alter: Callable[[PartyId, RingArray], RingArray]
) -> None:
    honest = uploaded_vector

    def lying(setup: TaskSetup, vector: RingArray, group_secret: bytes | None) -> RingArray:
        return alter(setup.me, honest(setup, vector, group_secret))

    monkeypatch.setattr(simulation_module, "uploaded_vector", lying)


def refused_of(outcome: Outcome, party: int) -> RefusalError:
    (found,) = [
        error
        for _, error in outcome.refusals
        if isinstance(error, RefusalError) and error.culprit == party
    ]
    return found


def with_bytes(words: RingArray, place: int, data: bytes) -> RingArray:
    octets = bytearray(words.astype("<u8").tobytes())
    octets[place : place + len(data)] = data
    return np.frombuffer(bytes(octets), "<u8").astype(np.uint64)


@pytest.mark.lie(
    role="party", lie="uploads no ciphertext", round="r3", refused_by="MALFORMED_MESSAGE"
)
@pytest.mark.parametrize(
    ("forgery", "said"),
    [
        ((0, b"SKKC"), "no chunk"),
        ((4, b"\x02"), "version 2"),
        ((5, b"\x03"), "form 3"),
        ((6, b"\x02"), "2 uploads"),
        ((8, b"\x01"), "chunk 1 of"),
        ((16, bytes(16)), "other parameters"),
        ((HEADER_BYTES + SEED_BYTES, b"\xff" * 8), "not below its prime"),
    ],
)
def test_a_forged_chunk_is_refused_by_name(
    forgery: tuple[int, bytes],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    federation = encrypted_federation(5)
    forged(monkeypatch, lambda me, words: with_bytes(words, *forgery) if me == 4 else words)
    outcome, received = run(federation, federation.simulation(tmp_path))
    found = refused_of(outcome, 4)
    assert said in str(found)
    assert "chunk 0" in str(found)
    refusal(found.reason)
    # The others go on without it.
    assert outcome.records[0].survivors == {1, 2, 3, 5}
    assert (PartyId(1), FIRST) in received


@pytest.mark.lie(role="party", lie="signs no seeds", round="r3", refused_by="MALFORMED_MESSAGE")
def test_a_contribution_without_seeds_is_refused_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """Not because they are others than those of the upload (SPEC 4.12(b))."""
    federation = encrypted_federation(5)
    honest = MaskedUpload.uploaded
    uploads: list[MaskedUpload] = []

    def uploaded(upload: MaskedUpload) -> Uploaded:
        uploads.append(upload)
        said = honest(upload)
        return replace(said, seeds=b"") if len(uploads) == 4 else said

    monkeypatch.setattr(MaskedUpload, "uploaded", uploaded)
    outcome, _ = run(federation, federation.simulation(tmp_path))
    assert uploads[3].seeds
    refusal(refused_of(outcome, 4).reason)
    assert outcome.records[0].survivors == {1, 2, 3, 5}


@pytest.mark.lie(
    role="party", lie="uploads another party's ciphertext", round="r3", refused_by="REPEATED_PARTY"
)
def test_a_replayed_chunk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    federation = encrypted_federation(5)
    seen: list[RingArray] = []

    def replay(me: PartyId, words: RingArray) -> RingArray:
        seen.append(words)
        return seen[0] if me == 4 else words

    forged(monkeypatch, replay)
    outcome, _ = run(federation, federation.simulation(tmp_path))
    refusal(refused_of(outcome, 4).reason)
    assert outcome.records[0].survivors == {1, 2, 3, 5}


def test_one_seed_twice_in_an_upload_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two chunks, of which the second says that it is the second.
    federation = encrypted_federation(4, capacity=150)
    assert task_chunks(federation.plan, FIRST) == 2

    def repeat(me: PartyId, words: RingArray) -> RingArray:
        data = words.astype("<u8").tobytes()
        body = data[HEADER_BYTES:CHUNK_BYTES]
        return with_bytes(words, CHUNK_BYTES + HEADER_BYTES, body) if me == 4 else words

    forged(monkeypatch, repeat)
    outcome, _ = run(federation, federation.simulation(tmp_path))
    assert refused_of(outcome, 4).reason is AbortReason.REPEATED_PARTY


def test_a_ciphertext_under_another_key_spoils_the_sum_and_nothing_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = encrypted_federation(5)
    honest = uploaded_vector

    def other_key(setup: TaskSetup, vector: RingArray, group_secret: bytes | None) -> RingArray:
        return honest(setup, vector, bytes(32) if setup.me == 4 else group_secret)

    monkeypatch.setattr(simulation_module, "uploaded_vector", other_key)
    outcome, received = run(federation, federation.simulation(tmp_path))
    state = outcome.party_states[PartyId(1)]
    assert isinstance(state, Aborted)
    assert (state.reason, state.culprit) == (AbortReason.BOUNDS_EXCEEDED, None)
    assert outcome.aborted is not None
    assert not received
    assert not outcome.sums


# An opener that lies


@pytest.mark.lie(
    role="party",
    lie="says that another sum was opened",
    round="r5",
    refused_by="MERGE_UNVERIFIED",
)
def test_an_opener_that_lies_about_the_sum_is_caught_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    honest = decryption.open_offer

    def lying(*arguments: Any) -> RingArray:  # noqa: ANN401
        # Twice Z, and so twice the update, which the aggregator has no reason to refuse.
        opened = honest(*arguments).copy()
        values = opened.view(np.int64).reshape(68, -1)
        values[48:] *= 2
        return opened

    monkeypatch.setattr(decryption, "open_offer", lying)
    federation = encrypted_federation(5)
    outcome, received = run(federation, federation.simulation(tmp_path))
    state = outcome.party_states[PartyId(2)]
    assert isinstance(state, Aborted)
    refusal(state.reason)
    assert not received


# An aggregator that dies


def same(found: Outcome, expected: Outcome) -> None:
    assert [record.survivors for record in found.records] == [
        record.survivors for record in expected.records
    ]
    assert found.aborted == expected.aborted
    for party, state in expected.party_states.items():
        assert type(found.party_states[party]) is type(state)


def mortal(directory: Path, *, at: int, before: bool) -> Iterator[Journal]:
    path = directory / "journal.sqlite"
    yield MortalJournal(path, at=at, before=before)
    while True:
        yield QuickJournal(path)


@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_every_write_leaves_the_session_as_it_would_have_been(
    before: bool, tmp_path: Path
) -> None:
    federation = encrypted_federation(4, tile_bytes=1 << 16)
    faults = Faults(crash_after_frames={PartyId(4): 1})
    expected, _ = run(federation, federation.simulation(tmp_path / "calm", faults=faults))
    assert expected.aborted is None
    at = 0
    while True:
        directory = tmp_path / f"crash-{at}"
        directory.mkdir()
        journals = mortal(directory, at=at, before=before)
        mortals = simulation(directory, journals, federation=federation, faults=faults)
        outcome, received = run(federation, mortals)
        same(outcome, expected)
        for update in received.values():
            wanted = federation.centralised(expected.records[0].survivors, FIRST)
            assert error(update, wanted) < 1e-7
        if not mortals.deaths:
            break
        at += 1
    assert at > 15


def test_an_aggregator_restarted_before_every_message_ends_the_session(
    tmp_path: Path, vectors: dict[PartyId, RingArray]
) -> None:
    federation = encrypted_federation(4, layers=2, tile_bytes=1 << 16)
    (tmp_path / "restless").mkdir()

    def journals() -> Iterator[Journal]:
        while True:
            yield QuickJournal(tmp_path / "restless" / "journal.sqlite")

    restless = simulation(tmp_path / "restless", journals(), federation=federation, kind=Restless)
    outcome, received = run(federation, restless)
    assert outcome.aborted is None
    assert len(received) == 8
    plain = np.sum(list(vectors.values()), axis=0, dtype=np.uint64)
    digest = hashlib.sha256(to_bytes(np.asarray(plain))).digest()
    assert outcome.records[0].sum_digest == digest


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_stored_sum_that_is_damaged_is_named(damage: str, tmp_path: Path) -> None:
    federation = encrypted_federation(4)
    directory = tmp_path / "run"
    directory.mkdir()

    class StopError(Exception):
        pass

    class Stopped(MortalSimulation):
        def _open(self, *_: object) -> None:
            raise StopError

    def journals() -> Iterator[Journal]:
        while True:
            yield QuickJournal(directory / "journal.sqlite")

    stopped = simulation(directory, journals(), federation=federation, kind=Stopped)
    with pytest.raises(StopError):
        run(federation, stopped)
    (stored,) = directory.rglob("*.sum")
    if damage == "cut":
        stored.write_bytes(stored.read_bytes()[:-1])
    else:
        stored.unlink()
    with pytest.raises(StorageError, match=r"task-0\.sum"):
        stopped.restart_aggregator()


def test_a_full_disk_delays_the_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, go_on = Bundles.store_sum, Coordinator.open_pending
    begun: list[bytes] = []

    def full(bundles: Bundles, task: TaskIndex, offer: Iterable[bytes]) -> tuple[bytes, int]:
        if begun:
            return store(bundles, task, offer)
        begun.append(next(iter(offer)))
        raise StorageError("disk full")

    def patient(coordinator: Coordinator) -> OpenedTask | None:
        try:
            return go_on(coordinator)
        except StorageError:
            assert isinstance(coordinator.state, Summing)
            return go_on(coordinator)

    monkeypatch.setattr(Bundles, "store_sum", full)
    monkeypatch.setattr(Coordinator, "open_pending", patient)
    federation = encrypted_federation(4)
    outcome, received = run(federation, federation.simulation(tmp_path))
    assert begun
    assert outcome.aborted is None
    assert len(received) == 4


def test_a_stored_upload_that_is_damaged_ends_the_task_without_a_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Bundles.store_sum

    def damaged(bundles: Bundles, task: TaskIndex, offer: Iterable[bytes]) -> tuple[bytes, int]:
        (path,) = tmp_path.rglob("party-2.tiles")
        data = bytearray(path.read_bytes())
        data[CHUNK_BYTES // 2] ^= 1
        path.write_bytes(data)
        return honest(bundles, task, offer)

    monkeypatch.setattr(Bundles, "store_sum", damaged)
    federation = encrypted_federation(4)
    outcome, received = run(federation, federation.simulation(tmp_path))
    assert outcome.aborted is not None
    assert outcome.aborted.reason is AbortReason.INTERNAL
    assert "party 2" in outcome.aborted.detail
    assert not received
    assert not list(tmp_path.rglob("*.sum"))
