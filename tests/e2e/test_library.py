"""The library as its users meet it: the examples, resumption, and what a reporter is told."""

import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from collabedit import (
    Edit,
    Faults,
    Federation,
    InputError,
    Joined,
    JoinOptions,
    Reporter,
    SessionAbortedError,
    simulate,
)
from collabedit.errors import PlanError, TransportError
from collabedit.party.editing.updates import load_update
from tests.support.tiny_models import build_tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"
CANARY = "Zanzibarquux"
EDITS = {
    name: [Edit(f"{name}-1", "{} is in", f"{CANARY}{index}", " Rome", " Paris")]
    for index, name in enumerate(("alder", "birch", "cedar"))
}
OPTIONS = JoinOptions(threads=1, device="cpu")


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def observe(self, event: str, fields: Mapping[str, object]) -> None:
        self.events.append(f"{event} {dict(fields)}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model("llama", tmp_path_factory.mktemp("model") / "tiny")


def create(directory: Path, model: Path) -> Federation:
    rooms = {name: len(edits) for name, edits in EDITS.items()}
    return Federation.create(directory, model, rooms, editor="ridge", target_steps=2)


def join(federation: Federation, name: str, address: str, model: Path, notes: Notes) -> Joined:
    return federation.party(name, reporter=notes).join(
        address, federation.credentials(name), model=model, edits=EDITS[name], options=OPTIONS
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in_one_process.py", "over_grpc.py"])
def test_examples_run(name: str, model: Path, tmp_path: Path) -> None:
    folder = [str(tmp_path / "federation")] if name == "over_grpc.py" else []
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name), str(model), *folder, "--steps", "2"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "layer" in ran.stdout
    assert name != "over_grpc.py" or "all parties hold the same session: True" in ran.stdout


def test_a_session_over_grpc_from_the_library_alone(model: Path, tmp_path: Path) -> None:
    create(tmp_path / "federation", model)
    federation = Federation.open(tmp_path / "federation")
    notes = {name: Notes() for name in (*EDITS, "aggregator")}
    with (
        federation.aggregator(reporter=notes["aggregator"]) as aggregator,
        ThreadPoolExecutor() as pool,
    ):
        parties = {
            name: pool.submit(join, federation, name, aggregator.address, model, notes[name])
            for name in EDITS
        }
        served = aggregator.run(linger=5)
        joined = {name: party.result(timeout=60) for name, party in parties.items()}
    assert served is not None
    assert len(served.records) == len(federation.plan.tasks)
    first = joined["alder"]
    for name, result in joined.items():
        assert result.report.digest == first.report.digest
        stored = load_update(result.update_file, weights=federation.plan.model.weights)
        for layer, update in result.updates.items():
            np.testing.assert_array_equal(stored.updates[layer].left, update.left)
            np.testing.assert_array_equal(first.updates[layer].right, update.right)
        assert any("update written to" in line for line in notes[name].lines)
        assert any(event.startswith("state") for event in notes[name].events)
        assert {"load", "targets", "session", "save"} <= set(result.seconds)
    told = [text for each in notes.values() for text in (*each.lines, *each.events)]
    assert CANARY not in " ".join((*told, repr(joined), repr(served), repr(federation)))


def test_an_aggregator_that_was_stopped_goes_on(model: Path, tmp_path: Path) -> None:
    federation = create(tmp_path / "federation", model)
    with federation.aggregator() as aggregator:
        before = aggregator.session_id
        threading.Timer(0.2, aggregator.stop).start()
        assert aggregator.run() is None
    with federation.aggregator() as again:
        assert again.session_id == before


def test_an_aggregator_that_cannot_listen_keeps_nothing_open(model: Path, tmp_path: Path) -> None:
    federation = create(tmp_path / "federation", model)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TransportError, match="is the port in use") as refused:
            federation.aggregator(listen=f"127.0.0.1:{taken.getsockname()[1]}")
    # The error, and with it everything that was begun, is still there; the journal is free.
    assert refused.tb is not None
    with federation.aggregator() as aggregator:
        assert aggregator.session_id


def test_a_simulation_gives_the_update_and_tells_an_abort(model: Path) -> None:
    result = simulate(model, EDITS, editor="ridge", target_steps=2, faults=Faults(delay=2))
    result.raise_if_aborted()
    assert result.after is not None
    assert CANARY not in repr(result)
    assert {update.rank for update in result.updates.values()} == {3}
    ended = simulate(
        model,
        EDITS,
        editor="ridge",
        target_steps=2,
        faults=Faults(crash_before=dict.fromkeys(result.plan.party_ids[:2], "r3")),
    )
    assert ended.after is None
    assert not ended.updates
    with pytest.raises(SessionAbortedError, match="BELOW_THRESHOLD"):
        ended.raise_if_aborted()


def test_what_does_not_fit_is_refused_before_anything_is_sent(model: Path, tmp_path: Path) -> None:
    federation = create(tmp_path / "federation", model)
    with pytest.raises(InputError, match="exists already"):
        create(tmp_path / "federation", model)
    for rooms, said in (
        ({"Alder Hospital": 1, "birch": 1, "cedar": 1}, "party Alder Hospital: name: "),
        ({"alder": 0, "birch": 1, "cedar": 1}, "party alder: max_edits: "),
    ):
        with pytest.raises(PlanError, match=said):
            Federation.create(tmp_path / "other", model, rooms, editor="ridge", target_steps=2)
        assert not (tmp_path / "other").exists()
    with pytest.raises(PlanError, match="party alder: max_edits: "):
        simulate(model, {**EDITS, "alder": []}, editor="ridge", target_steps=2)
    alder = federation.party("alder")
    too_many = [*EDITS["alder"], *EDITS["birch"]]
    with pytest.raises(InputError, match="the edits of alder: 2 edits, the plan allows alder 1"):
        alder.join("127.0.0.1:1", federation.credentials("alder"), model=model, edits=too_many)
    with pytest.raises(InputError, match="must be HOST:PORT"):
        alder.join("nowhere", federation.credentials("alder"), model=model, edits=EDITS["alder"])
    assert not alder.work.exists()
