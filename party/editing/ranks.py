"""One party's computation on several processes: each does its part, and all get the whole.

The processes (ranks) are started by `torchrun` and all run the same command. Work is dealt out in
whole batches, so that no batch has other company than in one process. Parts are added in the order
of ranks: the same number of ranks gives the same bits, another one the same up to the association
of float64 sums.

Numbers travel by gloo, or by NCCL where they lie on GPUs. Whatever else ranks tell each other goes
through the store of `torchrun`: that they are alive, that they have come to an exchange, who
failed. Nobody enters an exchange before all have come to it, and nobody waits for a rank that is
gone. Texts and edits go nowhere.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from collabedit.errors import InputError, RankError

BEAT_SECONDS = 2.0
"""How often a rank shows that it is alive, whatever it computes meanwhile."""

SILENCE_SECONDS = 60.0
"""A rank that has shown nothing for so long is given up: stopped, or cut off from the others."""

EXCHANGE_SECONDS = 900.0
"""Longest single exchange of one tensor, between ranks that are all there: some gigabytes by
ethernet."""

_START_SECONDS = 300.0
_POLL_SECONDS = 0.02
_DIAGNOSIS_SECONDS = 2.0
"""A process is seen to be gone once its parent has noticed, which `torchrun` does within 0.1 s."""

Item = TypeVar("Item")


class Link:
    """What ranks know of each other apart from numbers: the store of `torchrun`.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.meetings = 0
        self.store = PrefixStore("collabedit", store)
        self._ended = threading.Event()
        self.store.set(f"process/{rank}", json.dumps([_machine(), os.getpid()]))
        threading.Thread(target=self._beat, daemon=True, name="beat").start()

    @classmethod
    def join(cls) -> "Link":
        """Meet the other processes of the launch that the environment describes.

        Raises:
            RankError: there is no launcher to be reached.
        """
        try:
            store, rank, size = next(
                rendezvous("env://", timeout=timedelta(seconds=_START_SECONDS))
            )
        except (dist.DistError, ValueError, RuntimeError) as error:
            raise RankError(
                "the processes of this launch cannot meet: start them with torchrun"
            ) from error
        return cls(store, rank, size)

    def meet(self) -> str:
        """Wait until all ranks have come to the same meeting; return its name in the store.

        Raises:
            RankError: one has failed, ended, or fallen silent.
        """
        self.meetings += 1
        name = f"meeting/{self.meetings}"
        try:
            self.store.set(f"{name}/{self.rank}", "")
            self._await(name)
        except dist.DistError as error:
            raise RankError(f"{self.title}: the launcher is gone; nothing more is done") from error
        return name

    def _await(self, name: str) -> None:
        missing = set(range(self.size)) - {self.rank}
        heard = dict.fromkeys(missing, (b"", time.monotonic()))
        while True:
            missing = {rank for rank in missing if not self.store.check([f"{name}/{rank}"])}
            if not missing:
                return
            if self.has_failed():
                raise RankError("another rank has failed")  # which one and why, it says itself
            for rank in sorted(missing):
                key, now = f"beat/{rank}", time.monotonic()
                beat = self.store.get(key) if self.store.check([key]) else b""
                if beat != heard[rank][0]:
                    heard[rank] = (beat, now)
                elif now - heard[rank][1] > SILENCE_SECONDS:
                    raise RankError(
                        f"rank {rank} of {self.size} has been silent for {SILENCE_SECONDS:.0f} s: "
                        "look at its machine and its network, and start again"
                    )
                elif self._is_gone(rank):
                    raise RankError(self._obituary(rank))
            time.sleep(_POLL_SECONDS)

    @property
    def title(self) -> str:
        """This rank, for people."""
        return f"rank {self.rank} of {self.size}"

    def has_failed(self) -> bool:
        """Whether any rank has failed and taken it upon itself to say so."""
        return bool(self.store.check(["failure"]))

    def claim_failure(self) -> bool:
        """Take it upon this rank to say why all end; only the first gets true."""
        return int(self.store.add("failure", 1)) == 1

    def diagnose(self) -> str | None:
        """Say which rank on this machine has ended; None if all go on, or one spoke for itself."""
        end = time.monotonic() + _DIAGNOSIS_SECONDS
        while time.monotonic() < end and not self.has_failed():
            for rank in range(self.size):
                if rank != self.rank and self._is_gone(rank):
                    return self._obituary(rank)
            time.sleep(_POLL_SECONDS)
        return None

    def _obituary(self, rank: int) -> str:
        return (
            f"rank {rank} of {self.size} ended without a word: killed, perhaps for want of memory; "
            "nothing was written"
        )

    def _is_gone(self, rank: int) -> bool:
        key = f"process/{rank}"
        if not self.store.check([key]):
            return False
        machine, process = json.loads(self.store.get(key))
        if machine != _machine():
            return False
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        return False

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beat))
            except dist.DistError:
                return  # the next meeting finds out, and says so

    def close(self) -> None:
        """Show no more signs of life."""
        self._ended.set()


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that share a computation; `ALONE` if it has none to share with.

    All ranks call the same methods in the same order.

    Attributes:
        rank: from 0; rank 0 alone reads what others are told, writes files and speaks.
        size: how many ranks there are.
    """

    rank: int = 0
    size: int = 1
    _link: Link | None = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def split(self, items: Sequence[Item]) -> list[list[Item]]:
        """Deal items out in turn: those of each rank, in order; the same at every rank."""
        return [list(items[rank :: self.size]) for rank in range(self.size)]

    def sum_all(self, tensor: Tensor) -> Tensor:
        """Add the ranks' tensors of one shape and dtype, in the order of ranks, at every rank."""
        if self._link is None:
            return tensor
        own = _movable(tensor)
        total, received = torch.zeros_like(own), torch.empty_like(own)
        for source in range(self.size):
            part = own if source == self.rank else received
            self._exchange(part, source)
            total.add_(part)
        return total.to(tensor.device)

    def fill_rows(self, values: Tensor, parts: Sequence[Sequence[Sequence[int]]]) -> None:
        """Fill in the rows that other ranks computed, at every rank.

        Args:
            values: [n, d]; the rows of this rank's part are right, the others are overwritten.
            parts: which rows each rank has, in batches (`split` of batches of rows).
        """
        for source, batches in enumerate(parts):
            places = [row for batch in batches for row in batch]
            if self._link is not None and places:
                rows = _movable(values[places]).contiguous()
                self._exchange(rows, source)
                values[places] = rows.to(values.device)

    def broadcast(self, tensor: Tensor | None) -> Tensor:
        """Return rank 0's tensor at every rank, on the CPU; what others pass is not looked at."""
        if self._link is None:
            if tensor is None:
                raise ValueError("the first rank has nothing to tell")
            return tensor
        kept = tensor.cpu().contiguous() if self.is_first and tensor is not None else None
        described = self.broadcast_text(
            "" if kept is None else json.dumps([list(kept.shape), str(kept.dtype)])
        )
        shape, dtype = json.loads(described)
        if kept is None:
            kept = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
        self._exchange(kept, 0)
        return kept

    def broadcast_text(self, text: str) -> str:
        """Return rank 0's text at every rank. No secret: it lies in the launcher's memory."""
        if self._link is None:
            return text
        key = f"text/{self._link.meetings}"
        if self.is_first:
            self._link.store.set(key, text)
        self._link.meet()
        found: bytes = self._link.store.get(key)
        return found.decode()

    def decide(self, answer: bool) -> bool:  # noqa: FBT001  # it is what is passed on
        """Return rank 0's answer at every rank."""
        return self.broadcast_text(json.dumps(answer)) == "true"

    def agree(self, what: str, digest: str) -> None:
        """Refuse to compute with a rank that has another `what`.

        Raises:
            RankError: this rank's digest differs from rank 0's.
        """
        if self.broadcast_text(digest) != digest:
            raise RankError(
                f"rank {self.rank} of {self.size} has another {what} than rank 0: give all the same"
            )

    def finish(self) -> None:
        """Wait until all are done, and part."""
        if self._link is not None:
            self._link.meet()
            dist.destroy_process_group()

    def _exchange(self, tensor: Tensor, source: int) -> None:
        """Overwrite `tensor` by that of rank `source`."""
        if self._link is None:
            return
        self._link.meet()
        try:
            dist.broadcast(tensor, source)
        except RuntimeError as error:
            said = self._link.diagnose() or "lost touch with the others: look at the network"
            raise RankError(said) from error


