"""Known secrets, looked for in everything that leaves a machine or is printed by one.

Every end draws from seeded randomness whose draws are recorded, so that every key, seed, share,
keystream and unmasked vector of the session is known to the test, and none to the code.
"""

import base64
import dataclasses
import logging
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from collabedit import recording as recordings
from collabedit.aggregator import states as a
from collabedit.crypto.ring import Ring, to_bytes
from collabedit.crypto.signing import SigningKey
from collabedit.errors import AbortReason
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party import states as s
from collabedit.proto import messages as m
from collabedit.recorder import Recorder
from tests.protocol.stage import FIRST, Session, instead_of, kind_of, parties
from tests.support.federations import TestFederation, build_federation
from tests.support.randomness import InsecureTestRandomness

DROPPED = PartyId(5)


class RecordedRandomness(InsecureTestRandomness):
    """Keeps what it served."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.draws: list[bytes] = []

    def random_bytes(self, count: int) -> bytes:
        drawn = super().random_bytes(count)
        self.draws.append(drawn)
        return drawn


@dataclasses.dataclass
class Secrets:
    """What nobody but its owner may ever see, and both kinds of share by owner and holder."""

    values: dict[str, bytes]
    self_mask: dict[tuple[PartyId, PartyId], bytes]
    mask_key: dict[tuple[PartyId, PartyId], bytes]

    def all(self) -> dict[str, bytes]:
        named = {f"self-mask share {k}": v for k, v in self.self_mask.items()}
        named |= {f"mask-key share {k}": v for k, v in self.mask_key.items()}
        return self.values | named


@dataclasses.dataclass
class Recording:
    """A finished session of five with party 5 dropped in r3, and what was seen on the way."""

    session: Session
    secrets: Secrets
    texts: list[str]
    states: dict[tuple[PartyId, str], s.State]
    recorded: bytes
    """Everything in the file that the aggregator recorded."""
    held: list[tuple[str, list[bytes], dict[str, set[PartyId]]]]
    """At each step: the round, the aggregator's byte strings, owners by kind of share it holds."""


def reachable(root: object) -> Iterator[object]:
    """Walk every object that data of ours leads to."""
    seen: set[int] = set()
    queue: list[object] = [root]
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, type | int | float | str | None.__class__):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, Mapping):
            queue += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            queue += thing
        elif type(thing).__module__.startswith("collabedit"):
            names = [
                name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())
            ]
            names += getattr(thing, "__dict__", {})
            queue += [getattr(thing, name) for name in names if hasattr(thing, name)]


def byte_strings(root: object) -> list[bytes]:
    found = []
    for thing in reachable(root):
        if isinstance(thing, bytes | bytearray):
            found.append(bytes(thing))
        elif isinstance(thing, np.ndarray):
            found.append(thing.tobytes())
    return found


def shares_held(root: object) -> dict[str, set[PartyId]]:
    owners: dict[str, set[PartyId]] = {"self": set(), "key": set()}
    for thing in reachable(root):
        if isinstance(thing, m.Unmask):
            for owner, share in thing.shares.items():
                owners["self" if isinstance(share, m.SelfMaskShare) else "key"].add(owner)
    return owners


