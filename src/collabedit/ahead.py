"""Work on the tiles of a vector by a few threads, a few tiles ahead of who takes them.

Ciphers, hashes and additions over a tile let go of the interpreter's lock, so threads run beside
each other and beside the network. How far they run ahead is bounded, and so is what they hold.
"""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

MOST_THREADS: Final = 4
"""Beyond it a tile's arithmetic waits for memory; a party's machine has other work besides."""

LEAST_BYTES: Final = 1 << 20
"""Of a vector that several threads work on; with less they cost more than they save."""


def usable_threads(size: int) -> int:
    """Return how many threads of this process work on a vector: its cores, up to `MOST_THREADS`.

    Args:
        size: of the vector, in bytes.
    """
    if size < LEAST_BYTES:
        return 1
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def in_order(work: Callable[[int], T], tiles: int, *, threads: int) -> Generator[T, None, None]:
    """Yield `work(0)`, `work(1)`, ... in order, each done by one of several threads.

    At most two results a thread are done or under way before they are taken. An error is raised
    where its result would be; then, and when the iterator is closed, what has not begun does not.

    Args:
        work: safe to call from several threads at once.
        tiles: how many.
        threads: that work, see `usable_threads`; with 1 all is done by the caller's.
    """
    if threads == 1:
        yield from map(work, range(tiles))
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        under_way: deque[Future[T]] = deque()
        try:
            for index in range(tiles):
                under_way.append(pool.submit(work, index))
                if len(under_way) == 2 * threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
