"""Several processes of one party, started by `torchrun`: same numbers, one voice, one end."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.model import load_model
from tests.support import failing_rank, rank_statistics
from tests.support.known_facts import known_facts
from tests.support.processes import (
    GENERAL_TEXT,
    Federation,
    Outcome,
    environment,
    own_edits,
    run_here,
)

LIMIT_SECONDS = 120.0
PROGRAM = ("-m", "collabedit")


def launch(
    *arguments: object, ranks: int = 2, program: tuple[object, ...] = PROGRAM, fails: str = ""
) -> Outcome:
    """Run a command as `ranks` processes, with one thread each as `run_here` has."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(ranks), *map(str, (*program, *arguments))),
        ],
        env={**environment(), "OMP_NUM_THREADS": "1", "RANK_FAILS": fails},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def own_errors(outcome: Outcome) -> list[str]:
    return [line for line in outcome.lines if line.startswith("error: ")]


def gather(federation: Federation, out: Path, source: Path) -> list[object]:
    return [
        *("covariance", "--model", federation.model, "--out", out, "--layers", "1,3"),
        *("--source", source, "--tokens", 2000, "--window", 50, "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "general.txt"
    path.write_text(GENERAL_TEXT * 12)
    return path


@pytest.mark.slow
def test_two_ranks_gather_the_covariance_of_one(
    federation: Federation, source: Path, tmp_path: Path
) -> None:
    printed = [
        launch(*gather(federation, tmp_path / name, source)).ok() for name in ("two", "again")
    ]
    one = run_here(*gather(federation, tmp_path / "one", source)).ok()
    alone, shared = (load_covariance(tmp_path / name) for name in ("one", "two"))
    assert one == f"sha256:{alone.digest()}"
    # Printed once, and the same for the same number of ranks.
    assert printed == [f"sha256:{shared.digest()}"] * 2
    assert (shared.tokens, shared.provenance) == (alone.tokens, alone.provenance)
    for layer, matrix in alone.matrices.items():
        error = np.abs(shared.matrices[layer] - matrix).max()
        assert error <= 1e-12 * np.abs(matrix).max()


@pytest.mark.slow
def test_three_ranks_share_text_that_the_model_writes(
    federation: Federation, tmp_path: Path
) -> None:
    command = [*gather(federation, tmp_path / "three", Path("self-samples"))]
    command[command.index(2000)] = 300
    launch(*command, ranks=3).ok()
    command[command.index(tmp_path / "three")] = tmp_path / "one"
    run_here(*command).ok()
    alone, shared = (load_covariance(tmp_path / name) for name in ("one", "three"))
    for layer, matrix in alone.matrices.items():
        assert np.abs(shared.matrices[layer] - matrix).max() <= 1e-12 * np.abs(matrix).max()


@pytest.mark.slow
def test_two_ranks_get_the_targets_and_statistics_of_one(
    federation: Federation, tmp_path: Path
) -> None:
    edits = tmp_path / "edits.json"
    edits.write_text(json.dumps(own_edits(1, 5)))
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(known_facts(load_model(federation.model), 5)))
    paths = [federation.plan_file, federation.model, federation.covariance, edits, facts]
    program = (rank_statistics.__file__,)
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, *program, *paths, tmp_path / "one"],
        env={**environment(), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=LIMIT_SECONDS,
        cwd=root,
    )
    launch(*paths, tmp_path / "two", program=program).ok()
    with np.load(tmp_path / "two.0.npz") as first, np.load(tmp_path / "two.1.npz") as second:
        for name in first:
            assert np.array_equal(first[name], second[name])
    with np.load(tmp_path / "one.0.npz") as alone, np.load(tmp_path / "two.0.npz") as shared:
        assert set(alone) == set(shared)
        assert alone["facts"] == shared["facts"] == 3
        # Five edits at two ranks: a batch of three and one of two instead of one of five.
        np.testing.assert_allclose(shared["targets"], alone["targets"], rtol=0, atol=1e-4)
        for name in alone:
            if name.startswith("keys"):
                assert np.array_equal(shared[name], alone[name])
        for name in [name for name in alone if name.startswith("residuals")]:
            moved = shared["targets"].astype(np.float64) - alone["targets"]
            change = shared[name] - alone[name]
            assert np.abs(change).max() <= np.abs(moved).max() + 1e-10
    assert stat.S_IMODE((tmp_path / "two.reassertions").stat().st_mode) == 0o600


@pytest.mark.slow
def test_prepare_leaves_targets_that_join_takes(federation: Federation, tmp_path: Path) -> None:
    command: list[object] = [
        *("party", "prepare", "--plan", federation.plan_file, "--name", "party-1"),
        *("--model", federation.model, "--edits", federation.member("party-1").edits),
        *("--device", "cpu", "--work", tmp_path / "work"),
    ]
    made = launch(*command)
    assert made.code == 0, made.err
    assert made.err.count("targets are in") == 1
    again = run_here(*command)
    assert again.code == 0
    assert "using the targets in" in again.err
    shared = launch(*command)
    assert shared.code == 0, shared.err
    assert shared.err.count("using the targets in") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("1 killed", "rank 1 of 2 ended without a word"),
        ("0 killed", "rank 0 of 2 ended without a word"),
        ("1 refuses", "rank 1 of 2: the numbers refuse"),
        ("1 raises", "rank 1 of 2: ValueError at "),
    ],
)
def test_a_rank_that_fails_ends_all_in_one_line(
    federation: Federation, source: Path, tmp_path: Path, fails: str, said: str
) -> None:
    started = time.monotonic()
    outcome = launch(
        *gather(federation, tmp_path / "out", source),
        program=(failing_rank.__file__,),
        fails=fails,
    )
    assert outcome.code != 0
    assert time.monotonic() - started < 60
    (line,) = own_errors(outcome)
    assert line.startswith(f"error: {said}")
    assert failing_rank.SECRET not in outcome.err
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_all_refuse_is_said_once(federation: Federation, tmp_path: Path) -> None:
    gone = launch("covariance", "--model", tmp_path / "none", "--out", tmp_path / "out")
    (line,) = own_errors(gone)
    assert "is no model directory" in line
    assert gone.code != 0
    for command in (["demo"], ["party", "memory"], ["party", "join"]):
        (line,) = own_errors(launch(*command))
        assert line.endswith(f"{command[-1]}: is no command for several processes: start it alone")
    usage = launch("covariance", "--modl", tmp_path)
    assert usage.err.count("No such option") == 1


def test_one_process_of_torchrun_is_one_process(
    federation: Federation, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run_here(*gather(federation, tmp_path / "plain", source)).ok()
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert run_here(*gather(federation, tmp_path / "one", source)).ok() == plain


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "collabedit", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.stdout.startswith("collabedit ")
    assert os.linesep in done.stdout
