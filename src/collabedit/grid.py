"""Many independent jobs on a Dask cluster, the result of each in a file of its own.

A job is named by the digest of all that determines its result, so a run that was killed goes on
where it was, and one whose settings changed does again only what these changed (ADR 0015). A job
that fails is written down with its error and keeps no other from running; the next run tries it
again. Nothing here knows what the jobs compute.

Dask is imported where it is used: reading results needs none.
"""

import hashlib
import json
import logging
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from collabedit.durable import replace_file
from collabedit.errors import CollabEditError, InputError

if TYPE_CHECKING:
    from distributed import Client, Future

Fields: TypeAlias = Mapping[str, Any]
"""What JSON can hold."""

Work: TypeAlias = Callable[[Any], Fields]
"""Computes a result on a worker from a job's input. A function that can be imported there."""

CONNECT_SECONDS = 30.0
_LABEL_BYTES = b"collabedit/v1/job\n"
_FOREIGN = "not an error of this package; its text is left out, it may quote an input"

_DIED = "its worker died several times under it; look for one that was out of memory"
_UNABLE = "a worker could not begin it; look whether it has the same version of this package"


def job_id(identity: Fields) -> str:
    """Name a job by what determines its result: hex SHA-256 of the canonical JSON."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(_LABEL_BYTES + canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Job:
    """One cell of a grid, or a piece that several of them need.

    Attributes:
        id: `job_id` of its identity.
        label: for people.
        identity: all that determines the result; kept beside it, so nothing private.
        work: computes it.
        given: its input, of any type that pickles; never stored nor shown.
        after: ids of preparations that must have run before.
    """

    id: str
    label: str
    identity: Fields
    work: Work
    given: Any = field(repr=False)
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no result.

    Attributes:
        kind: class of the error.
        message: for people; of errors of this package only.
        place: file and line where it was raised.
    """

    kind: str
    message: str
    place: str


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a job: the content of its file.

    Attributes:
        id, label, identity: of the job.
        result: None if it failed.
        failure: None if it did not.
        seconds: wall clock on the worker.
    """

    id: str
    label: str
    identity: Fields
    result: Fields | None
    failure: Failure | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where jobs run.

    Attributes:
        workers: processes on this machine; ignored with a scheduler.
        threads: of the numerical libraries, in each worker.
        scheduler: address of a running Dask scheduler; None starts the processes.
    """

    workers: int = 1
    threads: int = 1
    scheduler: str | None = None


Event: TypeAlias = Literal["prepared", "done", "failed"]
Report: TypeAlias = Callable[[Event, str, Failure | None], None]
"""Told of each piece of work that ended: its label, and why if it failed."""


