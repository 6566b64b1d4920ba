"""Ranks without numbers: who waits for whom, and who is given up."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]  # is public, says torch

from collabedit.errors import InputError, RankError
from collabedit.party.editing import launch
from collabedit.party.editing.launch import Link, open_ranks
from collabedit.party.editing.ranks import ALONE, Ranks


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Link, Link]]:
    """Two ranks that share a store, and die of silence quickly."""
    monkeypatch.setattr(launch, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(launch, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(launch, "_DIAGNOSIS_SECONDS", 0.2)
    store = HashStore()
    pair = Link(store, 0, 2), Link(store, 1, 2)
    yield pair
    for link in pair:
        link.close()


def test_one_process_is_left_alone() -> None:
    values = torch.arange(6.0).view(3, 2)
    assert ALONE.is_first
    assert ALONE.split(range(5)) == [[0, 1, 2, 3, 4]]
    assert ALONE.sum_all(values) is values
    assert ALONE.broadcast(values) is values
    ALONE.fill_rows(values, [[[0, 2], [1]]])
    assert torch.equal(values, torch.arange(6.0).view(3, 2))
    assert ALONE.decide(answer=True)
    assert not ALONE.decide(answer=False)
    ALONE.agree("model", "digest")
    ALONE.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12])
def test_every_item_is_dealt_once(size: int) -> None:
    parts = Ranks(0, size).split(range(10))
    assert sorted(item for part in parts for item in part) == list(range(10))
    assert len(parts) == size
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_nobody_goes_on_before_all_are_there(links: tuple[Link, Link]) -> None:
    first, second = links
    met = threading.Event()

    def meet() -> None:
        first.meet()
        met.set()

    thread = threading.Thread(target=meet)
    thread.start()
    # Longer than silence lasts: a rank that computes is alive.
    assert not met.wait(1.0)
    second.meet()
    thread.join(5)
    assert met.is_set()


def test_a_silent_rank_is_given_up(links: tuple[Link, Link]) -> None:
    first, second = links
    second.close()
    with pytest.raises(RankError, match="rank 1 of 2 has been silent"):
        first.meet()


def test_a_dead_rank_is_named(links: tuple[Link, Link]) -> None:
    first, second = links
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    machine = launch._machine()
    second.store.set("process/1", f'["{machine}", {child.pid}]')
    with pytest.raises(RankError, match="rank 1 of 2 ended without a word"):
        first.meet()
    assert "rank 1 of 2" in str(first.diagnose())
    # The same number on another machine is another process.
    second.store.set("process/1", f'["elsewhere", {child.pid}]')
    assert first.diagnose() is None


def test_a_rank_that_came_and_ended_is_no_failure(
    links: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = links

    def ends_meanwhile(_link: Link, _rank: int) -> bool:
        second.meet()
        return True

    monkeypatch.setattr(Link, "_is_gone", ends_meanwhile)
    first.meet()


def test_one_failure_is_said_once(links: tuple[Link, Link]) -> None:
    first, second = links
    assert not first.has_failed()
    assert second.claim_failure()
    assert first.has_failed()
    assert not first.claim_failure()
    with pytest.raises(RankError, match="another rank has failed"):
        first.meet()
    assert first.diagnose() is None


def test_ranks_agree_on_texts(links: tuple[Link, Link]) -> None:
    first, second = (Ranks(link.rank, 2, link) for link in links)
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(first.broadcast_text("what it is")))
    thread.start()
    assert second.broadcast_text("something else") == "what it is"
    thread.join(5)
    assert told == ["what it is"]
    thread = threading.Thread(target=first.agree, args=("set of edits", "aa"))
    thread.start()
    with pytest.raises(RankError, match="rank 1 of 2 has another set of edits than rank 0"):
        second.agree("set of edits", "bb")
    thread.join(5)


@pytest.mark.parametrize("device", ["cuda:1", "spread", "spread:20GiB"])
def test_gpus_that_ranks_would_share_are_refused(links: tuple[Link, Link], device: str) -> None:
    with pytest.raises(InputError, match="each rank has a GPU of its own"):
        open_ranks(links[0], device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPUs")
def test_more_processes_than_gpus_are_refused(
    links: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "0")
    with pytest.raises(InputError, match="process 1 on a machine with 0 GPUs"):
        open_ranks(links[0], "cuda")
