"""Jobs on a real cluster of processes: what is kept, what runs again, and what an error leaves."""

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest
from distributed import LocalCluster

import tests.support.jobs as jobs_module
from collabedit.errors import InputError, StorageError
from collabedit.grid import Cluster, Event, Failure, Job, Record, ResultStore, job_id, run_jobs
from tests.support.jobs import break_down, die, job, prepare, read_prepared, refuse, square, threads


class Unloadable:
    """Pickles as a thing of a module that nobody has."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return importlib.import_module, ("no_such_module",)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A scheduler that was there before, with two processes."""
    # Workers have no `tests` to import; what the jobs do travels with them.
    cloudpickle.register_pickle_by_value(jobs_module)
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as running:
        yield Cluster(scheduler=running.scheduler_address)
    cloudpickle.unregister_pickle_by_value(jobs_module)


def squares(directory: Path, numbers: Sequence[int]) -> list[Job]:
    log = str(directory / "log")
    return [job(f"square {n}", square, {"number": n, "log": log}) for n in numbers]


def ran(directory: Path) -> list[str]:
    return sorted((directory / "log").read_text(encoding="utf-8").split())


def test_results_come_in_the_order_of_jobs_and_are_not_made_twice(
    tmp_path: Path, cluster: Cluster
) -> None:
    store = ResultStore(tmp_path / "cells")
    first = run_jobs(squares(tmp_path, [3, 2]), store, cluster=cluster)
    assert [record.result for record in first] == [{"square": 9}, {"square": 4}]
    again = run_jobs(squares(tmp_path, [2, 4, 3]), store, cluster=cluster)
    assert [record.result for record in again] == [{"square": 4}, {"square": 16}, {"square": 9}]
    assert ran(tmp_path) == ["2", "3", "4"]


def test_a_run_without_anything_to_do_starts_no_cluster(tmp_path: Path, cluster: Cluster) -> None:
    store = ResultStore(tmp_path / "cells")
    done = job("square 2", square, {})
    store.save(Record(done.id, done.label, done.identity, {"square": 4}, None, 0.1))
    nowhere = Cluster(scheduler="tcp://127.0.0.1:1")
    (record,) = run_jobs([done], store, cluster=nowhere)
    assert record.result == {"square": 4}


def test_a_failure_is_written_down_and_keeps_no_other_job_from_running(
    tmp_path: Path, cluster: Cluster
) -> None:
    events: list[tuple[Event, str]] = []

    def report(event: Event, label: str, _failure: Failure | None) -> None:
        events.append((event, label))

    store = ResultStore(tmp_path / "cells")
    jobs = [
        job("refused", refuse, None),
        job("broken", break_down, None),
        job("dead", die, None),
        *squares(tmp_path, [5]),
    ]
    refused, broken, dead, good = run_jobs(jobs, store, cluster=cluster, report=report)
    assert refused.failure is not None
    assert (refused.failure.kind, refused.failure.message) == ("NumericError", "the numbers refuse")
    assert refused.failure.place.startswith("jobs.py:")
    assert broken.failure is not None
    assert broken.failure.kind == "KeyError"
    assert "secret" not in json.dumps([broken.failure.message, broken.failure.place])
    assert dead.failure is not None
    assert (dead.failure.kind, "died" in dead.failure.message) == ("KilledWorker", True)
    assert good.result == {"square": 25}
    assert sorted(events) == [
        ("done", "square 5"),
        ("failed", "broken"),
        ("failed", "dead"),
        ("failed", "refused"),
    ]


def test_a_failed_job_is_tried_again(tmp_path: Path, cluster: Cluster) -> None:
    store = ResultStore(tmp_path / "cells")
    made = tmp_path / "made"
    waiting = job("waits", read_prepared, {"made": str(made)})
    (failed,) = run_jobs([waiting], store, cluster=cluster)
    assert failed.failure is not None
    assert failed.failure.kind == "FileNotFoundError"
    made.write_text("by hand")
    (record,) = run_jobs([waiting], store, cluster=cluster)
    assert record.result == {"found": "by hand"}


