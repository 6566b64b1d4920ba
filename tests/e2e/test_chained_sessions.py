"""Sessions that continue each other, by the commands that a user would type, real processes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collabedit.api.memory import OwnMemory
from collabedit.demo.methods import Share, edit_alone
from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.editor import (
    edited_layers,
    load_plan_model,
    start_weights,
    target_settings,
)
from collabedit.party.editing.targets import load_targets, settings_digest
from collabedit.party.editing.updates import load_update
from collabedit.party.edits import Edit, edits_digest, load_edits
from collabedit.plan import Plan
from tests.support.crashes import CrashError
from tests.support.processes import (
    AGGREGATOR_NAME,
    TIMING,
    Federation,
    Session,
    build_federation,
    edit_plan,
    record,
    run_here,
    torch_threads,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CANARY = "Xylocanth"
PARTIES = ("party-1", "party-2", "party-3")
MEMORY = ("--memory", 6, "--memory-weight", 4)


def round_edits(number: int) -> list[list[dict[str, Any]]]:
    """Two new edits of each party; in the third round party-1 changes its mind about its first."""
    edits = [
        [
            record(
                100 * number + 10 * party + index,
                f"{CANARY} {party}{number}{index}",
                ("{} plays the", "{} was born in")[index],
                ("piano", "Tokyo")[index],
                ("guitar", "Rome")[index],
            )
            for index in range(2)
        ]
        for party in (1, 2, 3)
    ]
    if number == 3:
        edits[0][0] = record(999, f"{CANARY} 110", "{} plays the", "drum", "piano")
    return edits


@dataclass
class Chain:
    """Rounds of one federation; each party keeps its memory and its key in one place."""

    federation: Federation
    directory: Path
    updates: list[Path] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    reports: list[Mapping[str, Mapping[str, Any]]] = field(default_factory=list)

    def options(self, party: str, **changes: object) -> dict[str, object]:
        home = self.directory / f"{party}-home"
        home.mkdir(exist_ok=True)
        return {
            "memory": home / "memory.sealed",
            "journal-key": home / "journal.key",
            "previous": list(self.updates),
            **changes,
        }

    def prepare(self, number: int) -> None:
        """Write a round's edits and, but for the first, its plan."""
        federation = self.federation
        for party, edits in zip(PARTIES, round_edits(number), strict=True):
            federation.member(party).edits.write_text(json.dumps(edits))
        if number > 1:
            old = federation.plan
            members = [
                f"--party={party.name}:{party.identity}:{party.max_edits}"
                for party in old.federation.parties
            ]
            federation.plan_file.unlink()
            run_here(
                *("plan", "new", "--out", federation.plan_file, "--name", f"round-{number}"),
                *("--model", federation.model, "--dtype", old.model.dtype),
                *("--aggregator", f"{AGGREGATOR_NAME}:{old.federation.aggregator.identity}"),
                *(*members, "--covariance", federation.covariance, "--covariance-weight", 20),
                *(*MEMORY, "--min-edits", 0),
                *(text for path in self.updates for text in ("--previous", path)),
            ).ok()
            # Whoever was refused has been in contact, and must be back before it counts as gone.
            patient = {**TIMING, "liveness": 60.0}
            edit_plan(federation.plan_file, timing=patient, aggregation={"tile_bytes": 4096})
        self.plans.append(federation.plan)

    def run(self, number: int) -> None:
        with Session(self.federation, self.directory / f"session-{number}") as session:
            for party in PARTIES:
                session.start(party, **self.options(party))
            for running in session.everybody:
                assert running.wait() == 0, running.text
            self.reports.append({party: session.parties[party].report for party in PARTIES})
            self.updates.append(session.work("party-1") / "update.safetensors")

    def share(self, number: int, party: str, past: Sequence[Edit]) -> Share:
        """A party's edits of a round, and the targets that its process computed."""
        plan = self.plans[number - 1]
        edits = _as_edits(self.directory, round_edits(number)[PARTIES.index(party)])
        model = self.model(number)
        targets = load_targets(
            self.directory / f"session-{number}" / party / "targets.safetensors",
            edits_digest=edits_digest(edits),
            settings_digest=settings_digest(
                model,
                layer=edited_layers(plan.editing)[-1],
                templates=plan.editing.context_templates,
                settings=target_settings(plan.editing),
                weights=start_weights(plan),
            ),
        )
        return Share(edits, targets, tuple(past))

    def model(self, number: int) -> Any:  # noqa: ANN401  an EditableModel
        return load_plan_model(
            self.plans[number - 1],
            self.federation.model,
            device="cpu",
            previous=self.updates[: number - 1],
        )


