"""Keys and vectors of closed sums, looked for in everything that is printed, sent or stored.

A whole session of parties with journals, through their own driver. Every derived key is recorded
where it is derived, every vector where it is made.
"""

import base64
import contextlib
import logging
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.closed import INTEGERS
from collabedit.crypto.kdf import derive_key
from collabedit.crypto.ring import RingArray, subtract_from, to_bytes
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import CollabEditError
from collabedit.exchange import decode_checks
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import closing, counting, driver, merge_check
from collabedit.party import states as s
from collabedit.party.closing import ClosedTask, Released, UnverifiedError, statistics_from_bytes
from collabedit.party.contribution import contributed_vector
from collabedit.party.counting import Counter
from collabedit.party.driver import TaskDriver
from collabedit.party.journal import PartyJournal
from collabedit.party.member import Member
from collabedit.party.merge_check import MergeCheck
from collabedit.party.recorded_channel import RecordedChannel
from collabedit.party.session import run_session
from collabedit.party.states import TaskSetup
from collabedit.plan import Plan
from collabedit.proto.messages import Context
from collabedit.recorder import Recorder
from collabedit.recording import FILE
from tests.protocol.stage import parties
from tests.security.test_canaries import byte_strings, contents_of
from tests.support.crashes import MortalChannel
from tests.support.federations import TestFederation, build_federation
from tests.support.loopback import driven
from tests.support.networks import MatrixEditor
from tests.support.overlaps import with_overlap

PARTIES, TASKS = 4, 2
CLOSED = "check_columns = 3\ncover_edits = 2\nmin_edits = 5"
LABELS = ("basis-keys", "basis-outputs", "check-vector", "check-tag", "check-pad")
WINDOW = 4
"""Numbers in a row by which a vector is recognised: 32 bytes."""


class Draws:
    """A party's own randomness: seeds of its tasks and of its cover edits."""

    def __init__(self) -> None:
        self.drawn: list[bytes] = []

    def random_bytes(self, count: int) -> bytes:
        self.drawn.append(SystemRandomness().random_bytes(count))
        return self.drawn[-1]


