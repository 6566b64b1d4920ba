"""`collabedit audit recorded`: sessions that were recorded, from their files to a report."""

import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from collabedit.audit.results import AuditReport, Row
from collabedit.closed import Closed
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.demo.assets import fetch_demo_model
from collabedit.federation import Coordinator, Party
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.editor import ModelEditor, key_maps, target_settings
from collabedit.party.editing.model import load_model
from collabedit.party.editing.proposal import propose_plan
from collabedit.party.editing.targets import compute_targets
from collabedit.party.edits import load_edits
from collabedit.plan import Plan
from collabedit.recorder import Recorder
from collabedit.recording import FILE, Recording
from collabedit.simulation import Simulation
from collabedit.sketch import Matrix
from tests.e2e.test_audit import report_of, reported_again
from tests.support import processes
from tests.support.guessing import finds_everything
from tests.support.processes import Outcome, run_command, run_here, torch_threads
from tests.support.tiny_models import build_tiny_model

# Each starts processes that import torch, on few and busy cores; tests/unit/audit is fast.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = 600.0
PARTIES = ("party-1", "party-2", "party-3")
SPANS = ("--only", "sum-span", "--only", "update-span")


def facts() -> list[dict[str, Any]]:
    text = files("collabedit.data").joinpath("facts.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def lay_out(place: Path, *, each: int) -> list[object]:
    """Write an edits file of each party; return the options that name them to `simulate`."""
    options: list[object] = []
    for number, name in enumerate(PARTIES):
        path = place / f"{name}.json"
        path.write_text(json.dumps(facts()[number * each : (number + 1) * each]))
        options += ["--edits", path]
    return options


def given(place: Path, *parties: str) -> list[object]:
    return [part for name in parties for part in ("--edits", f"{name}={place / name}.json")]


def audit(place: Path, recordings: list[Path], out: Path, *more: object) -> Outcome:
    return run_command(
        *("audit", "recorded", *recordings, "--model", place / "model"),
        *("--covariance", place / "covariance", "--candidates", 60, "--out", out),
        *("--cache", place / "cache", "--workers", 1, "--threads", 1, *more),
        timeout=LONG,
    )


def rows_of(report: AuditReport) -> dict[str, Row]:
    return {row.attack: row for row in report.rows}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its covariance, three parties' edits, and sessions with open and closed sums."""
    place = tmp_path_factory.mktemp("recorded")
    build_tiny_model("llama", place / "model")
    edits = lay_out(place, each=2)
    run_here(
        *("covariance", "--model", place / "model", "--out", place / "covariance"),
        *("--source", "self-samples", "--layers", "1,2", "--tokens", 512, "--window", 32),
    ).ok()
    for name, kind in (("open", ["--open-sums"]), ("closed", ["--min-edits", 0])):
        run_here(
            *("simulate", "--model", place / "model", *edits, *kind),
            *("--covariance", place / "covariance", "--covariance-weight", 30),
            *("--layers", "1,2", "--record", place / name),
        ).ok()
    return place


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    """The folder of an audit of open sums that ran. Read only."""
    more = ("--only", "attribution", "--only", "differencing", "--only", "grey-box")
    ended = audit(place, [place / "open"], place / "out", *given(place, *PARTIES), *SPANS, *more)
    assert ended.code == 0, ended.err
    return place / "out"


def test_a_report_says_what_was_recorded_and_what_nobody_can_say(done: Path, place: Path) -> None:
    report = report_of(done)
    rows = rows_of(report)
    assert set(rows) == {"attribution", "grey-box", "sum-span", "update-span"}
    for name in ("sum-span", "update-span"):
        found = {metric.name: metric.value for metric in rows[name].metrics}
        assert found["auc"] == found["recall@n"] == 1.0
        assert rows[name].severity == "leaks"
    assert {row.defence for row in report.rows} == {"masked"}
    assert {(row.parties, row.edits, row.draws) for row in report.rows} == {(3, 6, 1)}
    # Open sums are what was deployed here, and no control.
    assert report.defences[0].deployed
    verdicts = {each.adversary: each.severity for each in report.verdicts}
    assert verdicts["honest-aggregator"] == verdicts["recipient"] == "leaks"
    assert any(text.startswith("differencing: recordings of one") for text in report.not_tested)
    with Recording(place / "open") as recording:
        assert report.digests["plan"] == f"sha256:{recording.plan.digest.hex()}"
        assert report.digests["model"] == recording.plan.model.weights
    assert "recording of simulation" in report.digests
    assert "as recorded by simulation" in report.subject


def test_no_file_has_a_text_of_an_edit_or_a_path(done: Path, place: Path) -> None:
    names = ("report.json", "report.html", "recorded.json")
    for kept in (*(done / name for name in names), *(done / "cells").iterdir()):
        text = kept.read_text()
        assert str(place) not in text
        for fact in facts():
            assert fact["requested_rewrite"]["subject"] not in text
            assert fact["requested_rewrite"]["prompt"] not in text
    kept_keys = [*(place / "cache" / "audit" / "keys").iterdir(), place / "cache/audit/key"]
    assert len(kept_keys) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept_keys)


