"""Re-assertions by the commands that a user types: what is prepared, refused, and edited in."""

import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from collabedit.api.reassertion import COUNT_OPTION, FILE, OPTION
from collabedit.demo.methods import Share, edit_alone
from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.model import load_model
from collabedit.party.edits import edits_digest, load_true_facts
from tests.e2e.test_cli import INPUT, assert_refused, join_party, words
from tests.e2e.test_processes import Finished, assert_parity, assert_same_update
from tests.support.known_facts import known_facts
from tests.support.processes import (
    Federation,
    Outcome,
    Session,
    build_federation,
    edit_plan,
    own_edits,
    run_here,
    torch_threads,
)

ROOM = 4
PARTY = "party-2"


def make_room(federation: Federation, plan: Path) -> None:
    """Let every party bring `ROOM` edits."""
    parties = [
        {**party.model_dump(exclude_none=True), "max_edits": ROOM}
        for party in federation.plan.federation.parties
    ]
    edit_plan(plan, federation={"parties": parties}, aggregation={"capacity": 3 * ROOM + 8})


def write_facts(federation: Federation, path: Path, count: int = 5) -> Path:
    path.write_text(json.dumps(known_facts(load_model(federation.model), count)))
    return path


@pytest.fixture
def roomy(federation: Federation, tmp_path: Path) -> Path:
    plan = Path(shutil.copy(federation.plan_file, tmp_path / "plan.toml"))
    make_room(federation, plan)
    return plan


@pytest.fixture
def facts(federation: Federation, tmp_path: Path) -> Path:
    return write_facts(federation, tmp_path / "facts.json")


def prepare(federation: Federation, plan: Path, work: Path, *more: object) -> Outcome:
    return run_here(
        *("party", "prepare", "--plan", plan, "--name", PARTY, "--work", work),
        *("--model", federation.model, "--edits", federation.member(PARTY).edits),
        *("--threads", 1, *more),
    )


def test_as_many_as_edits_are_prepared_once(
    federation: Federation, roomy: Path, facts: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    first = prepare(federation, roomy, work, OPTION, facts)
    first.ok()
    assert f"2 re-assertions are in {work / FILE}" in words(first.err)
    assert stat.S_IMODE((work / FILE).stat().st_mode) == 0o600
    made = load_file(work / FILE)
    assert made["targets"].shape[1] == len(made["places"]) == 2
    again = prepare(federation, roomy, work, OPTION, facts)
    again.ok()
    assert "using the re-assertions in" in words(again.err)
    kept = load_file(work / FILE)
    assert all(torch.equal(kept[name], made[name]) for name in made)
    refused = prepare(federation, roomy, work, OPTION, facts, COUNT_OPTION, 1)
    assert refused.code == INPUT
    assert "prepared from other facts or edits, in another number" in words(refused.err)


def test_prepared_ones_are_not_forgotten_in_silence(
    federation: Federation, roomy: Path, facts: Path, silent_port: int, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    prepare(federation, roomy, work, OPTION, facts, COUNT_OPTION, 1).ok()
    refused = join_party(federation, work, silent_port, plan=roomy)
    assert_refused(refused, INPUT, work / FILE, f"name their file with {OPTION}, or remove")


def test_what_does_not_fit_is_refused_before_anything_is_computed(
    federation: Federation, roomy: Path, facts: Path, silent_port: int, tmp_path: Path
) -> None:
    work, lacking = tmp_path / "work", tmp_path / "lacking.json"
    records = json.loads(facts.read_text())
    del records[1]["ground_truth"]
    lacking.write_text(json.dumps(records))
    for changes, said in (
        ({"reassert": facts, "reassert_count": 3}, "3 re-assertions beside 2 edits, the plan"),
        ({"reassert_count": 1}, f"{COUNT_OPTION}: needs {OPTION}"),
        ({"reassert": lacking}, "record 2: has no true completion"),
        ({"reassert": tmp_path / "none.json"}, "none.json"),
    ):
        refused = join_party(federation, work, silent_port, plan=roomy, **changes)
        assert_refused(refused, INPUT, said)
        assert "Yan" not in refused.err
    assert not work.exists()


def test_facts_that_the_model_does_not_know_are_too_few(
    federation: Federation, roomy: Path, tmp_path: Path
) -> None:
    path, work = tmp_path / "wrong.json", tmp_path / "work"
    path.write_text(json.dumps(own_edits(9, 3)))
    refused = prepare(federation, roomy, work, OPTION, path)
    assert refused.code == INPUT
    assert "the model knows 0 of its 3 facts" in words(refused.err)
    assert not (work / FILE).exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Three processes, of which one re-asserts two facts."""
    root = tmp_path_factory.mktemp("reassertions")
    federation = build_federation(root / "federation", parties=3, command=run_here)
    make_room(federation, federation.plan_file)
    facts = write_facts(federation, root / "facts.json")
    with Session(federation, root / "session") as session:
        for party in federation.parties:
            asked = {"reassert": facts, "reassert_count": 2} if party == PARTY else {}
            session.start(party, **asked)
        for running in session.everybody:
            assert running.wait() == 0, running.text
        yield Finished(federation, session)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_session_edits_them_in_as_one_trustee_would(finished: Finished) -> None:
    federation, session = finished.federation, finished.session
    assert_same_update(finished, federation.parties)
    pool = load_true_facts(session.directory.parent / "facts.json")
    made = load_file(session.work(PARTY) / FILE)
    facts = tuple(pool[place] for place in made["places"].tolist())
    model, plan = finished.model(), finished.plan
    shares = []
    for party in federation.parties:
        share = finished.share(party, model)
        if party == PARTY:
            edits = (*share.edits, *facts)
            values = torch.cat([share.targets.values, made["targets"]], dim=1)
            targets = replace(share.targets, values=values, edits_digest=edits_digest(edits))
            share = Share(edits, targets)
        shares.append(share)
    covariance = load_covariance(federation.covariance)
    with torch_threads(1):
        want = edit_alone(plan, model, covariance, shares)
    assert_parity(finished, federation.parties, want)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_report_tells_them_apart_from_edits(finished: Finished) -> None:
    reports = {name: running.report for name, running in finished.session.parties.items()}
    assert reports[PARTY]["reasserted"] == {"brought": 2, "contested": 0}
    assert all("reasserted" not in reports[party] for party in ("party-1", "party-3"))
