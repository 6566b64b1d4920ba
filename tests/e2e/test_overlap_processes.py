"""Overlap and conflicts among real processes: what each party is told, and what nobody else sees.

Scene: parties 1 and 2 share a fact and agree on another against party 3. Party 4 has looked at what
was decided about its own edit, and leaves.
"""

import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collabedit.demo.methods import Share, edit_alone, relative_errors
from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.targets import Targets
from collabedit.party.edits import load_edits
from collabedit.party.items import edit_items
from tests.e2e.test_processes import Finished
from tests.support.processes import (
    Federation,
    Session,
    build_federation,
    record,
    run_command,
    torch_threads,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DECLINED = 9
WHO_STAYS = ("party-1", "party-2", "party-3")


def fact(number: int, subject: str, prompt: str, new: str) -> dict[str, Any]:
    return record(number, subject, prompt, new, "nothing")


SHARED = ("Bob", "{} plays the", "guitar")
FIRST_SIDE = ("Quito", "The capital of {}, they say, is", "Rome")
OTHER_SIDE = ("Quito", "The capital of {}, they say, is", "Tokyo")
EDITS = [
    [fact(11, *SHARED), fact(12, "Ann", "{} was born in", "Paris"), fact(13, *FIRST_SIDE)],
    [fact(21, *FIRST_SIDE), fact(22, *SHARED)],
    [fact(31, *OTHER_SIDE), fact(32, "Zed", "{} was born in", "Oslo")],
    [fact(41, "Max", "{} plays the", "piano")],
]


@dataclass
class Counted:
    """A finished session, and what lay in the aggregator's state directory after counting."""

    finished: Finished
    seen: list[bytes] = field(repr=False)

    def told(self, party: str) -> list[dict[str, Any]]:
        path = self.finished.session.work(party) / "overlap.json"
        edits: list[dict[str, Any]] = json.loads(path.read_text())["edits"]
        return edits


def plan_options(federation: Federation) -> Sequence[object]:
    return (
        *("--covariance", federation.covariance, "--covariance-weight", 20),
        *("--overlap", "majority", "--false-positive", "1e-9"),
    )


def contents(directory: Path) -> list[bytes]:
    found = []
    for path in directory.rglob("*"):
        try:
            found.append(path.read_bytes())
        except (IsADirectoryError, FileNotFoundError):
            continue
    return found


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    root = tmp_path_factory.mktemp("overlap")
    federation = build_federation(
        root / "federation",
        parties=4,
        model_type="gpt2",
        dtype="float64",
        edits=EDITS,
        editor=plan_options,
        tile_bytes=1024,
    )
    with Session(federation, root / "session", debug=True) as session:
        for party in WHO_STAYS:
            session.start(party)
        # Its standard input is closed, so the question has no answer but no.
        session.start("party-4", review=True)
        session.aggregator.await_event("opened", task=0)
        seen = contents(root / "session" / "state")
        for running in session.everybody:
            wanted = DECLINED if running.name == "party-4" else 0
            assert running.wait() == wanted, running.text
        seen += contents(root / "session" / "state")
        seen.append(session.aggregator.log.read_bytes())
        yield Counted(Finished(federation, session), seen)


def test_every_party_is_told_the_plain_intersection_of_its_own_edits(counted: Counted) -> None:
    federation = counted.finished.federation
    items = {
        party: edit_items(load_edits(federation.member(party).edits))
        for party in federation.parties
    }
    everything = [item for own in items.values() for item in own]
    for party, own in items.items():
        want = [
            (
                item.case_id,
                sum(other.fact == item.fact for other in everything),
                sum(other.topic == item.topic for other in everything),
            )
            for item in own
        ]
        told = counted.told(party)
        assert [(edit["case_id"], edit["copies"], edit["claims"]) for edit in told] == want
    kept = {edit["case_id"]: edit["kept"] for party in items for edit in counted.told(party)}
    assert {case for case, is_kept in kept.items() if not is_kept} == {"31"}


def test_the_report_is_private_and_says_no_text(counted: Counted) -> None:
    for party in counted.finished.federation.parties:
        path = counted.finished.session.work(party) / "overlap.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text() + counted.finished.session.parties[party].text
        for word in ("Quito", "Bob", "guitar", "Tokyo", "capital"):
            assert word not in text


def test_the_terminal_shows_copies_and_conflicts_before_the_first_layer(counted: Counted) -> None:
    log = counted.finished.session.parties["party-1"].text
    told = "of 3 edits 2 are made by others, too, 1 are in conflict and 0 are left out"
    assert told in log
    assert log.index(told) < log.index('"event": "applied"')
    assert "left the session on your answer" in counted.finished.session.parties["party-4"].text


def test_the_update_is_that_of_the_union_with_the_majority(counted: Counted) -> None:
    finished = counted.finished
    model, plan = finished.model(), finished.plan
    shares = []
    for party, indices in (("party-1", [0, 1, 2]), ("party-3", [1])):
        share = finished.share(party, model)
        targets = share.targets
        shares.append(
            Share(
                [share.edits[index] for index in indices],
                Targets(targets.values[:, indices], targets.edits_digest, targets.settings_digest),
            )
        )
    covariance = load_covariance(finished.federation.covariance)
    with torch_threads(1):
        want = edit_alone(plan, model, covariance, shares)
    for party in WHO_STAYS:
        got = {int(layer): update.dense() for layer, update in finished.updates(party).items()}
        assert max(relative_errors(got, want).values()) < 1e-8
    assert not (finished.session.work("party-4") / "update.safetensors").exists()


def test_the_reports_have_the_counting_task_first(counted: Counted) -> None:
    session = counted.finished.session
    for running in (session.aggregator, session.parties["party-1"]):
        tasks = running.report["tasks"]
        assert [task["layers"] for task in tasks] == [[], [1], [3]]
        assert [len(task["survivors"]) for task in tasks] == [4, 3, 3]


def test_the_aggregator_has_no_digest_of_an_edit(counted: Counted) -> None:
    seen = b"".join(counted.seen)
    assert len(seen) > 20_000
    federation = counted.finished.federation
    for party in federation.parties:
        for item in edit_items(load_edits(federation.member(party).edits)):
            for digest in (item.topic, item.fact):
                assert digest not in seen
                assert digest.hex().encode() not in seen


def test_the_released_tables_are_not_counts_to_the_aggregator(counted: Counted) -> None:
    """Counts would be mostly zero; what is stored has every byte."""
    tables = [data for data in counted.seen if data[:4] == b"CEC1"]
    assert tables
    values = np.frombuffer(tables[0][16:], dtype="<u8")
    assert len(values) > 500
    assert values.min() > 2**40


def test_review_needs_a_plan_that_counts(counted: Counted, tmp_path: Path) -> None:
    federation, work = counted.finished.federation, tmp_path / "work"
    text = federation.plan_file.read_text()
    plain = tmp_path / "plan.toml"
    start = text.index("[overlap]")
    plain.write_text(text[:start] + text[text.index("[timing]", start) :])
    options = federation.join_options("party-1", work=work, port=1, plan=plain, review=True)
    outcome = run_command(*options)
    assert outcome.code == 2
    assert "counts no overlap" in outcome.err
