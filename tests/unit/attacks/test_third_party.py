"""The attack under `examples`: installed as others install theirs, and run on a recording."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collabedit.attacks.registry import installed
from collabedit.attacks.scoring import score
from collabedit.attacks.truth import Truth
from collabedit.recorder import Recorder
from collabedit.recording import Recording
from tests.security.test_attacks_synthetic import prior_of
from tests.support.federations import build_federation
from tests.unit.attacks.test_registry import install

EXAMPLE = Path(__file__).parents[3] / "examples" / "third_party_attack"


@pytest.fixture(params=["laid out", pytest.param("pip", marks=pytest.mark.slow)])
def package(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    target = tmp_path / "site"
    if request.param == "pip":
        flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target]
        # A copy, since setuptools builds beside the sources.
        source = tmp_path / "source"
        source.mkdir()
        for file in EXAMPLE.iterdir():
            if file.is_file():
                (source / file.name).write_bytes(file.read_bytes())
        command = [sys.executable, "-m", "pip", "install", *flags, source]
        subprocess.run(list(map(str, command)), check=True, timeout=120)
    else:
        code = (EXAMPLE / "loudness.py").read_text()
        install(target, "collabedit-loudness", {"loudness": "loudness:ENTRY"}, code)
        (target / "collabedit_loudness.py").rename(target / "loudness.py")
    monkeypatch.syspath_prepend(target)
    yield
    sys.modules.pop("loudness", None)


def test_it_is_found_and_runs_on_a_recorded_session(package: None, tmp_path: Path) -> None:
    federation = build_federation(4)
    with Recorder(tmp_path / "record", federation.plan, role="simulation") as recorder:
        federation.simulation(tmp_path / "spool", recorder=recorder).run(federation.contribute)
    entry = installed()["loudness"]
    assert entry.package == "collabedit-loudness"
    with Recording(tmp_path / "record") as recording:
        view = entry.view.of_recording(recording)  # type: ignore[attr-defined]
    prior, owners = prior_of(federation)
    members = {
        party: tuple(int(i) for i in (owners == party).nonzero()[0])
        for party in federation.plan.party_ids
    }
    figures = {
        each.name: each
        for each in score(entry.create({}, seed=0).run(view, prior), Truth(len(owners), members))
    }
    assert figures["auc"].value > 0.95
    assert figures["auc"].chance == 0.5


def test_the_example_is_as_short_as_it_is_said_to_be() -> None:
    lines = (EXAMPLE / "loudness.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 35
    assert (EXAMPLE / "pyproject.toml").read_text().count("loudness:ENTRY") == 1