ALONE = Ranks()
"""One process: every method gives back what it is given."""


def open_ranks(link: Link, device: str) -> tuple[Ranks, str]:
    """Prepare to exchange numbers; return the ranks and the device of this one.

    Args:
        link: of this launch.
        device: as the user has it: `auto`, `cpu`, `cuda`, or another of torch's devices. `auto`
            and `cuda` give each process of a machine a GPU of its own.

    Raises:
        InputError: a GPU that all would share, or more processes than GPUs.
        RankError: the ranks cannot reach each other.
    """
    if device.startswith(("cuda:", "spread")):
        raise InputError(f"--device {device}: each rank has a GPU of its own: give cuda, or auto")
    place = None
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        place = _own_gpu()
    link.meet()
    try:
        dist.init_process_group(
            "gloo" if place is None else "cpu:gloo,cuda:nccl",
            store=PrefixStore("numbers", link.store),
            rank=link.rank,
            world_size=link.size,
            timeout=timedelta(seconds=EXCHANGE_SECONDS),
            device_id=place,
        )
    except (dist.DistError, RuntimeError) as error:
        said = link.diagnose() or "cannot reach the other ranks: look at the network"
        raise RankError(said) from error
    ranks = Ranks(link.rank, link.size, link)
    ranks.agree("kind of device", "cpu" if place is None else place.type)
    return ranks, device if place is None else str(place)


def _own_gpu() -> torch.device:
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise InputError(
            f"process {local + 1} on a machine with {count} GPUs: start as many processes as GPUs, "
            "or give --device cpu"
        )
    place = torch.device("cuda", local)
    torch.cuda.set_device(place)
    return place


def _movable(tensor: Tensor) -> Tensor:
    """Return the tensor where it can be exchanged: on a CUDA device, else on the CPU."""
    return tensor if tensor.is_cuda else tensor.cpu()


def _machine() -> str:
    # Process numbers compare within one namespace of one machine only.
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
