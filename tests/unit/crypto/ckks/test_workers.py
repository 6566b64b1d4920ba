"""Worker processes that encrypt: they get the key through a pipe alone, and end with their work."""

import base64
import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from collabedit.crypto.ckks.encryption import BATCH, encrypt_integers
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.packing import Packing
from collabedit.crypto.ckks.wire import Form, decode_chunk
from collabedit.errors import CryptoError, NumericError
from tests.support.ckks import BOUND, SETTING

PACKING = Packing(SETTING, BOUND, 3)
LONG = 12 * BATCH * SETTING.ring_degree


def integers(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(-(1 << 30), 1 << 30, count)


_EARLIER: set[int] = set()


@pytest.fixture(autouse=True)
def earlier() -> None:
    """Leave out workers of other tests whose iterators are not collected yet."""
    gc.collect()
    _EARLIER.update(children())


def children() -> list[int]:
    living = multiprocessing.active_children()
    return [each.pid for each in living if each.pid is not None and each.pid not in _EARLIER]


def test_chunks_come_in_order_from_two_workers() -> None:
    count = 3 * BATCH + 1
    made = list(
        encrypt_integers(
            SecretKey.generate(SETTING),
            integers(count * SETTING.ring_degree - 5),
            PACKING,
            processes=2,
        )
    )
    seeds = {
        decode_chunk(SETTING, chunk, form=Form.SEEDED, index=index, chunks=count).seed
        for index, chunk in enumerate(made)
    }
    assert len(seeds) == len(made) == count
    assert not children()


def test_a_number_beyond_the_bound_starts_no_worker() -> None:
    vector = integers(LONG)
    vector[-1] = PACKING.largest_integer + 1
    chunks = encrypt_integers(SecretKey.generate(SETTING), vector, PACKING, processes=2)
    with pytest.raises(NumericError):
        next(chunks)
    assert not children()


def test_the_key_is_in_no_argument_variable_or_file_of_a_worker() -> None:
    key = SecretKey.generate(SETTING)
    secret = key.to_bytes()[32:96]
    shapes = (secret, secret.hex().encode(), base64.b64encode(secret)[:80], repr(secret).encode())
    chunks = encrypt_integers(key, integers(LONG), PACKING, processes=2)
    next(chunks)
    workers = children()
    assert workers
    for worker in workers:
        place = Path(f"/proc/{worker}")
        for name in ("cmdline", "environ"):
            data = (place / name).read_bytes()
            assert not any(shape in data for shape in shapes)
        opened = []
        for entry in (place / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # one that still starts closes some
                opened.append(str(entry.readlink()))
        # Pipes, the file in memory that has no name, and what Python itself reads.
        files = [Path(path) for path in opened if path.startswith("/") and "memfd:" not in path]
        for path in files:
            assert not path.is_file() or secret not in path.read_bytes()
    del chunks
    assert not children()


def test_a_worker_that_is_killed_ends_the_encryption_by_name() -> None:
    chunks = encrypt_integers(SecretKey.generate(SETTING), integers(LONG), PACKING, processes=1)
    next(chunks)
    (worker,) = children()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(CryptoError, match="ended early"):
        list(chunks)
    assert not children()


PARENT = """
import multiprocessing, sys, time
from tests.unit.crypto.ckks.test_workers import LONG, PACKING, children, integers
from collabedit.crypto.ckks.encryption import encrypt_integers
from collabedit.crypto.ckks.keys import SecretKey
from tests.support.ckks import SETTING
chunks = encrypt_integers(SecretKey.generate(SETTING), integers(LONG), PACKING, processes=2)
next(chunks)
print(*children(), flush=True)
time.sleep(60)
"""


def is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_workers_end_when_their_parent_is_killed() -> None:
    root = Path(__file__).parents[4]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert workers
        assert all(map(is_running, workers))
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))
