"""An aggregator that dies at any write, or between any two messages, ends the session as if not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator.bundles import Bundles
from collabedit.aggregator.journal import InputKind, Journal
from collabedit.aggregator.states import Completed
from collabedit.errors import JournalError, StorageError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.recording import Delivery
from collabedit.simulation import Faults, Outcome, Simulation
from tests.support.federations import TestFederation, build_federation
from tests.support.randomness import InsecureTestRandomness

FEDERATION = build_federation(4)
TWO_LAYERS = build_federation(4, layers=2)
FAULTS = Faults(crash_before={PartyId(2): "r5"}, crash_after_frames={PartyId(4): 1})
"""Party 4 is lost in its upload; party 2 before it reveals shares, which is below the threshold."""


class Crash(BaseException):
    """The process is gone. Not an Exception: nothing may catch it and clean up."""


class QuickJournal(Journal):
    """Survives its process, but not the machine: these tests end processes only."""

    is_durable = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._database.execute("PRAGMA synchronous = OFF")


class MortalJournal(QuickJournal):
    """Dies before or after it has written input number `at`, counted over the process's life."""

    def __init__(self, path: Path, *, at: int, before: bool) -> None:
        super().__init__(path)
        self.at = at
        self.before = before

    def append(self, kind: InputKind, data: bytes = b"", *, what: str = "") -> None:
        self.at -= 1
        if self.at == -1 and self.before:
            raise Crash
        super().append(kind, data, what=what)
        if self.at == -1:
            raise Crash


class MortalSimulation(Simulation):
    """Starts the aggregator anew when it dies; whoever was cut off tries again."""

    deaths = 0

    def _to_aggregator(self, delivery: Delivery) -> None:
        try:
            super()._to_aggregator(delivery)
        except Crash:
            self.deaths += 1
            self.restart_aggregator()
            super()._to_aggregator(delivery)

    def _drive(self, task: TaskIndex) -> None:
        try:
            super()._drive(task)
        except Crash:
            self.deaths += 1
            self.restart_aggregator()


def simulation(
    directory: Path,
    journals: Iterator[Journal],
    *,
    federation: TestFederation = FEDERATION,
    faults: Faults | None = None,
    kind: type[MortalSimulation] = MortalSimulation,
) -> MortalSimulation:
    return kind(
        federation.plan,
        identities=federation.identities,
        directory=directory,
        randomness={
            party: InsecureTestRandomness(party)
            for party in (AGGREGATOR, *federation.plan.party_ids)
        },
        faults=faults,
        journal=lambda: next(journals),
    )


def mortal(directory: Path, *, at: int, before: bool) -> Iterator[Journal]:
    path = directory / "journal.sqlite"
    yield MortalJournal(path, at=at, before=before)
    while True:
        yield QuickJournal(path)


def same(found: Outcome, expected: Outcome) -> None:
    assert found.records == expected.records
    assert found.aborted == expected.aborted
    assert found.party_states.keys() == expected.party_states.keys()
    for party, state in expected.party_states.items():
        assert type(found.party_states[party]) is type(state)
    for task, total in expected.sums.items():
        # Whoever opened it and died then is not there to hand the sum over.
        if task in found.sums:
            np.testing.assert_array_equal(found.sums[task], total)


@pytest.mark.parametrize("faults", [None, Faults(crash_before={PartyId(3): "r4"}), FAULTS])
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_every_write_leaves_the_session_as_it_would_have_been(
    before: bool, faults: Faults | None, tmp_path: Path
) -> None:
    expected = FEDERATION.simulation(tmp_path / "calm", faults=faults).run(FEDERATION.contribute)
    at = 0
    while True:
        directory = tmp_path / f"crash-{at}"
        directory.mkdir()
        run = simulation(directory, mortal(directory, at=at, before=before), faults=faults)
        outcome = run.run(FEDERATION.contribute)
        same(outcome, expected)
        if not run.deaths:
            break
        at += 1
    assert at > 15


