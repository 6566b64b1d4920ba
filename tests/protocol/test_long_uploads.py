"""Encrypted uploads that are longer than memory should be, at both ends and at the opener.

What is traced is what Python and numpy allocate; a bound is in chunks, and holds for an upload that
is several times longer than all of it.
"""

import hashlib
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from collabedit.aggregator.bundles import Bundles
from collabedit.aggregator.encrypted import STRIPE_CHUNKS, EncryptedUploads
from collabedit.aggregator.tiles import TileStore
from collabedit.ciphertexts import WORDS, seeds_digest, task_chunks
from collabedit.crypto.ckks.encryption import BATCH
from collabedit.crypto.ring import Ring, RingArray
from collabedit.crypto.rng import SystemRandomness
from collabedit.encrypted import CHUNK_BYTES, RING_DEGREE
from collabedit.errors import AbortReason, DamagedUploadError
from collabedit.exchange import TileLayout, decode_frame
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.contribution import MaskedUpload, masked_upload, upload_pieces
from collabedit.party.decryption import open_chunks, opened_upload, worker_processes
from collabedit.party.entries import TaskStarted
from collabedit.party.journal import PartyJournal
from collabedit.party.pieces import StoredVector
from collabedit.proto.messages import Context, Contribute
from collabedit.proto.statements import RefusalError
from tests.support.federations import TestFederation, encrypted_federation

FIRST = TaskIndex(0)
CHUNKS = 96
FEW_CHUNKS = 5 * BATCH
"""One batch is encoded, transformed and encrypted at a time, in five arrays or so."""
SECRET = b"g" * 32


