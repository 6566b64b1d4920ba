"""The program, but one of its ranks fails: at its second forward pass, in the way that is asked.

RANK_FAILS="1 killed" torchrun ... failing_rank.py COMMAND ...
"""

import os
import signal

from torch import Tensor

from collabedit.cli import main
from collabedit.errors import NumericError
from collabedit.party.editing.model import EditableModel

SECRET = "what only an edit says"


def arrange(how: str) -> None:
    real = EditableModel.forward
    calls: list[None] = []

    def forward(model: EditableModel, input_ids: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) == 2:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "refuses":
                raise NumericError("the numbers refuse")
            raise ValueError(SECRET)
        return real(model, input_ids)

    setattr(EditableModel, "forward", forward)  # noqa: B010  # mypy sees no method to assign to


if __name__ == "__main__":
    rank, how = os.environ["RANK_FAILS"].split()
    if os.environ["RANK"] == rank:
        arrange(how)
    main()