def distinctive(federation: TestFederation) -> None:
    """Give every party statistics whose numbers are recognised when printed."""
    for (party, _), (keys, residuals) in federation.edits.items():
        keys[0, 0] = 0.7315904268 + party / 16
        residuals[0, 0] = 3.1847520963 + party / 16


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    federation = build_federation(5, tile_bytes=4096)
    distinctive(federation)
    randomness = {PartyId(end): RecordedRandomness(7000 + end) for end in range(6)}
    texts: list[str] = []
    states: dict[tuple[PartyId, str], s.State] = {}
    held: list[tuple[str, list[bytes], dict[str, set[PartyId]]]] = []

    def watch(session: Session) -> None:
        coordinator = session.coordinator
        held.append((coordinator.round_name, byte_strings(coordinator), shares_held(coordinator)))
        texts.append(repr(coordinator) + repr(coordinator.state) + str(coordinator.state))
        for party, state in session.states.items():
            states[party, type(state).__name__] = state
            texts.append(repr(state) + str(state) + f"{state}")

    def observer(event: str, fields: Mapping[str, object]) -> None:
        texts.append(f"{event} {dict(fields)!r}")

    def alter(party: PartyId, packet: m.Packet) -> Iterable[m.Packet]:
        texts.append(repr(packet) + str(packet))
        return () if party == DROPPED and kind_of(packet) is m.Contribute else (packet,)

    session = Session(
        federation,
        tmp_path_factory.mktemp("spool"),
        randomness=randomness,
        watch=watch,
        observer=observer,
        alter=alter,
        recorder=Recorder(tmp_path_factory.mktemp("record"), federation.plan, role="aggregator"),
    )
    collected: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append(record)

    root, collector = logging.getLogger(), Collector(level=logging.DEBUG)
    level = root.level
    root.addHandler(collector)
    root.setLevel(logging.DEBUG)
    try:
        session.run()
    finally:
        root.removeHandler(collector)
        root.setLevel(level)
    texts += [record.getMessage() for record in collected]
    assert session.survivors == parties(1, 2, 3, 4)
    assert session.recorder is not None
    session.recorder.close()
    secrets = secrets_of(session, states, randomness)
    return Recording(session, secrets, texts, states, contents_of(session.recorder.path), held)


def contents_of(path: Path) -> bytes:
    """Return a recording as it lies on the disk, and its contents with their pieces joined."""
    with recordings.Recording(path) as recorded:
        recorded.check()
        joined = [delivery.data for delivery in recorded.deliveries()]
        joined += [total.tobytes() for total in recorded.sums().values()]
        joined += [update.to_bytes() for update in recorded.updates().values()]
    return b"\n".join([path.read_bytes(), *joined])


def secrets_of(
    session: Session,
    states: Mapping[tuple[PartyId, str], s.State],
    randomness: Mapping[PartyId, RecordedRandomness],
) -> Secrets:
    values: dict[str, bytes] = {}
    shares = Secrets(values, {}, {})
    for party in session.federation.plan.party_ids:
        # Both private keys, the self-mask seed, the group contribution: the first four draws of 32.
        draws = [draw for draw in randomness[party].draws if len(draw) == 32]
        assert len(draws) == 4
        for name, draw in zip(("mask key", "seal key", "seed", "group part"), draws, strict=True):
            values[f"{name} of {party}"] = draw
        values[f"identity of {party}"] = bytes([party + 1]) * 32
        values |= {
            f"coefficient {i} of {party}": draw
            for i, draw in enumerate(d for d in randomness[party].draws if len(d) == 33)
        }
        sharing = states[party, "AwaitingShares"]
        assert isinstance(sharing, s.AwaitingShares)
        assert sharing.self_mask_seed == draws[2]
        assert sharing.mask_key.secret() == draws[0]
        holding = states[party, "AwaitingConfirmations"]
        assert isinstance(holding, s.AwaitingConfirmations)
        assert holding.group_secret is not None
        values["group secret"] = holding.group_secret
        for owner, held in holding.shares.items():
            shares.self_mask[owner, party] = held.self_mask
            shares.mask_key[owner, party] = held.mask_key
        contributing = states[party, "Contributing"]
        assert isinstance(contributing, s.Contributing)
        for number, mask in enumerate(contributing.masks):
            stream = mask.keystream.tile(0, 8, Ring.Z64)
            values[f"keystream {number} of {party}"] = stream.tobytes()
        # A window of the unmasked vector that is long enough to be nobody else's.
        encoded = session.encoded[party, FIRST]
        for start in (0, 1000):
            window = bytes(to_bytes(encoded[start : start + 4]))
            assert len(set(window)) > 8
            values[f"vector of {party} from {start}"] = window
    return shares


def traces(secret: bytes) -> Iterator[str]:
    """Forms in which bytes are printed."""
    yield secret.hex()
    yield secret.hex().upper()
    yield repr(secret)[2:-1]
    yield base64.b64encode(secret).decode().rstrip("=")[:-1]
    yield str(list(secret))[1:-1]
    yield str(int.from_bytes(secret, "big"))
    yield str(int.from_bytes(secret, "little"))


