"""Stored contributions: one spool file for each party, written tile by tile.

A party's masked vector must be kept apart until the survivors are known, since whoever vanishes
half-way must not be in the sum. Disk holds it, so memory stays flat in the number of parties. What
is stored is uniformly random to the aggregator.

A tile counts as stored once its bytes and then its digest in the journal are on the disk: `settle`.
Only settled tiles are acknowledged, survive a crash, and are summed; when a sum is opened each tile
is compared with its digest once more.
"""

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from collabedit.aggregator.journal import Journal
from collabedit.ahead import in_order, usable_threads
from collabedit.crypto.masking import SignedMask, unmask_tile
from collabedit.crypto.ring import Ring, RingArray, add_into, to_bytes
from collabedit.durable import sync
from collabedit.errors import (
    AbortReason,
    DamagedUploadError,
    MalformedMessageError,
    StorageError,
    UnexpectedMessageError,
)
from collabedit.exchange import Tile, TileLayout, tile_digest, tiles_root
from collabedit.ids import PartyId, TaskIndex
from collabedit.proto.messages import Contribute, SumOpened
from collabedit.proto.statements import RefusalError

_FIRST = TaskIndex(0)

RESENDS = 64
"""How many times over a party may send its upload in one task. A link that keeps breaking takes
many attempts; without a bound a party could send one tile for as long as the round lasts."""


@dataclass(slots=True)
class _Upload:
    """Tiles of one party.

    Attributes:
        path: the spool file.
        settled: digests of tiles that last, by index.
        pending: digests of tiles that are written.
        received: how many came, repeated ones, too.
        lock: over the above.
        settling: held while pending tiles are made to last; taken before `lock`.
    """

    path: Path
    settled: dict[int, bytes] = field(default_factory=dict)
    pending: dict[int, bytes] = field(default_factory=dict)
    received: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    settling: threading.Lock = field(default_factory=threading.Lock)