def test_closed_sums_do_not_say_what_open_ones_do(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = audit(place, [place / "closed"], out, *given(place, *PARTIES), *SPANS)
    assert ended.code == 0, ended.err
    rows = rows_of(report_of(out))
    assert rows["update-span"].metrics[0].value == 1.0
    assert not finds_everything(rows["sum-span"])
    assert rows["sum-span"].defence == "closed"
    # No text of an edit was logged, either.
    assert "Eiffel" not in ended.err + ended.out


def test_a_file_less_is_a_question_less(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = (*SPANS, "--only", "attribution")
    ended = audit(place, [place / "open"], out, *given(place, *PARTIES[:2]), *more)
    assert ended.code == 0, ended.err
    report = report_of(out)
    assert set(rows_of(report)) == {"attribution"}
    assert rows_of(report)["attribution"].metrics[0].trials == 4
    (said,) = [text for text in report.not_tested if "sum-span" in text]
    assert said.startswith("sum-span, update-span: it is about the edits of all parties")
    assert "party-3 were not given" in said
    assert any("Questions about the edits of party-3" in text for text in report.not_tested)


def test_a_report_is_made_again_and_held_against_bounds(done: Path, tmp_path: Path) -> None:
    copy = reported_again(done, tmp_path / "out")
    holds = run_here("audit", "check", copy, "--max", "attribution:honest-aggregator=1.0")
    assert holds.code == 0, holds.err
    missed = run_here("audit", "check", copy, "--max", "recall@n:recipient=0.9")
    assert missed.code == 7
    assert "recall@n:recipient is 1 (update-span on masked, 3 parties, 6 edits)" in missed.lines[-1]
    assert run_here("audit", "check", copy).code == 2
    next((copy / "cells").iterdir()).unlink()
    unfinished = run_here("audit", "report", copy)
    assert unfinished.code == 10
    assert "on the recorded session: not run yet" in unfinished.lines[-1]


def test_the_same_recording_elsewhere_gives_the_same_bytes(
    done: Path, place: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(place, elsewhere, ignore=shutil.ignore_patterns("cache", "out", "spool"))
    more = ("--only", "attribution", "--only", "differencing", "--only", "grey-box")
    edits = given(elsewhere, *reversed(PARTIES))
    out = tmp_path / "out"
    ended = audit(elsewhere, [elsewhere / "open" / FILE], out, *edits, *SPANS, *more)
    assert ended.code == 0, ended.err
    for name in ("report.json", "report.html"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def test_what_does_not_fit_is_refused_in_one_line(done: Path, place: Path, tmp_path: Path) -> None:
    def refused(*options: object, recording: str = "open") -> str:
        ended = run_here(
            *("audit", "recorded", place / recording, "--candidates", 60),
            *("--out", tmp_path / "out", "--cache", tmp_path / "cache", *options),
        )
        assert ended.code == 2, ended.err
        assert len(ended.lines) == 1, ended.err
        assert not (tmp_path / "out").exists()
        return ended.lines[0]

    everybody = given(place, *PARTIES)
    model, covariance = ("--model", place / "model"), ("--covariance", place / "covariance")
    build_tiny_model("gpt2", tmp_path / "another")
    assert "is a gpt2 model" in refused(*everybody, *covariance, "--model", tmp_path / "another")
    assert "needs the covariance file sha256:" in refused(*everybody, *model)
    own = run_here(
        *("covariance", "--model", place / "model", "--out", tmp_path / "covariance"),
        *("--source", "self-samples", "--layers", "1,2", "--tokens", 256, "--window", 32),
    )
    assert own.code == 0
    said = refused(*everybody, *model, "--covariance", tmp_path / "covariance")
    assert str(tmp_path / "covariance") in said
    said = refused(*everybody, *model, *covariance, "--only", "guess")
    assert "attack guess is not installed" in said
    said = refused(*everybody, *model, *covariance, "--prior", "vague")
    assert "--prior vague: must be exact or generic" in said
    assert "there is no recording" in refused(*everybody, *model, recording="nowhere")
    (tmp_path / "large.json").write_text(json.dumps(facts()[:3]))
    said = refused("--edits", f"party-2={tmp_path / 'large.json'}", *model, *covariance)
    assert "3 edits, the recorded plan let party-2 bring 2" in said
    taken = run_here(
        *("audit", "recorded", place / "closed", *everybody, *model, *covariance),
        *("--candidates", 60, "--out", done, "--cache", tmp_path / "cache", *SPANS),
    )
    assert taken.code == 2
    assert "holds the audit of a recording of another plan" in taken.lines[-1]


def test_a_session_over_grpc_is_audited_from_its_ends(tmp_path: Path) -> None:
    federation = processes.build_federation(
        tmp_path / "federation", parties=3, command=processes.run_here
    )
    records = tmp_path / "records"
    with processes.Session(
        federation, tmp_path / "session", record=records / "aggregator"
    ) as session:
        session.start("party-1", record=records / "party-1")
        for name in ("party-2", "party-3"):
            session.start(name)
        for party in session.parties.values():
            assert party.wait() == 0, party.text
        assert session.aggregator.wait() == 0, session.aggregator.text
    edits = [
        part for name in PARTIES for part in ("--edits", f"{name}={federation.member(name).edits}")
    ]
    out = tmp_path / "out"
    ended = run_command(
        *("audit", "recorded", records / "aggregator", records / "party-1", *edits),
        *("--model", federation.model, "--covariance", federation.covariance),
        *("--candidates", 60, "--out", out, "--cache", tmp_path / "cache"),
        *("--workers", 1, "--threads", 1, *SPANS, "--only", "counts-and-sizes"),
        timeout=LONG,
    )
    assert ended.code == 0, ended.err
    report = report_of(out)
    assert "as recorded by aggregator, party-1" in report.subject
    assert {"recording of aggregator", "recording of party-1"} <= set(report.digests)
    rows = rows_of(report)
    assert rows["update-span"].metrics[0].value == 1.0
    assert not finds_everything(rows["sum-span"])
    assert rows["counts-and-sizes"].metrics


def record_sessions(place: Path, kinds: Mapping[str, Closed | None]) -> None:
    """Record a session of each kind under its name, on one model with one search for targets.

    `simulate` would measure the model before and after, which takes minutes.
    """
    model = load_model(place / "model", device="cpu")
    covariance = load_covariance(place / "covariance")
    brought = [load_edits(place / f"{name}.json") for name in PARTIES]
    ends = (AGGREGATOR, *range(1, len(PARTIES) + 1))
    keys = {PartyId(end): SigningKey.from_seed(bytes([end + 1]) * 32) for end in ends}
    public = {end: key.verify_key.to_bytes().hex() for end, key in keys.items()}
    randomness = SystemRandomness()
    for name, closed in kinds.items():
        plan = propose_plan(
            model,
            covariance,
            name="real",
            model_name="smollm2-135m-instruct",
            parties=[
                Party(name=party, identity=public[PartyId(number)], max_edits=2)
                for number, party in enumerate(PARTIES, 1)
            ],
            aggregator=Coordinator(name="aggregator", identity=public[AGGREGATOR]),
            layers=(4,),
            randomness=randomness,
            target_steps=3,
            closed=closed,
        )
        maps, templates = key_maps(plan, covariance), plan.editing.context_templates
        settings = target_settings(plan.editing)
        editors = {}
        for party, own in zip(plan.party_ids, brought, strict=True):
            targets = compute_targets(model, own, layer=4, templates=templates, settings=settings)
            editors[party] = ModelEditor(plan, model, own, targets, maps)

        def contribute(
            party: PartyId,
            task: TaskIndex,
            plan: Plan = plan,
            editors: Mapping[PartyId, ModelEditor] = editors,
        ) -> list[tuple[Matrix, Matrix]]:
            return editors[party].statistics(plan.tasks[task])

        with Recorder(place / name, plan, role="simulation") as recorder:
            Simulation(
                plan,
                identities=keys,
                directory=place / f"spool-{name}",
                randomness=dict.fromkeys(keys, randomness),
                recorder=recorder,
            ).run(contribute)


def test_a_recorded_session_on_a_real_model(tmp_path: Path) -> None:
    """Downloads the demo's model, 93 MB, unless it is in the cache."""
    model = fetch_demo_model(Path(__file__).parents[2] / ".cache" / "collabedit")
    (tmp_path / "model").symlink_to(model)
    lay_out(tmp_path, each=2)
    text = files("collabedit.data").joinpath("heldout.txt")
    (tmp_path / "text.txt").write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
    run_here(
        *("covariance", "--model", model, "--out", tmp_path / "covariance", "--layers", "4"),
        *("--source", tmp_path / "text.txt", "--tokens", 2048, "--window", 128),
    ).ok()
    with torch_threads(1):
        record_sessions(tmp_path, {"open": None, "closed": Closed(min_edits=0)})
    rows: dict[tuple[str, str], Row] = {}
    for name in ("open", "closed"):
        out = tmp_path / f"out-{name}"
        ended = audit(tmp_path, [tmp_path / name], out, *given(tmp_path, *PARTIES), *SPANS)
        assert ended.code == 0, ended.err
        rows |= {(row.attack, name): row for row in report_of(out).rows}
    for leaking in (("update-span", "open"), ("update-span", "closed"), ("sum-span", "open")):
        found = {metric.name: metric.value for metric in rows[leaking].metrics}
        assert found["recall@n"] == 1.0
        assert rows[leaking].severity == "leaks"
    assert not finds_everything(rows["sum-span", "closed"])