def assert_clean(text: str, recording: Recording) -> None:
    for name, secret in recording.secrets.all().items():
        for trace in traces(secret):
            assert trace not in text, name
    for (party, _), (keys, residuals) in recording.session.federation.edits.items():
        for number in (keys[0, 0], residuals[0, 0]):
            assert f"{number:.6f}"[:-1] not in text, f"statistic of {party}"


def test_the_search_would_find_what_it_looks_for(recording: Recording) -> None:
    secret = recording.secrets.values["seed of 1"]
    for text in (f"seed={secret!r}", secret.hex(), f"{list(secret)}", base64.b64encode(secret)):
        with pytest.raises(AssertionError):
            assert_clean(str(text), recording)
    with pytest.raises(AssertionError):
        assert_clean(repr(recording.session.federation.edits[PartyId(1), FIRST][0]), recording)
    naked = recording.states[PartyId(1), "AwaitingShares"]
    assert byte_strings(naked).count(secret) == 1


def test_nothing_printed_on_the_way_shows_a_secret(recording: Recording) -> None:
    kinds = {name for _, name in recording.states}
    assert kinds >= {"AwaitingRoster", "Contributing", "AwaitingVerification", "Completed"}
    assert len(recording.texts) > 100
    assert_clean("\n".join(set(recording.texts)), recording)


def test_the_aggregator_is_sent_no_secret_but_the_shares_it_may_have(recording: Recording) -> None:
    seen = b"\n".join(recording.session.seen)
    for name, secret in recording.secrets.values.items():
        assert secret not in seen, name
    survivors = recording.session.survivors
    for (owner, holder), share in recording.secrets.self_mask.items():
        assert (share in seen) == (owner in survivors and holder in survivors), (owner, holder)
    for (owner, holder), share in recording.secrets.mask_key.items():
        assert (share in seen) == (owner == DROPPED and holder in survivors), (owner, holder)


def test_a_recording_holds_no_secret_but_the_shares_that_were_revealed(
    recording: Recording,
) -> None:
    found = recording.recorded
    survivors = recording.session.survivors
    # The search is not blind.
    assert recording.session.seen[-1] in found
    for name, secret in recording.secrets.values.items():
        assert secret not in found, name
    for (owner, holder), share in recording.secrets.self_mask.items():
        assert (share in found) == (owner in survivors and holder in survivors), (owner, holder)
    for (owner, holder), share in recording.secrets.mask_key.items():
        assert (share in found) == (owner == DROPPED and holder in survivors), (owner, holder)


def test_the_aggregator_never_holds_a_private_key_or_an_unmasked_vector(
    recording: Recording,
) -> None:
    rounds = {name for name, _, _ in recording.held}
    assert rounds >= {
        "r0-advertise",
        "r1-share",
        "r2-confirm",
        "r3-contribute",
        "r4-survivors",
        "r5-unmask",
        "r5-open",
        "r6-verify",
        "completed",
    }
    everything = b"\n".join({data for _, held, _ in recording.held for data in held})
    for name, secret in recording.secrets.values.items():
        assert secret not in everything, name


def test_the_aggregator_never_holds_both_kinds_of_share_of_one_party(recording: Recording) -> None:
    most = {"self": set[PartyId](), "key": set[PartyId]()}
    for _, _, owners in recording.held:
        for kind, found in owners.items():
            most[kind] |= found
    assert most == {"self": set(recording.session.survivors), "key": {DROPPED}}
    everything = b"\n".join({data for _, held, _ in recording.held for data in held})
    for owner in recording.session.federation.plan.party_ids:
        self_mask = [s for (of, _), s in recording.secrets.self_mask.items() if of == owner]
        mask_key = [s for (of, _), s in recording.secrets.mask_key.items() if of == owner]
        held = (sum(s in everything for s in self_mask), sum(s in everything for s in mask_key))
        assert held[0] == 0 or held[1] == 0


def test_shares_are_forgotten_once_the_sum_is_opened(recording: Recording) -> None:
    _, _, owners = recording.held[-1]
    assert owners == {"self": set(), "key": set()}
    left = b"\n".join(byte_strings(recording.session.coordinator))
    secrets = recording.secrets
    for share in (*secrets.self_mask.values(), *secrets.mask_key.values()):
        assert share not in left


