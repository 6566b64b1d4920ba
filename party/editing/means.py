"""With what means a party searches its targets: how many edits together, and in which precision.

They are the party's own. No plan names them and no other party can tell: targets become residuals,
which nobody else computes again. What is summed or compared with others', covariances, keys and
outputs, is always computed in the dtype that the plan states (ADR 0023).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from collabedit.errors import InputError

Autocast: TypeAlias = Literal["off", "bfloat16"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Means:
    """Means of a search.

    Attributes:
        batch_size: the most edits searched together; changes memory and time, results only by
            rounding, which float32 and Adam can amplify to 1e-4 of the change.
        memory: bytes that tensors of a search may take beside the model; as many edits are then
            searched together as fit, `batch_size` at most. None sets no bound.
        autocast: "bfloat16" computes products of matrices in the search's steps so, on a model in
            float32; z₀, δ, losses and Adam stay in float32. Targets then differ by some percent of
            δ. Pays on GPUs.
    """

    batch_size: int = 8
    memory: int | None = None
    autocast: Autocast = "off"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.memory is not None and self.memory < 1):
            raise ValueError("a batch needs an edit, and a bound of memory a byte")


OWN_MEANS = Means()
"""What is done if nobody says anything."""


def parse_means(autocast: str, memory_mib: int | None) -> Means:
    """Read what a command line says.

    Raises:
        InputError: no such precision.
    """
    for known in get_args(Autocast):
        if autocast == known:
            return Means(memory=None if memory_mib is None else memory_mib * MIB, autocast=known)
    raise InputError(f"--autocast {autocast}: is not one of {', '.join(get_args(Autocast))}")