class TileStore:
    """The uploads of one task. Safe to call from several threads.

    Args:
        directory: for the spool files; made when the first tile comes, if missing.
        layout: of a contribution.
        task: whose tiles these are.
        journal: keeps the digests of settled tiles; by default one in memory.
    """

    def __init__(
        self,
        directory: Path,
        layout: TileLayout,
        *,
        task: TaskIndex = _FIRST,
        journal: Journal | None = None,
    ) -> None:
        self._directory = directory
        self._layout = layout
        self._task = task
        self._journal = Journal.in_memory() if journal is None else journal
        self._uploads: dict[PartyId, _Upload] = {}
        self._lock = threading.Lock()
        self._deleted = False

    def _upload(self, party: PartyId) -> _Upload:
        with self._lock:
            if party not in self._uploads:
                self._uploads[party] = _Upload(self._directory / f"party-{party}.tiles")
            return self._uploads[party]

    def restore(self, *, answered: Iterable[PartyId]) -> frozenset[PartyId]:
        """Take up the tiles that the journal knows, as far as the spool still has them.

        Args:
            answered: whose upload is complete and signed. Theirs are kept as they are: damage shows
                when the sum is opened. Of the others a damaged upload is forgotten and sent anew.

        Returns:
            Parties whose upload was forgotten.
        """
        kept, damaged = frozenset(answered), set()
        for party, digests in self._journal.tiles(self._task).items():
            upload = self._upload(party)
            if party in kept or self._is_intact(upload.path, digests):
                upload.settled.update(digests)
            else:
                self._journal.forget_tiles(self._task, party)
                damaged.add(party)
        return frozenset(damaged)

    def _is_intact(self, path: Path, digests: dict[int, bytes]) -> bool:
        layout = self._layout
        try:
            with path.open("rb") as stream:
                for index, digest in sorted(digests.items()):
                    stream.seek(layout.bounds(index).start * layout.element_bytes)
                    payload = stream.read(layout.tile_bytes(index))
                    if tile_digest(index, payload) != digest:
                        return False
        except OSError:
            return False
        return True

    def put(self, party: PartyId, tile: Tile) -> None:
        """Write a verified tile; `settle` makes it last. The same tile again is ignored.

        Raises:
            MalformedMessageError: another payload for a tile that is already stored.
            UnexpectedMessageError: the uploads are deleted, the task is over; or the party has sent
                its tiles `RESENDS` times over.
            StorageError: the disk refuses.
        """
        upload = self._upload(party)
        with upload.lock:
            if self._deleted:
                raise UnexpectedMessageError("the task of this upload is over")
            upload.received += 1
            if upload.received > RESENDS * self._layout.tiles:
                raise UnexpectedMessageError(
                    f"the upload was sent {RESENDS} times over, more is not taken in this task"
                )
            known = upload.settled.get(tile.index) or upload.pending.get(tile.index)
            if known == tile.digest:
                return
            if known is not None:
                raise MalformedMessageError(f"tile {tile.index} was sent before with other bytes")
            offset = self._layout.bounds(tile.index).start * self._layout.element_bytes
            # Only the first tile makes the file: made anew later, it would have zeros for a tile
            # that was acknowledged.
            is_first = not upload.settled and not upload.pending
            creation = os.O_CREAT | os.O_TRUNC if is_first else 0
            try:
                if creation:
                    self._directory.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(upload.path, os.O_WRONLY | creation, 0o600)
                try:
                    written = os.pwrite(descriptor, tile.payload, offset)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise StorageError(
                    f"cannot store a tile under {self._directory}: {error.strerror}"
                ) from error
            if written != len(tile.payload):
                raise StorageError(f"cannot store a tile under {self._directory}: disk full")
            upload.pending[tile.index] = tile.digest

    def settle(self, party: PartyId) -> None:
        """Make every tile of a party that was written so far survive a crash of the machine.

        Further tiles can be put meanwhile; those are left for the next time.

        Raises:
            StorageError: the disk refuses; the tiles stay unsettled.
        """
        upload = self._upload(party)
        with upload.settling:
            with upload.lock:
                written = dict(upload.pending)
            if not written:
                return
            if self._journal.is_durable:
                self._sync(upload)
            self._journal.add_tiles(self._task, party, written)
            with upload.lock:
                upload.settled.update(written)
                for index in written:
                    del upload.pending[index]

    def _sync(self, upload: _Upload) -> None:
        # The file's bytes, and its name in the directory as long as that may be new.
        paths = [upload.path] if upload.settled else [upload.path, self._directory]
        try:
            for path in paths:
                sync(path)
        except OSError as error:
            raise StorageError(
                f"cannot store a tile under {self._directory}: {error.strerror}"
            ) from error

    def stored(self, party: PartyId) -> bytes:
        """Return the bitmap of a party's settled tiles (SPEC 5.3)."""
        upload = self._upload(party)
        bitmap = bytearray(-(-self._layout.tiles // 8))
        with upload.lock:
            for index in upload.settled:
                bitmap[index // 8] |= 1 << (index % 8)
        return bytes(bitmap)

    def root(self, party: PartyId) -> bytes | None:
        """Settle a party's tiles and return the root over them, None while one is missing.

        Raises:
            StorageError: the disk refuses.
        """
        self.settle(party)
        upload = self._upload(party)
        with upload.lock:
            if len(upload.settled) != self._layout.tiles:
                return None
            return tiles_root(upload.settled[index] for index in range(self._layout.tiles))

    def check(self, party: PartyId, message: Contribute | SumOpened) -> None:
        """Check that what is stored of a party is what it signed, whole.

        Raises:
            RefusalError: MALFORMED_MESSAGE, DIGEST_MISMATCH; the party is the culprit.
            StorageError: the disk refuses.
        """
        root = self.root(party)
        if root is None:
            raise RefusalError(AbortReason.MALFORMED_MESSAGE, "the upload has gaps", culprit=party)
        if root != message.root or message.tiles != self._layout.tiles:
            raise RefusalError(
                AbortReason.DIGEST_MISMATCH,
                "the stored tiles are not the signed ones",
                culprit=party,
            )

    def read(self, party: PartyId, *, ring: Ring, bounds: slice | None = None) -> RingArray:
        """Return a piece of a party's upload: [elements].

        The tiles that the piece touches are read whole, and compared with their digests.

        Args:
            party: whose.
            ring: of its elements.
            bounds: from which element up to which; None for the whole.

        Raises:
            DamagedUploadError: it is gone, too short or altered.
        """
        layout, upload = self._layout, self._upload(party)
        wanted = slice(0, layout.elements) if bounds is None else bounds
        tiles = range(wanted.start // layout.per_tile, -(-wanted.stop // layout.per_tile))
        start, stop = layout.bounds(tiles[0]).start, layout.bounds(tiles[-1]).stop
        try:
            found = np.fromfile(
                upload.path, ring.dtype, stop - start, offset=start * layout.element_bytes
            )
        except OSError as error:
            raise self._damage(party) from error
        for index in tiles:
            place = layout.bounds(index)
            tile = found[place.start - start : place.stop - start]
            if tile_digest(index, to_bytes(tile)) != upload.settled.get(index):
                raise self._damage(party)
        piece: RingArray = found[wanted.start - start : wanted.stop - start]
        return piece

    def open_sum(
        self, survivors: Iterable[PartyId], *, ring: Ring, masks: tuple[SignedMask, ...]
    ) -> RingArray:
        """Sum the survivors' vectors and take the masks off, tile by tile: [elements].

        Raises:
            DamagedUploadError: a stored contribution is gone, too short or altered.
        """
        layout, parties = self._layout, sorted(survivors)
        total: RingArray = np.zeros(layout.elements, dtype=ring.dtype)

        def open_tile(index: int) -> None:
            bounds = layout.bounds(index)
            tile = total[bounds]
            # Read, not mapped: pages of a hundred files would count as this process's memory.
            for party in parties:
                add_into(tile, self.read(party, ring=ring, bounds=bounds))
            unmask_tile(tile, tile_index=index, masks=masks)

        threads = usable_threads(layout.elements * layout.element_bytes)
        for _ in in_order(open_tile, layout.tiles, threads=threads):
            pass
        return total

    def _damage(self, party: PartyId) -> DamagedUploadError:
        return DamagedUploadError(
            f"the stored contribution of party {party} under {self._directory} is gone or damaged"
        )

    def delete(self) -> None:
        """Remove the spool files; the task is opened or ended."""
        with self._lock:
            self._deleted = True
            uploads = tuple(self._uploads.values())
        for upload in uploads:
            with upload.settling, upload.lock:
                # A disk that does not let go must not keep parties from hearing how it ended.
                with contextlib.suppress(OSError):
                    upload.path.unlink()
                upload.settled.clear()
                upload.pending.clear()
        with contextlib.suppress(StorageError):
            self._journal.forget_tiles(self._task)