@dataclass
class Watched:
    """A session, and what became known and visible in it.

    Attributes:
        keys: every key that was derived from a group secret, by label and context.
        secrets: byte strings that nobody but the parties may have, by name.
        texts: everything that was printed on the way.
        seen: everything that reached the aggregator.
        held: everything that it held in memory or on disk at any time.
    """

    federation: TestFederation
    directory: Path
    keys: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    held: set[bytes] = field(default_factory=set)
    draws: dict[PartyId, Draws] = field(default_factory=dict)
    contexts: dict[TaskIndex, tuple[Context, bytes]] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return self.federation.plan

    def run(self) -> "Watched":
        self.directory.mkdir(exist_ok=True)
        self.coordinator = Coordinator(
            self.plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory / "spool",
            randomness=SystemRandomness(),
            observer=self._on_event,
            journal=Journal(self.directory / "journal.sqlite"),
            recorder=Recorder(self.directory / "recording", self.plan, role="aggregator"),
        )
        threads = [
            threading.Thread(target=self._join, args=(party,)) for party in self.plan.party_ids
        ]
        with self._listening(), driven(self.coordinator, patience=30):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
        self._look()
        self._note_sums()
        return self

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        taken = TaskDriver._take

        def derive(secret: bytes, *, label: str, context: bytes, length: int = 32) -> bytes:
            self.secrets["group secret " + secret.hex()[:8]] = secret
            key = derive_key(secret, label=label, context=context, length=length)
            self.keys[label, context] = key
            return key

        def make(
            setup: TaskSetup, brought: bytes | memoryview, group_secret: bytes | None
        ) -> RingArray:
            made = contributed_vector(setup, brought, group_secret)
            assert group_secret is not None
            self._note_vector(setup, brought, group_secret, made)
            return made

        def take(own: TaskDriver, step: s.Step, *, replayed: bool = False) -> None:
            self.texts.append(f"{step!r} {step.state} {own!r}")
            taken(own, step, replayed=replayed)

        collected: list[logging.LogRecord] = []
        collector = logging.Handler(level=logging.DEBUG)
        collector.emit = collected.append  # type: ignore[method-assign, assignment]
        root = logging.getLogger()
        level = root.level
        root.addHandler(collector)
        root.setLevel(logging.DEBUG)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(closing, "derive_key", derive)
            patched.setattr(merge_check, "derive_key", derive)
            patched.setattr(driver, "contributed_vector", make)
            patched.setattr(TaskDriver, "_take", take)
            try:
                yield
            finally:
                root.removeHandler(collector)
                root.setLevel(level)
                self.texts += [record.getMessage() for record in collected]

    def _join(self, party: PartyId) -> None:
        work = self.directory / f"party-{party}"
        work.mkdir()
        draws = self.draws[party] = Draws()
        channel = MortalChannel(self.coordinator, party)
        member = Member(self.plan, party, self.federation.identities[party], draws)
        recorder = Recorder(work / "recording", self.plan, role="party", party=party)
        try:
            with recorder, PartyJournal(work, randomness=SystemRandomness()) as journal:
                report = run_session(
                    member,
                    RecordedChannel(channel, recorder, party),
                    MatrixEditor(self.federation, party),
                    journal=journal,
                    verified=recorder.verify,
                    observer=lambda event, fields: self._on_party(journal, event, fields),
                )
                self.texts += [repr(report), repr(journal.unfinished), repr(channel.attempted)]
        except CollabEditError as error:
            self._note_error(error)
        for packet in channel.attempted:
            self.seen += [packet.envelope.body, *packet.attachments]
        self.seen += [frame for _, frame in channel.frames_sent]

    def _note_error(self, error: Exception) -> None:
        self.texts += traceback.format_exception(error)
        self.texts += [str(error), repr(error), repr(error.args)]

    def _on_party(self, journal: PartyJournal, event: str, fields: Mapping[str, object]) -> None:
        self.texts.append(f"{event} {dict(fields)!r} {journal!r} {journal.unfinished!r}")

    def _on_event(self, event: str, fields: Mapping[str, object]) -> None:
        self.texts.append(f"{event} {dict(fields)!r}")
        self._look()

    def _look(self) -> None:
        """Note what the aggregator has, as long as the tiles are there."""
        if not hasattr(self, "coordinator"):
            return
        self.held |= set(byte_strings(self.coordinator))
        self.texts.append(repr(self.coordinator.state))
        for path in (self.directory / "spool", self.directory / "journal.sqlite"):
            found = path.rglob("*") if path.is_dir() else [path]
            for file in found:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    self.held.add(file.read_bytes())

    def _note(self, name: str, data: bytes | memoryview) -> None:
        window = bytes(data)[: 8 * WINDOW]
        assert len(window) == 8 * WINDOW
        assert len(set(window)) > 8
        self.secrets[name] = window

    def _note_vector(
        self, setup: TaskSetup, brought: bytes | memoryview, group_secret: bytes, made: RingArray
    ) -> None:
        plan, task, me = self.plan, setup.context.task, setup.me
        self.contexts[task] = setup.context, group_secret
        check = MergeCheck(plan, setup.context, group_secret)
        closed = ClosedTask(plan, setup.context, group_secret)
        self.texts += [repr(check), repr(closed), repr(setup)]
        name = f"of {me} in task {task}"
        # Statistics in the secret basis, which only masks hide; check elements with pads, too, and
        # below those without.
        size = plan.statistics_length(task)
        self._note(f"statistics {name}", to_bytes(made[:size]))
        self._note(f"end of the statistics {name}", to_bytes(made[size - WINDOW : size]))
        self._note(f"padded checks {name}", to_bytes(made[size:]))
        self._note(f"padded tags {name}", to_bytes(made[-WINDOW:]))
        bare = made[size:].copy()
        subtract_from(bare, check._pad(me))
        self._note(f"check columns {name}", to_bytes(bare))
        tags = plan.check_tags
        self.secrets[f"check integers {name}"] = bytes(to_bytes(bare[-tags - INTEGERS : -tags]))
        self._note(f"tags {name}", to_bytes(bare[-WINDOW:]))
        for layer, (keys, residuals) in zip(
            plan.tasks[task], statistics_from_bytes(plan, task, brought), strict=True
        ):
            self._note(f"keys {name}", keys.tobytes())
            self._note(f"residuals {name}", residuals.tobytes())
            assert keys.shape[1] == residuals.shape[1] + plan.cover_edits
            self._note(f"cover {name}", np.ascontiguousarray(keys[:, -1]).tobytes())
            self._note(f"check vector of task {task}", check.vectors(layer).tobytes())
            inputs, outputs = closed._rotations(layer)
            self.texts += [repr(inputs), repr(outputs)]
            turned = inputs.apply(keys), outputs.apply(residuals)
            self._note(f"turned keys {name}", turned[0].tobytes())
            self._note(f"turned residuals {name}", turned[1].tobytes())

    def _note_sums(self) -> None:
        """The check elements of the whole sum, which the aggregator has under all pads."""
        for label_context, key in self.keys.items():
            self.secrets[f"{label_context[0]} {label_context[1].hex()}"] = key
        for party, draws in self.draws.items():
            for number, drawn in enumerate(draws.drawn):
                self.secrets[f"draw {number} of {party}"] = drawn
        for task, (context, secret) in self.contexts.items():
            if len(self.coordinator.records) <= task:
                continue
            survivors = self.coordinator.records[task].survivors
            data = self.coordinator.bundle(task)
            check = MergeCheck(self.plan, context, secret)
            padded = decode_checks(self.plan, task, data)
            bare = padded.copy()
            for party in survivors:
                subtract_from(bare, check._pad(party))
            self._note(f"sum of the checks in task {task}", to_bytes(bare))
            integers = bare[-self.plan.check_tags - INTEGERS : -self.plan.check_tags]
            self.secrets[f"sum of the integers in task {task}"] = bytes(to_bytes(integers))
            sums = check.open(padded, survivors)
            released = Released(self.plan, context, data, survivors, secret)
            opened = released.opened
            self.texts += [repr(sums), repr(released), repr(opened), repr(opened.checks)]
            for update in opened.updates.values():
                self._note(f"opened update {task}", update.left.tobytes())


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    federation = build_federation(
        PARTIES, layers=TASKS, closed=CLOSED, capacity=PARTIES * (3 + 2) + 8, tile_bytes=1024
    )
    watched = Watched(federation, tmp_path_factory.mktemp("watched")).run()
    assert len(watched.coordinator.records) == TASKS
    assert {record.survivors for record in watched.coordinator.records} == {parties(1, 2, 3, 4)}
    return watched


