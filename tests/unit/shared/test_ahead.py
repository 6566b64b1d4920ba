import threading

import pytest

from collabedit.ahead import LEAST_BYTES, MOST_THREADS, in_order, usable_threads


def test_results_come_in_order_whoever_is_done_first() -> None:
    first_may_end = threading.Event()

    def work(index: int) -> int:
        if index == 0:
            assert first_may_end.wait(10)
        if index == 1:
            first_may_end.set()
        return index * index

    assert list(in_order(work, 9, threads=2)) == [n * n for n in range(9)]


def test_threads_run_a_bounded_way_ahead() -> None:
    begun: list[int] = []
    results = in_order(begun.append, 100, threads=2)
    for _ in range(3):
        next(results)
    results.close()
    assert len(begun) <= 2 + 4


def test_an_error_is_raised_where_its_result_would_be_and_ends_the_work() -> None:
    begun = []

    def work(index: int) -> int:
        begun.append(index)
        if index == 2:
            raise ValueError("the third")
        return index

    results = in_order(work, 1000, threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert len(begun) < 20
    assert not [each for each in threading.enumerate() if each.name.startswith("tiles")]


def test_one_thread_is_the_callers() -> None:
    by = set(in_order(lambda _index: threading.get_ident(), 50, threads=1))
    assert by == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2])
def test_no_tile_is_no_work(threads: int) -> None:
    assert list(in_order(lambda index: index, 0, threads=threads)) == []


def test_short_vectors_have_one_thread() -> None:
    assert usable_threads(LEAST_BYTES - 1) == 1
    assert 1 <= usable_threads(LEAST_BYTES) <= MOST_THREADS