def _as_edits(directory: Path, records: Sequence[Mapping[str, Any]]) -> tuple[Edit, ...]:
    path = directory / "read.json"
    path.write_text(json.dumps(records))
    edits = load_edits(path)
    path.unlink()
    return edits


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Two finished rounds, and the plan of the third."""
    root = tmp_path_factory.mktemp("chain")
    federation = build_federation(
        root / "federation",
        parties=3,
        model_type="gpt2",
        dtype="float64",
        edits=round_edits(1),
        command=run_here,
        editor=lambda own: (
            *("--covariance", own.covariance, "--covariance-weight", 20),
            *MEMORY,
        ),
    )
    made = Chain(federation, root)
    for number in (1, 2):
        made.prepare(number)
        made.run(number)
    made.prepare(3)
    return made


def test_whoever_has_another_history_is_refused(chain: Chain, tmp_path: Path) -> None:
    first, second = chain.updates
    assert chain.plans[2].model.previous == tuple(
        load_update(path, weights=chain.plans[2].model.weights).session for path in (first, second)
    )
    for given, said in (
        ([], "the plan continues 2 sessions, and 0 updates are given: add --previous with that of"),
        ([first], "1 updates are given"),
        ([second, first], "is the update of session 2 of the plan's history, given as number 1"),
        ([first, second, second], "is one update too many"),
    ):
        outcome = run_here(
            *chain.federation.join_options(
                "party-2",
                work=tmp_path / "work",
                port=9,
                **chain.options("party-2", previous=given),
            )
        )
        assert outcome.code == 2
        assert len(outcome.lines) == 1
        assert said in outcome.lines[0]
        assert not re.search(CANARY, outcome.err)


def test_three_rounds_equal_one_trustee_and_a_stale_party_stays_out(chain: Chain) -> None:
    stale = chain.directory / "stale.toml"
    stale.write_text(chain.plans[1].to_toml())
    with Session(chain.federation, chain.directory / "session-3") as session:
        # Another history is another plan, and another plan does not get in.
        options = chain.federation.join_options(
            "party-2",
            work=chain.directory / "stale",
            port=session.port,
            **chain.options("party-2", plan=stale, previous=chain.updates[:1], memory=None),
        )
        options += ["--memory", str(chain.directory / "stale" / "memory.sealed")]
        outcome = run_here(*options)
        assert outcome.code == 5, outcome.err
        (line,) = [line for line in outcome.lines if line.startswith("error")]
        assert "PLAN_MISMATCH" in line
        for party in PARTIES:
            session.start(party, **chain.options(party))
        for running in session.everybody:
            assert running.wait() == 0, running.text
        reports = {party: session.parties[party].report for party in PARTIES}
        updates = {
            party: load_update(
                session.work(party) / "update.safetensors", weights=chain.plans[2].model.weights
            )
            for party in PARTIES
        }
    # What is brought: everything but the fact that party-1 writes anew.
    nothing = {"brought": 0, "superseded": 0, "left_out": 0, "contested": 0}
    assert [report["past"] for report in chain.reports[0].values()] == [nothing] * 3
    assert reports["party-1"]["past"] == {**nothing, "brought": 3, "superseded": 1}
    assert reports["party-2"]["past"] == {**nothing, "brought": 4}
    shares = []
    for place, party in enumerate(PARTIES):
        past = _as_edits(
            chain.directory, [*round_edits(2)[place], *round_edits(1)[place][party == "party-1" :]]
        )
        shares.append(chain.share(3, party, past))
    covariance = load_covariance(chain.federation.covariance)
    with torch_threads(1):
        want = edit_alone(chain.plans[2], chain.model(3), covariance, shares)
    for saved in updates.values():
        assert saved.previous == chain.plans[2].model.previous
        for layer, update in want.items():
            got = saved.updates[layer].dense()  # type: ignore[index]
            assert np.linalg.norm(got - update) < 1e-8 * np.linalg.norm(update)

    # By the other commands: the memory, the model with its whole history, and no text in clear.
    for party in PARTIES:
        home = chain.directory / f"{party}-home"
        own = ["--work", home]
        listed = run_here("party", "memory", "list", *own).ok().splitlines()
        assert [line.split()[1:] for line in listed] == [
            ["2", "processes"],
            ["2", "round-2"],
            ["2", "round-3"],
        ]
    third = chain.directory / "session-3" / "party-1" / "update.safetensors"
    edits = chain.federation.member("party-1").edits
    evaluated = json.loads(
        run_here(
            *("evaluate", "--model", chain.federation.model, "--edits", edits, "--json"),
            *("--dtype", "float64", "--device", "cpu"),
            *(text for path in (*chain.updates, third) for text in ("--previous", path)),
        ).ok()
    )
    checkpoint = chain.directory / "session-3" / "party-1-edited"
    plainly = json.loads(
        run_here(
            *("evaluate", "--model", checkpoint, "--edits", edits, "--json"),
            *("--dtype", "float64", "--device", "cpu"),
        ).ok()
    )
    assert evaluated == plainly
    applied = chain.directory / "applied"
    run_here(
        *("party", "apply", "--plan", chain.federation.plan_file),
        *("--model", chain.federation.model, "--update", third, "--output", applied),
        *(text for path in chain.updates for text in ("--previous", path)),
    ).ok()
    assert (applied / "model.safetensors").read_bytes() == (
        checkpoint / "model.safetensors"
    ).read_bytes()
    for path in chain.directory.rglob("*"):
        if path.is_file() and chain.federation.directory not in path.parents:
            assert CANARY.encode() not in path.read_bytes(), path


def test_the_owner_can_read_and_forget(chain: Chain, tmp_path: Path) -> None:
    home = chain.directory / "party-3-home"
    for name in ("memory.sealed", "journal.key"):
        copy = tmp_path / name
        copy.write_bytes((home / name).read_bytes())
        copy.chmod(0o600)
    own = ["--work", tmp_path]
    sessions = [
        line.split()[0] for line in run_here("party", "memory", "list", *own).ok().splitlines()
    ]
    out = tmp_path / "past.json"
    run_here("party", "memory", "export", *own, "--out", out, "--session", sessions[0]).ok()
    assert load_edits(out) == _as_edits(tmp_path, round_edits(1)[2])
    assert out.stat().st_mode & 0o777 == 0o600
    run_here("party", "memory", "forget", sessions[0], *own).ok()
    left = run_here("party", "memory", "list", *own).ok().splitlines()
    assert [line.split()[0] for line in left] == sessions[1:]
    again = run_here("party", "memory", "forget", sessions[0], *own)
    assert again.code == 8
    assert f"remembers nothing of session {sessions[0]}" in again.lines[0]


def test_a_party_that_dies_before_it_remembers_does_so_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    federation = build_federation(
        tmp_path / "federation",
        parties=3,
        command=run_here,
        editor=lambda _: ("--editor", "ridge", "--shift", 0.5, "--layers", "1", "--memory", 4),
    )
    true = OwnMemory.remember

    def die_before(*arguments: Any) -> None:  # noqa: ANN401  as `remember` has them
        del arguments
        raise CrashError

    def die_after(*arguments: Any) -> None:  # noqa: ANN401
        true(*arguments)
        raise CrashError

    with Session(federation, tmp_path / "session") as session:
        for party in PARTIES[1:]:
            session.start(party, covariance=None)
        work = tmp_path / "session" / "party-1"
        options = federation.join_options(
            "party-1", work=work, port=session.port, covariance=None, threads=1
        )
        monkeypatch.setattr(OwnMemory, "remember", die_before)
        with pytest.raises(CrashError):
            run_here(*options)
        for running in session.everybody:
            assert running.wait() == 0, running.text
    assert not (work / "memory.sealed").exists()
    weights = federation.plan.model.weights
    before = load_update(work / "update.safetensors", weights=weights)
    monkeypatch.setattr(OwnMemory, "remember", die_after)
    with pytest.raises(CrashError):
        run_here(*options)
    assert not (work / "report.json").exists()
    monkeypatch.setattr(OwnMemory, "remember", true)
    run_here(*options).ok()
    assert (work / "report.json").exists()
    after = load_update(work / "update.safetensors", weights=weights)
    assert after.session == before.session
    listed = run_here("party", "memory", "list", "--work", work).ok().splitlines()
    assert [line.split() for line in listed] == [[after.session, "3", "processes"]]
    assert not list((work / "journal").glob("session*"))