def test_the_spool_holds_nothing_unmasked(tmp_path: Path) -> None:
    federation = build_federation(3)
    spools: list[bytes] = []

    def watch(session: Session) -> None:
        spools.extend(path.read_bytes() for path in tmp_path.rglob("*.tiles"))

    session = Session(federation, tmp_path, watch=watch).run()
    spool = b"\n".join(set(spools))
    assert len(spool) > 1000
    for encoded in session.encoded.values():
        assert bytes(to_bytes(encoded[:4])) not in spool
        assert bytes(to_bytes(encoded[-4:])) not in spool


def test_a_party_forgets_what_a_later_round_does_not_need(recording: Recording) -> None:
    one = PartyId(1)
    values = recording.secrets.values

    def holds(state: str, *names: str) -> list[bool]:
        # The setup holds identity and randomness throughout; the state's own fields are meant.
        held = recording.states[one, state]
        fields = [getattr(held, f.name) for f in dataclasses.fields(held) if f.name != "setup"]
        keys = [t for field in fields for t in reachable(field) if hasattr(t, "secret")]
        found = b"\n".join(byte_strings(fields) + [key.secret() for key in keys])
        return [values[name] in found for name in names]

    secrets = ("mask key of 1", "seal key of 1", "seed of 1", "group part of 1")
    assert holds("AwaitingRoster", *secrets) == [True, True, False, False]
    assert holds("AwaitingShares", *secrets) == [True, True, True, True]
    assert holds("AwaitingConfirmations", *secrets) == [True, False, True, False]
    for later in (
        "Contributing",
        "AwaitingSurvivors",
        "AwaitingSurvivorConfirmations",
        "AwaitingRelease",
        "AwaitingVerification",
        "Completed",
    ):
        assert holds(later, *secrets) == [False] * 4, later
    share = recording.secrets.self_mask[PartyId(2), one]
    for state, there in (("AwaitingSurvivorConfirmations", True), ("AwaitingRelease", False)):
        assert (share in byte_strings(recording.states[one, state])) is there


FAULTS: dict[str, tuple[type[m.Message], m.Message]] = {
    "bad key": (m.Advertise, m.Advertise(bytes(32), bytes(32))),
    "bad transcript": (m.Confirm, m.Confirm(bytes(32))),
    "bad survivors": (m.ConfirmSurvivors, m.ConfirmSurvivors(bytes(32))),
    "bad shares": (m.Unmask, m.Unmask({PartyId(1): m.SelfMaskShare(bytes(33))})),
    "abort": (m.Confirm, m.Abort(AbortReason.INVALID_SHARE, PartyId(1))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_refusal_or_traceback_shows_a_secret(
    fault: str, recording: Recording, tmp_path: Path
) -> None:
    message, changed = FAULTS[fault]
    federation = recording.session.federation
    randomness = {PartyId(end): RecordedRandomness(7000 + end) for end in range(6)}
    session = Session(federation, tmp_path, randomness=randomness)
    make = instead_of(2, message, lambda _packet: m.Packet(session.sign(PartyId(2), changed)))
    # Party 3 sends damaged tiles besides, party 4 seals nonsense to everybody.
    session.alter = make
    session.alter_frames = lambda party, frames: (
        [frames[0][:-1], frames[0][:60] + bytes(len(frames[0]) - 60), *frames[1:]]
        if party == 3
        else frames
    )
    session.run()
    assert session.refusals or fault == "abort"
    texts = [repr(state) for state in session.states.values()]
    for _, error in session.refusals:
        texts += traceback.format_exception(error)
        texts += [str(error), repr(error), repr(error.args)]
    assert_clean("\n".join(texts), recording)


def test_identity_keys_are_the_ones_looked_for() -> None:
    federation = build_federation(5)
    for party in (AGGREGATOR, *federation.plan.party_ids):
        key = SigningKey.from_seed(bytes([party + 1]) * 32)
        assert key.verify_key.to_bytes() == federation.plan.identity(party)


def test_the_opening_state_holds_masks_that_cannot_be_read(recording: Recording) -> None:
    opening = [text for text in recording.texts if "Opening(" in text]
    assert opening
    assert "masks" not in opening[0]
    assert a.Opening.__dataclass_fields__["masks"].repr is False
