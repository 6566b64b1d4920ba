"""The key of encrypted sums, looked for in everything that the aggregator sees, holds or stores.

A whole session of parties with journals, through their own driver and over the codec.
"""

import threading
from pathlib import Path

import pytest

from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.rng import SystemRandomness
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import decryption
from collabedit.party.journal import PartyJournal
from collabedit.party.member import Member
from collabedit.party.recorded_channel import RecordedChannel
from collabedit.party.session import run_session
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.messages import Context
from collabedit.recorder import Recorder
from collabedit.recording import FILE, Recording
from tests.security.test_canaries import byte_strings, contents_of
from tests.support.crashes import CrashPoints, MortalChannel
from tests.support.federations import encrypted_federation
from tests.support.loopback import driven
from tests.support.networks import MatrixEditor

FEDERATION = encrypted_federation(4, layers=2)


class Room:
    """A session, and everything that the aggregator had of it at any time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.held: set[bytes] = set()
        self.secrets: dict[str, bytes] = {}
        self.texts: list[str] = []
        self.coordinator = Coordinator(
            FEDERATION.plan,
            FEDERATION.identities[AGGREGATOR],
            directory=directory / "aggregator",
            randomness=SystemRandomness(),
            observer=lambda event, fields: self.texts.append(f"{event} {dict(fields)}"),
            journal=Journal(directory / "aggregator.sqlite"),
            recorder=Recorder(directory / "recorded", FEDERATION.plan, role="aggregator"),
        )

    def look(self) -> None:
        self.held |= set(byte_strings(self.coordinator))
        for path in [*(self.directory / "aggregator").rglob("*"), *self.directory.glob("agg*")]:
            if path.is_file():
                self.held.add(path.read_bytes())

    def join(self, party: PartyId) -> None:
        channel = MortalChannel(self.coordinator, party, points=CrashPoints())
        looked = threading.Lock()

        def see(packet: m.Packet) -> None:
            with looked:
                self.texts.append(repr(packet))
                if party == 1:
                    self.look()

        channel.before_delivery = see
        work = self.directory / f"party-{party}"
        work.mkdir()
        member = Member(FEDERATION.plan, party, FEDERATION.identities[party], SystemRandomness())
        recorder = Recorder(work / "recording", FEDERATION.plan, role="party", party=party)
        with recorder, PartyJournal(work, randomness=SystemRandomness()) as journal:
            run_session(
                member,
                RecordedChannel(channel, recorder, party),
                MatrixEditor(FEDERATION, party),
                journal=journal,
                verified=recorder.verify,
                observer=lambda event, fields: self.texts.append(f"{event} {dict(fields)}"),
            )

    def run(self) -> None:
        threads = [
            threading.Thread(target=self.join, args=(party,)) for party in FEDERATION.plan.party_ids
        ]
        with driven(self.coordinator, patience=30):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        self.look()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    found = Room(tmp_path_factory.mktemp("room"))
    honest_key, honest_derive = decryption.task_key, SecretKey.derive

    def task_key(plan: Plan, context: Context, group_secret: bytes) -> SecretKey:
        key = honest_key(plan, context, group_secret)
        found.secrets[f"group secret of task {context.task}"] = group_secret
        # Without the fingerprint of the parameters, which is public.
        found.secrets[f"key of task {context.task}"] = key.to_bytes()[32:]
        found.texts.append(f"{key!r} {key}")
        return key

    def derive(parameters: CkksParameters, seed: bytes) -> SecretKey:
        found.secrets[f"seed {seed.hex()[:8]}"] = seed
        return honest_derive(parameters, seed)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decryption, "task_key", task_key)
        patched.setattr(SecretKey, "derive", derive)
        found.run()
    return found


def test_the_session_ended_well_and_every_secret_is_known(room: Room) -> None:
    assert [record.survivors for record in room.coordinator.records] == [{1, 2, 3, 4}] * 2
    keys = {name for name in room.secrets if name.startswith("key")}
    assert keys == {"key of task 0", "key of task 1"}
    assert len({room.secrets[name] for name in keys}) == 2, "a task has its own key"
    assert len([name for name in room.secrets if name.startswith("seed")]) == 2


def test_the_aggregator_never_has_the_key(room: Room) -> None:
    assert len(room.held) > 100
    for name, secret in room.secrets.items():
        # Of a key any 32 bytes in a row would do.
        pieces = [secret[start : start + 32] for start in range(0, len(secret), 32)]
        for piece in pieces:
            assert not any(piece in data for data in room.held), name


def test_no_recording_has_the_key(room: Room) -> None:
    room.coordinator._transcript._recorder.close()  # type: ignore[union-attr]
    folders = ["recorded"]
    folders += [f"party-{party}/recording" for party in FEDERATION.plan.party_ids]
    offers = 0
    for folder in folders:
        path = room.directory / folder / FILE
        found = contents_of(path)
        with Recording(path) as recording:
            offers += len(list(recording.deliveries(kind="sum")))
        for name, secret in room.secrets.items():
            pieces = [secret[start : start + 32] for start in range(0, len(secret), 32)]
            assert not any(piece in found for piece in pieces), (folder, name)
    # Two tasks, at the aggregator and at their opener.
    assert offers == 4


def test_no_key_is_printed(room: Room) -> None:
    everything = "\n".join(room.texts)
    for name, secret in room.secrets.items():
        assert secret[:16].hex() not in everything, name
        assert repr(secret[:8])[2:-1] not in everything, name


def test_the_search_would_find_a_key_at_the_aggregator(room: Room) -> None:
    canary = room.secrets["key of task 0"]
    room.coordinator._canary = canary  # type: ignore[attr-defined]
    try:
        assert any(canary in data for data in byte_strings(room.coordinator))
    finally:
        del room.coordinator._canary  # type: ignore[attr-defined]
