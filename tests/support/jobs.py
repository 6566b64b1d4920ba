"""Work for a grid that a worker process can import."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from collabedit.errors import NumericError
from collabedit.grid import Fields, Job, job_id


def square(given: Mapping[str, float]) -> Fields:
    """Square a number, leaving a line in a file that says so."""
    with Path(str(given["log"])).open("a", encoding="utf-8") as stream:
        stream.write(f"{given['number']}\n")
    return {"square": given["number"] ** 2}


def prepare(given: Mapping[str, str]) -> Fields:
    """Leave a file behind, as a cache would."""
    Path(given["made"]).write_text("made", encoding="utf-8")
    return {}


def read_prepared(given: Mapping[str, str]) -> Fields:
    return {"found": Path(given["made"]).read_text(encoding="utf-8")}


def refuse(_given: object) -> Fields:
    raise NumericError("the numbers refuse")


def break_down(_given: object) -> Fields:
    raise KeyError("a secret text")


def die(_given: object) -> Fields:
    os._exit(3)


def threads(_given: object) -> Fields:
    import torch

    time.sleep(0)
    return {"threads": torch.get_num_threads()}


def job(name: str, work: object, given: object, *, after: tuple[str, ...] = ()) -> Job:
    identity = {"name": name}
    return Job(job_id(identity), name, identity, work, given, after)  # type: ignore[arg-type]
