"""Stored contributions: one spool file for each party, written tile by tile.

A party's masked vector must be kept apart until the survivors are known, since whoever vanishes
half-way must not be in the sum. Disk holds it, so memory stays flat in the number of parties. What
is stored is uniformly random to the aggregator.
"""

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from collabedit.crypto.masking import SignedMask, unmask_tile
from collabedit.crypto.ring import Ring, RingArray, add_into
from collabedit.errors import MalformedMessageError, TransportError, UnexpectedMessageError
from collabedit.exchange import Tile, TileLayout, tiles_root
from collabedit.ids import PartyId


@dataclass(slots=True)
class _Upload:
    path: Path
    digests: dict[int, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class TileStore:
    """The uploads of one task. Safe to call from several threads.

    Args:
        directory: for the spool files; made when the first tile comes, if missing.
        layout: of a contribution.
    """

    def __init__(self, directory: Path, layout: TileLayout) -> None:
        self._directory = directory
        self._layout = layout
        self._uploads: dict[PartyId, _Upload] = {}
        self._lock = threading.Lock()
        self._deleted = False

    def _upload(self, party: PartyId) -> _Upload:
        with self._lock:
            if party not in self._uploads:
                self._uploads[party] = _Upload(self._directory / f"party-{party}.tiles")
            return self._uploads[party]

    def put(self, party: PartyId, tile: Tile) -> None:
        """Store a verified tile. The same tile again is ignored.

        Raises:
            MalformedMessageError: another payload for a tile that is already stored.
            UnexpectedMessageError: the uploads are deleted, the task is over.
            TransportError: the disk refuses.
        """
        upload = self._upload(party)
        with upload.lock:
            if self._deleted:
                raise UnexpectedMessageError("the task of this upload is over")
            known = upload.digests.get(tile.index)
            if known == tile.digest:
                return
            if known is not None:
                raise MalformedMessageError(f"tile {tile.index} was sent before with other bytes")
            offset = self._layout.bounds(tile.index).start * self._layout.element_bytes
            # Only the first tile makes the file: made anew later, it would have zeros for a tile
            # that was acknowledged.
            creation = 0 if upload.digests else os.O_CREAT | os.O_TRUNC
            try:
                if creation:
                    self._directory.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(upload.path, os.O_WRONLY | creation, 0o600)
                try:
                    written = os.pwrite(descriptor, tile.payload, offset)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise TransportError(
                    f"cannot store a tile under {self._directory}: {error.strerror}"
                ) from error
            if written != len(tile.payload):
                raise TransportError(f"cannot store a tile under {self._directory}: disk full")
            upload.digests[tile.index] = tile.digest

    def root(self, party: PartyId) -> bytes | None:
        """Return the root over a party's tiles, None while one is missing."""
        upload = self._upload(party)
        with upload.lock:
            if len(upload.digests) != self._layout.tiles:
                return None
            return tiles_root(upload.digests[index] for index in range(self._layout.tiles))

    def open_sum(
        self, survivors: Iterable[PartyId], *, ring: Ring, masks: tuple[SignedMask, ...]
    ) -> RingArray:
        """Sum the survivors' vectors and take the masks off, tile by tile: [elements].

        Raises:
            TransportError: a stored contribution is gone or too short.
        """
        try:
            files = [
                np.memmap(
                    self._upload(party).path,
                    dtype=ring.dtype,
                    mode="r",
                    shape=(self._layout.elements,),
                )
                for party in sorted(survivors)
            ]
        except (OSError, ValueError) as error:
            raise TransportError(
                f"a stored contribution under {self._directory} is gone or damaged"
            ) from error
        total: RingArray = np.zeros(self._layout.elements, dtype=ring.dtype)
        for index in range(self._layout.tiles):
            bounds = self._layout.bounds(index)
            tile = total[bounds]
            for file in files:
                add_into(tile, file[bounds])
            unmask_tile(tile, tile_index=index, masks=masks)
        return total

    def delete(self) -> None:
        """Remove the spool files; the task is opened or ended."""
        with self._lock:
            self._deleted = True
            uploads = tuple(self._uploads.values())
        for upload in uploads:
            with upload.lock:
                # A disk that does not let go must not keep parties from hearing how it ended.
                with contextlib.suppress(OSError):
                    upload.path.unlink()
                upload.digests.clear()