class Restless(MortalSimulation):
    """Starts the aggregator anew before everything that it gets."""

    def _to_aggregator(self, delivery: Delivery) -> None:
        self.restart_aggregator()
        super()._to_aggregator(delivery)

    def _drive(self, task: TaskIndex) -> None:
        self.restart_aggregator()
        super()._drive(task)


def test_an_aggregator_restarted_before_every_message_opens_the_same_sums(tmp_path: Path) -> None:
    expected = TWO_LAYERS.simulation(tmp_path / "calm").run(TWO_LAYERS.contribute)
    directory = tmp_path / "restless"
    directory.mkdir()
    journals = mortal(directory, at=-1, before=True)
    run = simulation(directory, journals, federation=TWO_LAYERS, kind=Restless)
    outcome = run.run(TWO_LAYERS.contribute)
    assert outcome.sums.keys() == expected.sums.keys()
    same(outcome, expected)
    assert isinstance(run.coordinator.state, Completed)


def stopped_at(directory: Path, at: int) -> MortalSimulation:
    """Run until input `at` is written, and leave the aggregator dead."""
    directory.mkdir()
    journals = mortal(directory, at=at, before=False)
    run = simulation(directory, journals)
    run.restart_aggregator = lambda: (_ for _ in ()).throw(Crash)  # type: ignore[method-assign]
    with pytest.raises(Crash):
        run.run(FEDERATION.contribute)
    run._journal.close()
    return run


IN_CONTRIBUTIONS = 13
"""Four answers in each of r0 to r2, and two in r3."""


def test_damage_to_an_upload_that_is_not_signed_yet_makes_it_be_sent_again(tmp_path: Path) -> None:
    run = stopped_at(tmp_path / "run", IN_CONTRIBUTIONS)
    del run.restart_aggregator
    run.restart_aggregator()
    waited_for = run.coordinator.waiting_for
    assert len(waited_for) == 2
    stored = {p: run.coordinator.stored_tiles(p, TaskIndex(0)) for p in waited_for}
    damaged = max(waited_for, key=lambda party: sum(stored[party]))
    (path,) = (tmp_path / "run").rglob(f"party-{damaged}.tiles")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    events: list[str] = []
    run._observer = lambda event, _fields: events.append(event)
    run.restart_aggregator()
    assert events == ["upload-lost", "resumed"]
    assert run.coordinator.stored_tiles(damaged, TaskIndex(0)) != stored[damaged]
    for party in waited_for - {damaged}:
        assert run.coordinator.stored_tiles(party, TaskIndex(0)) == stored[party]


def test_an_update_that_is_gone_is_named(tmp_path: Path) -> None:
    run = stopped_at(tmp_path / "run", 24)
    (update,) = (tmp_path / "run").rglob("*.update")
    update.write_bytes(update.read_bytes()[:-1])
    del run.restart_aggregator
    with pytest.raises(StorageError, match="not the update that was released"):
        run.restart_aggregator()


def test_a_journal_of_another_plan_is_refused(tmp_path: Path) -> None:
    run = stopped_at(tmp_path / "run", 3)
    del run.restart_aggregator
    run._plan = build_federation(5, fractional_bits=41).plan
    with pytest.raises(JournalError, match="another plan"):
        run.restart_aggregator()


def test_a_disk_that_refuses_the_update_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = FEDERATION.simulation(tmp_path / "calm").run(FEDERATION.contribute)
    refusals = []

    class Patient(MortalSimulation):
        def _drive(self, task: TaskIndex) -> None:
            try:
                super()._drive(task)
            except StorageError as error:
                refusals.append(str(error))
                monkeypatch.undo()

    def refuse(_self: Bundles, _task: TaskIndex, _bundle: bytes) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(Bundles, "store", refuse)
    (tmp_path / "run").mkdir()
    journals = mortal(tmp_path / "run", at=-1, before=True)
    run = simulation(tmp_path / "run", journals, kind=Patient)
    same(run.run(FEDERATION.contribute), expected)
    assert refusals == ["no space left"]
