"""A place is held by who moves, and for a while; nobody keeps the others out."""

import threading
import time
from collections.abc import Callable

from collabedit.aggregator.turns import Turns

NEVER = 60.0
"""Seconds; beyond any of these tests."""


def start(body: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def await_waiting(turns: Turns, count: int) -> None:
    deadline = time.monotonic() + 10
    while turns.waiting != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_no_more_calls_move_than_there_are_places() -> None:
    turns = Turns(places=3, seconds=NEVER, idle=NEVER)
    lock, moving, most = threading.Lock(), 0, 0

    def transfer(call: str) -> None:
        nonlocal moving, most
        assert turns.enter(call)
        with lock:
            moving += 1
            most = max(most, moving)
        for _ in range(5):
            time.sleep(0.002)
            assert turns.keep(call)
        with lock:
            moving -= 1
        turns.leave(call)

    threads = [start(lambda name=f"call {n}": transfer(name)) for n in range(20)]  # type: ignore[misc]
    for thread in threads:
        thread.join(10)
    assert most == 3
    assert (len(turns), turns.waiting) == (0, 0)


def test_who_came_first_goes_first() -> None:
    turns = Turns(places=1, seconds=NEVER, idle=NEVER)
    turns.enter("holder")
    order: list[int] = []

    def transfer(number: int) -> None:
        turns.enter(number)
        order.append(number)
        turns.leave(number)

    threads = []
    for number in range(5):
        threads.append(start(lambda number=number: transfer(number)))  # type: ignore[misc]
        await_waiting(turns, number + 1)
    turns.leave("holder")
    for thread in threads:
        thread.join(10)
    assert order == list(range(5))


def test_others_are_let_in_while_nobody_moves() -> None:
    turns = Turns(places=1, seconds=NEVER, idle=0.02)
    turns.enter("stalls")
    started = time.monotonic()
    assert turns.enter("second")
    assert turns.enter("third")
    assert 0.04 <= time.monotonic() - started < 5
    assert len(turns) == 3


def test_nobody_is_let_in_while_someone_moves() -> None:
    turns = Turns(places=1, seconds=NEVER, idle=1.0)
    turns.enter("moves")
    entered = threading.Event()

    def wait() -> None:
        if turns.enter("waits"):
            entered.set()

    waiter = start(wait)
    for _ in range(30):
        time.sleep(0.05)
        turns.keep("moves")
    assert not entered.is_set()
    turns.leave("moves")
    waiter.join(10)
    assert entered.is_set()


def test_who_moves_hands_its_place_on_after_its_time_and_gets_it_back() -> None:
    turns = Turns(places=1, seconds=0.1, idle=NEVER)
    turns.enter("drips")
    is_over = threading.Event()

    def second() -> None:
        assert turns.enter("second")
        is_over.set()
        turns.leave("second")

    waiter = start(second)
    await_waiting(turns, 1)
    while not is_over.is_set():
        time.sleep(0.01)
        assert turns.keep("drips")
    waiter.join(10)
    assert turns.keep("drips")
    assert len(turns) == 1


def test_nobody_waits_for_ever_for_a_place_whose_holder_is_silent() -> None:
    turns = Turns(places=1, seconds=0.1, idle=NEVER)
    turns.enter("silent")
    assert turns.enter("second")
    assert len(turns) == 1
    back = threading.Event()

    def move() -> None:
        if turns.keep("silent"):
            back.set()

    silent = start(move)
    await_waiting(turns, 1)
    turns.leave("second")
    silent.join(10)
    assert back.is_set()


def test_alone_a_call_keeps_its_place() -> None:
    turns = Turns(places=1, seconds=0.0, idle=NEVER)
    turns.enter("alone")
    assert all(turns.keep("alone") for _ in range(100))


def test_a_call_that_ends_while_it_waits_leaves_the_line() -> None:
    turns = Turns(places=1, seconds=NEVER, idle=NEVER)
    turns.enter("holder")
    answers: list[bool] = []
    waiter = start(lambda: answers.append(turns.enter("gone")))
    await_waiting(turns, 1)
    turns.leave("gone")
    waiter.join(10)
    assert answers == [False]
    assert (len(turns), turns.waiting) == (1, 0)
    turns.leave("holder")
    assert turns.enter("gone")  # the same one again is a new wait