def traces(secret: bytes) -> Iterator[str]:
    """Forms in which the beginning of a byte string is printed."""
    head = secret[:12]
    yield head.hex()
    yield head.hex().upper()
    yield repr(head)[2:-1]
    yield base64.b64encode(head).decode()
    yield str(list(head))[1:-1]
    for width in ("<f8", "<u8"):
        number = np.frombuffer(secret[8:16], dtype=width)[0]
        text = str(number)
        if len(text) > 8:
            yield text[:10]


def assert_unprinted(texts: list[str], secrets: Mapping[str, bytes]) -> None:
    printed = "\n".join(set(texts))
    for name, secret in secrets.items():
        for trace in traces(secret):
            assert trace not in printed, name


def test_the_search_would_find_what_it_looks_for(watched: Watched) -> None:
    kinds = {name.split(" ")[0] for name in watched.secrets}
    assert kinds >= {*LABELS, "group", "draw", "statistics", "keys", "cover", "check", "sum"}
    assert len([name for name in watched.secrets if name.startswith("group secret")]) == TASKS
    key = watched.secrets["draw 0 of 1"]
    number = np.frombuffer(watched.secrets["turned keys of 1 in task 0"], dtype="<f8")[1]
    for text in (key.hex(), repr(key), str(list(key)), str(float(number))):
        with pytest.raises(AssertionError):
            assert_unprinted(["in " + text], watched.secrets)
    # What a party stores under its own key, or masks, it does have in the clear in memory.
    assert watched.secrets["cover of 1 in task 0"] != watched.secrets["cover of 2 in task 0"]


def test_nothing_of_it_is_printed(watched: Watched) -> None:
    words = "\n".join(watched.texts)
    for word in ("Contributing", "AwaitingVerification", "Completed", "checked", "TaskCompleted"):
        assert word in words
    assert len(words) > 100_000
    assert_unprinted(watched.texts, watched.secrets)


def test_nothing_of_it_reaches_the_aggregator_or_stays_there(watched: Watched) -> None:
    everything = b"\n".join({*watched.seen, *watched.held})
    assert len(everything) > 300_000
    # The search is not blind: padded and summed, the check elements are there.
    opened = to_bytes(
        decode_checks(watched.plan, TaskIndex(0), watched.coordinator.bundle(TaskIndex(0)))
    )
    assert bytes(opened)[: 8 * WINDOW] in everything
    for name, secret in watched.secrets.items():
        assert secret not in everything, name
        assert secret[::-1] not in everything, name


def test_a_party_stores_nothing_of_it_in_the_clear(watched: Watched) -> None:
    stored = b"\n".join(
        path.read_bytes()
        for party in watched.plan.party_ids
        for path in (watched.directory / f"party-{party}" / "journal").iterdir()
    )
    # The journals are not ended here: finished tasks with their updates and group secrets.
    assert len(stored) > 10_000
    for name, secret in watched.secrets.items():
        assert secret not in stored, name