class ResultStore:
    """The results of a run: `<id>.json` each, complete or not there.

    Args:
        directory: made if it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def save(self, record: Record) -> None:
        """Write a record, replacing an earlier one.

        Raises:
            StorageError: the disk refuses.
        """
        text = json.dumps(asdict(record), indent=1, allow_nan=False)
        replace_file(self._directory / f"{record.id}.json", f"{text}\n".encode(), private=False)

    def load(self, name: str) -> Record | None:
        """Read the record of a job; None if it has none.

        Raises:
            InputError: the file is not a record of that job.
        """
        path = self._directory / f"{name}.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as a result; remove it") from error
        try:
            failure = None if values["failure"] is None else Failure(**values["failure"])
            record = Record(**{**values, "failure": failure})
        except (TypeError, KeyError) as error:
            raise InputError(f"{path}: is no result of a job; remove it") from error
        if record.id != name or job_id(record.identity) != name:
            raise InputError(f"{path}: holds the result of another job; remove it")
        return record

    def finished(self, name: str) -> bool:
        """Whether there is a result, not just a failure."""
        record = self.load(name)
        return record is not None and record.result is not None


def run_jobs(
    jobs: Sequence[Job],
    store: ResultStore,
    *,
    cluster: Cluster,
    preparations: Sequence[Job] = (),
    report: Report = lambda _event, _label, _failure: None,
) -> list[Record]:
    """Run what has no result yet, and return the records of all jobs, in their order.

    A preparation runs if a job that is still to run comes after it; what it makes is its own
    business (a cache), its result is not kept. Jobs behind one that failed fail with its error.

    Args:
        jobs: with different ids.
        store: has the results of earlier runs, gets the new ones as they come.
        cluster: where to run.
        preparations: shared pieces, by the ids that jobs name in `after`; each behind those that
            it names itself.
        report: told what ended.

    Raises:
        InputError: no cluster under that address.
        StorageError: a result cannot be written.
    """
    pending = [job for job in jobs if not store.finished(job.id)]
    if pending:
        needed = {name for job in pending for name in job.after}
        shared = [job for job in preparations if job.id in needed]
        with _connected(cluster) as client, client.as_current():
            for record, is_shared in _outcomes(client, pending, shared, threads=cluster.threads):
                if is_shared:
                    report("prepared", record.label, record.failure)
                    continue
                store.save(record)
                event: Event = "done" if record.failure is None else "failed"
                report(event, record.label, record.failure)
    records = [store.load(job.id) for job in jobs]
    return [record for record in records if record is not None]


@contextmanager
def _connected(cluster: Cluster) -> Iterator["Client"]:
    import dask  # noqa: PLC0415
    from distributed import Client, LocalCluster  # noqa: PLC0415

    if cluster.scheduler is not None:
        try:
            client = Client(cluster.scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler {cluster.scheduler}: nobody answers there") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            except TimeoutError as error:
                raise InputError(f"--scheduler {cluster.scheduler}: has no worker") from error
            yield client
        return
    with (
        tempfile.TemporaryDirectory(prefix="collabedit-") as scratch,
        dask.config.set({"temporary-directory": scratch}),
        # No limit on memory: a model's weights are not Dask's to spill, and killing a worker for
        # them would only repeat the same job.
        # Dask unpickles what it is sent, so only who has this run's own throw-away certificate may
        # connect, from this machine alone.
        LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            local_directory=scratch,
            silence_logs=logging.ERROR,
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


@dataclass(frozen=True, slots=True)
class _Ended:
    """What a worker sends back: a result or a failure."""

    result: Fields | None
    failure: Failure | None
    seconds: float

    def record(self, job: Job) -> Record:
        return Record(job.id, job.label, job.identity, self.result, self.failure, self.seconds)


def _outcomes(
    client: "Client", pending: Sequence[Job], shared: Sequence[Job], *, threads: int
) -> Iterator[tuple[Record, bool]]:
    """Submit everything and yield records as they come, with whether it was a preparation."""
    import cloudpickle  # noqa: PLC0415
    from distributed import KilledWorker, as_completed  # noqa: PLC0415

    made: dict[str, Future[_Ended]] = {}
    futures: dict[Future[_Ended], tuple[Job, bool]] = {}
    for job, is_shared in [*((job, True) for job in shared), *((job, False) for job in pending)]:
        future: Future[_Ended] = client.submit(
            _attempt,
            cloudpickle.dumps((job.work, job.given)),
            [made[name] for name in job.after if name in made],
            threads=threads,
            # A fresh key: a scheduler that lives on must not answer from an earlier run.
            pure=False,
            priority=int(is_shared),
        )
        futures[future] = (job, is_shared)
        if is_shared:
            made[job.id] = future
    for future in as_completed(list(futures)):
        # Let go of what is done, or the scheduler would make it again if its worker died.
        job, is_shared = futures.pop(future)
        error = future.exception()
        if error is None:
            yield future.result().record(job), is_shared
            continue
        # `_attempt` catches what a job raises; what is left is the worker's own.
        died = isinstance(error, KilledWorker)
        failure = Failure(type(error).__name__, _DIED if died else _UNABLE, "")
        yield _Ended(None, failure, 0.0).record(job), is_shared


def _attempt(packed: bytes, before: Sequence[_Ended], *, threads: int) -> _Ended:
    """Run a job on a worker; an error becomes a failure.

    Work and input come packed: what a worker cannot unpack is that job's failure. If Dask unpacked
    them, the worker would drop the connection and the run would wait for ever.
    """
    for earlier in before:
        if earlier.failure is not None:
            return _Ended(None, earlier.failure, 0.0)
    _limit_threads(threads)
    began = time.perf_counter()
    try:
        work, given = pickle.loads(packed)  # noqa: S301  packed by this run's own client
        result = work(given)
    except Exception as error:  # noqa: BLE001  whatever it is, the other jobs go on
        return _Ended(None, _failure(error), time.perf_counter() - began)
    return _Ended(result, None, time.perf_counter() - began)


def _failure(error: Exception) -> Failure:
    own = isinstance(error, CollabEditError)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return Failure(type(error).__name__, str(error) if own else _FOREIGN, place)


def _limit_threads(count: int) -> None:
    # As many threads in each worker as cores would make the workers wait for each other.
    try:
        import torch  # noqa: PLC0415
    except ModuleNotFoundError:
        return
    torch.set_num_threads(count)