def test_preparations_run_first_and_only_for_jobs_that_are_still_to_run(
    tmp_path: Path, cluster: Cluster
) -> None:
    store = ResultStore(tmp_path / "cells")
    labels: list[str] = []
    paths = [tmp_path / "a", tmp_path / "b"]
    shared = [job(path.name, prepare, {"made": str(path)}) for path in paths]
    jobs = [
        job(f"reads {path.name}", read_prepared, {"made": str(path)}, after=(one.id,))
        for path, one in zip(paths, shared, strict=True)
    ]
    finished = Record(jobs[1].id, jobs[1].label, jobs[1].identity, {"found": "old"}, None, 0.0)
    store.save(finished)
    records = run_jobs(
        jobs,
        store,
        cluster=cluster,
        preparations=shared,
        report=lambda _event, label, _failure: labels.append(label),
    )
    assert [record.result for record in records] == [{"found": "made"}, {"found": "old"}]
    assert labels == ["a", "reads a"]
    assert not paths[1].exists()


def test_jobs_behind_a_failed_preparation_fail_with_its_error(
    tmp_path: Path, cluster: Cluster
) -> None:
    store = ResultStore(tmp_path / "cells")
    shared = job("shared", refuse, None)
    second = job("second", prepare, {"made": str(tmp_path / "x")}, after=(shared.id,))
    last = job("last", read_prepared, {"made": str(tmp_path / "x")}, after=(shared.id, second.id))
    (record,) = run_jobs([last], store, cluster=cluster, preparations=[shared, second])
    assert record.failure is not None
    assert record.failure.kind == "NumericError"
    assert not (tmp_path / "x").exists()


def test_a_run_starts_its_own_processes_with_as_many_threads_as_it_says(
    tmp_path: Path, cluster: Cluster
) -> None:
    store = ResultStore(tmp_path / "cells")
    jobs = [job("threads", threads, None)]
    (record,) = run_jobs(jobs, store, cluster=Cluster(workers=1, threads=3))
    assert record.result == {"threads": 3}


def test_what_a_worker_cannot_unpack_is_the_jobs_failure(tmp_path: Path, cluster: Cluster) -> None:
    store = ResultStore(tmp_path / "cells")
    (record,) = run_jobs([job("strange", square, Unloadable())], store, cluster=cluster)
    assert record.failure is not None
    assert record.failure.kind == "ModuleNotFoundError"


def test_nobody_at_the_schedulers_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collabedit.grid.CONNECT_SECONDS", 0.2)
    nowhere = Cluster(scheduler="tcp://127.0.0.1:1")
    with pytest.raises(InputError, match="nobody answers there"):
        run_jobs(squares(tmp_path, [1]), ResultStore(tmp_path / "cells"), cluster=nowhere)


# The files.


def record(**changes: object) -> Record:
    identity = {"name": "x"}
    values = Record(job_id(identity), "x", identity, {"y": 1.5}, None, 2.0)
    return replace(values, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kept", [record(), record(result=None, failure=Failure("KeyError", "why", "a.py:3"))]
)
def test_a_record_reads_back_as_it_was_written(tmp_path: Path, kept: Record) -> None:
    store = ResultStore(tmp_path)
    store.save(kept)
    assert store.load(kept.id) == kept
    assert store.finished(kept.id) == (kept.failure is None)
    assert [path.name for path in tmp_path.iterdir()] == [f"{kept.id}.json"]


def test_ids_follow_content_alone() -> None:
    assert job_id({"a": 1, "b": [2.0]}) == job_id({"b": [2.0], "a": 1})
    assert job_id({"a": 1}) != job_id({"a": 2})
    assert len(job_id({})) == 64


@pytest.mark.parametrize("text", ["", "[]", '{"id": "x"}', "not json"])
def test_a_damaged_result_is_refused_by_name(tmp_path: Path, text: str) -> None:
    store = ResultStore(tmp_path)
    (tmp_path / f"{record().id}.json").write_text(text)
    with pytest.raises(InputError, match="remove it"):
        store.load(record().id)


def test_a_result_under_another_name_is_refused(tmp_path: Path, cluster: Cluster) -> None:
    store = ResultStore(tmp_path)
    store.save(record())
    other = job_id({"name": "other"})
    (tmp_path / f"{record().id}.json").rename(tmp_path / f"{other}.json")
    with pytest.raises(InputError, match="another job"):
        store.load(other)


def test_a_result_that_cannot_be_written_is_an_error_of_the_disk(
    tmp_path: Path, cluster: Cluster
) -> None:
    store = ResultStore(tmp_path / "cells")
    (tmp_path / "cells").rmdir()
    with pytest.raises(StorageError, match="cannot be written"):
        store.save(record())