def test_recordings_hold_none_of_it_but_what_a_party_verified(watched: Watched) -> None:
    watched.coordinator._transcript._recorder.close()  # type: ignore[union-attr]
    # Whoever has the model before and after has the update in its coordinates.
    verified = {name for name in watched.secrets if name.startswith("opened update")}
    assert len(verified) == TASKS
    folders = [watched.directory / f"party-{party}" for party in watched.plan.party_ids]
    for folder in (watched.directory, *folders):
        found = contents_of(folder / "recording" / FILE)
        assert len(found) > 100_000
        allowed = set() if folder == watched.directory else verified
        for name, secret in watched.secrets.items():
            assert (secret in found) == (name in allowed), (folder, name)


def test_no_refusal_shows_any_of_it(watched: Watched) -> None:
    task = TaskIndex(0)
    context, secret = watched.contexts[task]
    data = watched.coordinator.bundle(task)
    closed, survivors = ClosedTask(watched.plan, context, secret), watched.plan.party_ids
    damaged = bytearray(data)
    damaged[-1] ^= 1
    column = bytearray(data)
    column[-8 * watched.plan.check_length(task) + 7] ^= 64
    bundles = (bytes(damaged), bytes(column), data[:-8], data[:100], b"")
    texts = []
    for lie in bundles:
        with pytest.raises(CollabEditError) as caught:
            closed.open(lie, survivors)
        texts += [*traceback.format_exception(caught.value), repr(caught.value.args)]
    with pytest.raises(UnverifiedError) as missing:
        closed.open(data, [PartyId(1), PartyId(2), PartyId(3)])
    texts += traceback.format_exception(missing.value)
    assert_unprinted(texts, watched.secrets)


def test_a_session_that_ends_by_a_refusal_shows_none_of_it(tmp_path: Path) -> None:
    federation = build_federation(3, closed="check_columns = 2\nmin_edits = 9", tile_bytes=1024)
    place = PartyId(1), TaskIndex(0)
    keys, residuals = federation.edits[place]
    federation.edits[place] = keys[:, :2], residuals[:, :2]
    watched = Watched(federation, tmp_path).run()
    assert any("TOO_FEW_EDITS" in text or "min_edits" in text for text in watched.texts)
    assert_unprinted(watched.texts, watched.secrets)
    everything = b"\n".join({*watched.seen, *watched.held})
    for name, secret in watched.secrets.items():
        assert secret not in everything, name


@pytest.mark.parametrize("schedule", ['"sequential"', '"parallel"'])
def test_every_key_of_a_session_is_another_one(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts alone keep them apart: here all tasks have one group secret, which never happens."""
    plan = with_overlap(
        build_federation(4, layers=3, schedule=schedule, closed="check_columns = 2").plan
    )
    derived: list[tuple[str, bytes, bytes]] = []

    def derive(secret: bytes, *, label: str, context: bytes, length: int = 32) -> bytes:
        key = derive_key(secret, label=label, context=context, length=length)
        derived.append((label, context, key))
        return key

    for module in (closing, merge_check, counting):
        monkeypatch.setattr(module, "derive_key", derive)
    for session in (bytes(32), b"s" * 32):
        for task in map(TaskIndex, range(len(plan.tasks))):
            context = Context(plan.digest, session, task, b"c" * 32)
            if plan.counting(task) is not None:
                counter = Counter(plan, context, b"g" * 32)
                counter.encode([(b"t" * 32, b"f" * 32)])
                for party in plan.party_ids:
                    counter.pad(party)
                continue
            closed = ClosedTask(plan, context, b"g" * 32)
            for layer in plan.tasks[task]:
                closed._rotations(layer)
                closed._check.vectors(layer)
            for party in plan.party_ids:
                closed._check._pad(party)
    used = {(label, context): key for label, context, key in derived if label != "count-cell"}
    layers, tasks = 3, len(plan.tasks) - 1
    labels = [label for label, _ in used]
    wanted = {
        **dict.fromkeys(("basis-keys", "basis-outputs", "check-vector"), 2 * layers),
        "check-tag": 2 * tasks,
        "check-pad": 2 * 4 * tasks,
        "count-key": 2,
        "count-check": 2,
        "count-pad": 2 * 4,
    }
    assert {label: labels.count(label) for label in set(labels)} == wanted
    assert len(set(used.values())) == len(used)
