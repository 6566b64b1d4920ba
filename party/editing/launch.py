"""Processes that `torchrun` started together: how they find, await and give up each other.

Whatever ranks tell each other apart from numbers goes through the store of `torchrun`: that they
are alive, that they have come to an exchange, who failed. Nobody enters an exchange before all have
come to it, and nobody waits for a rank that is gone.
"""

import json
import os
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from collabedit.errors import InputError, RankError
from collabedit.party.editing.ranks import Ranks

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

    def meet(self) -> None:
        """Wait until all ranks have come to the same meeting.

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
                elif self._is_gone(rank) and not self.store.check([f"{name}/{rank}"]):
                    # It may have come and gone since it was looked for above.
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
            f"rank {rank} of {self.size} ended without a word: killed, perhaps for want of memory"
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


def _machine() -> str:
    # Process numbers compare within one namespace of one machine only.
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
