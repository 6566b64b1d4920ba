"""One party's computation on several processes: each does its part, and all get the whole.

The processes (ranks) are started by `torchrun` and all run the same command (`launch`). Work is
dealt out in whole batches, so that no batch has other company than in one process. Parts are added
in the order of ranks: the same number of ranks gives the same bits, another one the same up to the
association of float64 sums.

Numbers travel by gloo, or by NCCL where they lie on GPUs. Texts and edits go nowhere.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from collabedit.errors import RankError

if TYPE_CHECKING:
    # Only who is launched as one of several needs a torch with distributed computing.
    from collabedit.party.editing.launch import Link

Item = TypeVar("Item")


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
    _link: "Link | None" = field(default=None, repr=False)

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


def _movable(tensor: Tensor) -> Tensor:
    """Return the tensor where it can be exchanged: on a CUDA device, else on the CPU."""
    return tensor if tensor.is_cuda else tensor.cpu()