@pytest.fixture(scope="module")
def federation() -> TestFederation:
    made = encrypted_federation(4, capacity=CHUNKS * RING_DEGREE // 68, tile_bytes=1 << 17)
    assert task_chunks(made.plan, FIRST) == CHUNKS
    return made


@dataclass
class Peak:
    chunks: float = 0.0


@contextmanager
def traced() -> Iterator[Peak]:
    """Measure the most memory beyond what was there, in chunks."""
    found = Peak()
    tracemalloc.start()
    try:
        yield found
        found.chunks = tracemalloc.get_traced_memory()[1] / CHUNK_BYTES
    finally:
        tracemalloc.stop()


@dataclass
class Scene:
    """One task, its parties' journals and the aggregator's spool."""

    federation: TestFederation
    directory: Path
    store: TileStore = field(init=False)
    uploads: EncryptedUploads = field(init=False)
    signed: dict[PartyId, Contribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.federation.plan
        self.store = TileStore(self.directory / "spool", TileLayout.of(plan, FIRST))
        self.uploads = EncryptedUploads(plan, FIRST, self.store)

    def setup(self, party: PartyId) -> s.TaskSetup:
        plan = self.federation.plan
        context = Context(plan.digest, b"s" * 32, FIRST, b"c" * 32)
        identity = self.federation.identities[party]
        return s.TaskSetup(plan, context, party, identity, SystemRandomness())

    @contextmanager
    def journal(self, party: PartyId) -> Iterator[PartyJournal]:
        work = self.directory / str(party)
        work.mkdir(exist_ok=True)
        with PartyJournal(work, randomness=SystemRandomness()) as journal:
            if journal.unfinished is None:
                journal.begin(b"s" * 32, self.federation.plan.digest, party)
                digest = hashlib.sha256(b"brought").digest()
                started = TaskStarted(FIRST, b"c" * 32, b"d" * 32, digest, b"a" * 32)
                journal.start_task(started, b"brought")
            yield journal

    def contribute(self, party: PartyId, vector: RingArray) -> MaskedUpload:
        """Encrypt, store, send, sign."""
        plan, setup = self.federation.plan, self.setup(party)
        with self.journal(party) as journal:
            sealed = journal.encoded(FIRST, lambda: upload_pieces(setup, vector, SECRET))
            upload = masked_upload(plan, FIRST, StoredVector(sealed, WORDS), ())
            for frame in upload.frames():
                self.store.put(party, decode_frame(frame, layout=upload.layout))
        event = upload.uploaded()
        self.signed[party] = Contribute(event.elements, event.tiles, event.root, event.seeds)
        return upload

    def check(self, party: PartyId) -> None:
        """The aggregator's word on a complete upload."""
        others = [other for other in self.signed if other < party]
        self.store.check(party, self.signed[party])
        self.uploads.check(party, self.signed[party], others)


def vector_of(federation: TestFederation, party: PartyId) -> RingArray:
    plan, rng = federation.plan, np.random.default_rng(party)
    size = plan.statistics_length(FIRST)
    integers = rng.integers(-(1 << 40), 1 << 40, size).view(np.uint64)
    checks = rng.integers(0, 1 << 64, plan.check_length(FIRST), dtype=np.uint64)
    return np.concatenate([integers, checks])


def test_a_long_sum_takes_few_chunks_of_memory_anywhere(
    federation: TestFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, scene = federation.plan, Scene(federation, tmp_path)
    reads: list[int] = []
    honest = TileStore.read

    def noted(store: TileStore, party: PartyId, **options: object) -> RingArray:
        piece: RingArray = honest(store, party, **options)  # type: ignore[arg-type]
        reads.append(piece.nbytes)
        return piece

    monkeypatch.setattr(TileStore, "read", noted)
    vectors = {party: vector_of(federation, party) for party in plan.party_ids}
    for party, vector in vectors.items():
        with traced() as peak:
            scene.contribute(party, vector)
        assert peak.chunks < FEW_CHUNKS, "encrypt, store, send"
        with traced() as peak:
            scene.check(party)
        assert peak.chunks < FEW_CHUNKS, "check"
    bundles = Bundles(tmp_path, is_durable=False)
    with traced() as peak:
        digest, size = bundles.store_sum(FIRST, scene.uploads.offer(plan.party_ids))
        assert sum(map(len, bundles.sum_chunks(FIRST))) == size
    # As of one party: memory does not know how many there are.
    assert peak.chunks < FEW_CHUNKS, "add, offer"
    assert max(reads) == STRIPE_CHUNKS * CHUNK_BYTES

    opener = PartyId(1)
    seeds = {party: each.seeds for party, each in scene.signed.items()}
    members = frozenset(plan.party_ids)
    state = s.OpeningSum(scene.setup(opener), members, SECRET, seeds, digest, size)
    with scene.journal(opener) as journal, traced() as peak:
        assert not journal.begin_opening(digest)
        with journal.scratch() as offer:
            for piece in bundles.sum_chunks(FIRST):
                offer.write(piece)
            opened = StoredVector(
                journal.opened(FIRST, lambda: open_chunks(state, offer, SystemRandomness())),
                Ring.Z64,
            )
        frames = sum(map(len, opened_upload(plan, FIRST, opened).frames()))
    assert peak.chunks < FEW_CHUNKS, "open"
    length = plan.statistics_length(FIRST)
    assert frames > 8 * length
    plain = np.sum([vector[:length] for vector in vectors.values()], axis=0, dtype=np.uint64)
    np.testing.assert_array_equal(opened[slice(0, length)], plain)
    # All of this was less than the shortest of what it was about.
    assert FEW_CHUNKS * CHUNK_BYTES < 8 * length < size


def test_an_upload_that_is_held_whole_would_be_seen(
    federation: TestFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail."""
    honest, scene = PartyJournal.encoded, Scene(federation, tmp_path)
    monkeypatch.setattr(
        PartyJournal,
        "encoded",
        lambda journal, task, make: honest(journal, task, lambda: list(make())),
    )
    with traced() as peak:
        scene.contribute(PartyId(2), vector_of(federation, PartyId(2)))
    assert peak.chunks > CHUNKS > FEW_CHUNKS


def test_what_was_encrypted_is_what_a_restart_uploads(
    federation: TestFederation, tmp_path: Path
) -> None:
    scene, party = Scene(federation, tmp_path), PartyId(2)
    first = b"".join(scene.contribute(party, vector_of(federation, party)).frames())
    # Another vector now: nobody looks at it.
    again = b"".join(scene.contribute(party, vector_of(federation, PartyId(3))).frames())
    assert again == first


def test_an_aggregator_that_comes_back_knows_the_seeds_that_it_took(
    federation: TestFederation, tmp_path: Path
) -> None:
    scene = Scene(federation, tmp_path)
    for party in (PartyId(1), PartyId(2)):
        scene.contribute(party, vector_of(federation, party))
    scene.check(PartyId(1))
    scene.uploads = EncryptedUploads(federation.plan, FIRST, scene.store)
    scene.check(PartyId(2))
    offers = [
        hashlib.sha256(b"".join(uploads.offer([PartyId(2), PartyId(1)]))).digest()
        for uploads in (scene.uploads, EncryptedUploads(federation.plan, FIRST, scene.store))
    ]
    assert offers[0] == offers[1]
    # Party 3 uploads what party 1 uploaded before the restart.
    whole = scene.store.read(PartyId(1), ring=WORDS)
    upload = masked_upload(federation.plan, FIRST, whole, ())
    for frame in upload.frames():
        scene.store.put(PartyId(3), decode_frame(frame, layout=upload.layout))
    scene.signed[PartyId(3)] = scene.signed[PartyId(1)]
    scene.uploads = EncryptedUploads(federation.plan, FIRST, scene.store)
    with pytest.raises(RefusalError) as refused:
        scene.check(PartyId(3))
    assert (refused.value.reason, refused.value.culprit) == (AbortReason.REPEATED_PARTY, 3)


@pytest.mark.parametrize("place", [0, CHUNKS // 2 * CHUNK_BYTES, CHUNKS * CHUNK_BYTES - 1])
def test_a_spool_that_is_damaged_in_any_stripe_offers_no_sum(
    place: int, federation: TestFederation, tmp_path: Path
) -> None:
    scene = Scene(federation, tmp_path)
    for party in (PartyId(1), PartyId(2)):
        scene.contribute(party, vector_of(federation, party))
        scene.check(party)
    path = tmp_path / "spool" / "party-2.tiles"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    bundles = Bundles(tmp_path, is_durable=False)
    with pytest.raises(DamagedUploadError, match="party 2"):
        bundles.store_sum(FIRST, scene.uploads.offer(scene.signed))
    assert not list(tmp_path.glob("*.sum"))


def test_seeds_are_read_from_a_file_as_from_an_array(
    federation: TestFederation, tmp_path: Path
) -> None:
    scene = Scene(federation, tmp_path)
    upload = scene.contribute(PartyId(1), vector_of(federation, PartyId(1)))
    whole = scene.store.read(PartyId(1), ring=WORDS) if scene.store.root(PartyId(1)) else None
    assert whole is not None
    assert masked_upload(federation.plan, FIRST, whole, ()).seeds == upload.seeds
    assert upload.seeds != seeds_digest(b"")


@pytest.mark.parametrize(
    ("chunks", "most", "wanted"),
    [(1, 64, 0), (2047, 64, 0), (2048, 64, 2), (1 << 20, 1, 0), (1 << 20, 3, 3), (1 << 20, 64, 64)],
)
def test_workers_are_for_long_uploads(chunks: int, most: int, wanted: int) -> None:
    assert worker_processes(chunks, most) == wanted


def test_unless_it_is_said_there_are_no_more_workers_than_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, wanted in ((1, 0), (2, 2), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _process, cores=cores: set(range(cores)))
        assert worker_processes(1 << 20, None) == wanted
