"""The dropout matrix: small federations in full, and that the command sees what it is for."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collabedit.errors import UnexpectedMessageError
from collabedit.exchange import TileLayout
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_packet, encode_packet
from collabedit.proto.envelope import sign_message
from collabedit.recording import Delivery
from collabedit.simulation import Faults, Outcome, Simulation
from tests.audit.branching import (
    ENCRYPTED_MOMENTS,
    MOMENTS,
    Case,
    RecordingSimulation,
    transcript_digest,
)
from tests.audit.dropout_matrix import build, build_encrypted, cases_of
from tests.audit.dropouts import Witness, failures
from tests.support.federations import TestFederation
from tests.support.randomness import InsecureTestRandomness

ROOT = Path(__file__).parents[2]
FIRST = TaskIndex(0)


def run_command(
    out: Path, *parties: int, before: str = "", graph: str = "full", backend: str = "masked"
) -> tuple[int, dict[str, Any]]:
    """Run the matrix in a process of its own, as `make dropout-matrix` does."""
    code = f"import sys\n{before}\nfrom tests.audit.dropout_matrix import main\nsys.exit(main())"
    options = ["--out", str(out), "--jobs", "2", "--graphs", graph, "--backends", backend]
    done = subprocess.run(
        [sys.executable, "-c", code, *options, "--parties", *map(str, parties)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.exists(), done.stderr
    return done.returncode, json.loads(out.read_text())


def assert_whole(record: dict[str, Any], *sizes: int) -> None:
    """Every cell is there, once, and each is what it must be."""
    cells = record["cells"]
    assert [cell["failures"] for cell in cells if not cell["ok"]] == []
    for parties in sizes:
        threshold = build(parties, seed=0).plan.threshold
        own = [cell for cell in cells if cell["parties"] == parties]
        counts = Counter((cell["moment"], cell["dropped"]) for cell in own)
        spare = parties - threshold
        assert counts == {(moment, d): 1 for moment in MOMENTS.values() for d in range(spare + 2)}
        for cell in own:
            lost = cell["dropped_parties"]
            assert len(set(lost)) == cell["dropped"]
            left = [party for party in range(1, parties + 1) if party not in lost]
            everybody = list(range(1, parties + 1))
            late = cell["round"] in {"r4", "r5", "r6"}
            if cell["dropped"] <= spare:
                assert cell["outcome"] == "exact"
                assert cell["survivors"] == (everybody if late else left)
                assert cell["applied"] == len(left)
            else:
                assert cell["outcome"] == "aborted: BELOW_THRESHOLD"
                assert cell["sums_opened"] == (cell["round"] == "r6")
                assert cell["applied"] == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    return run_command(tmp_path_factory.mktemp("matrix") / "matrix.json", 3, 5)


def test_every_cell_of_three_and_of_five_parties(small: tuple[int, dict[str, Any]]) -> None:
    status, record = small
    assert status == 0
    assert_whole(record, 3, 5)
    assert record["totals"] == {
        "cells": 45,
        "exact": 27,
        "aborted: BELOW_THRESHOLD": 18,
        "failed": 0,
    }


def assert_encrypted(record: dict[str, Any], parties: int) -> None:
    """The same of encrypted sums: each number of lost parties with the opener and without."""
    cells = record["cells"]
    assert [cell["failures"] for cell in cells if not cell["ok"]] == []
    threshold = build_encrypted(parties, seed=0).plan.threshold
    spare = parties - threshold
    early = [cell for cell in cells if cell["opener_lost"] is None]
    late = [cell for cell in cells if cell["opener_lost"] is not None]
    counts = Counter((cell["moment"], cell["dropped"]) for cell in early)
    moments = [when for name, when in ENCRYPTED_MOMENTS.items() if name < "r4"]
    assert counts == {(moment, d): 1 for moment in moments for d in range(spare + 2)}
    for cell in early:
        left = set(range(1, parties + 1)) - set(cell["dropped_parties"])
        whole = cell["dropped"] <= spare
        assert cell["outcome"] == ("exact" if whole else "aborted: BELOW_THRESHOLD")
        assert cell["survivors"] == (sorted(left) if whole else [])
    ends = {
        (cell["moment"], cell["dropped"], cell["opener_lost"]): (
            cell["outcome"],
            cell["sums_opened"],
            cell["applied"],
        )
        for cell in late
    }
    exact, few, gone = "exact", "aborted: BELOW_THRESHOLD", "aborted: OPENER_GONE"
    expected = {}
    for name, when in ENCRYPTED_MOMENTS.items():
        for d in range(spare + 2) if name >= "r4" else ():
            for opener in (False, True) if d else (False,):
                end: tuple[str, int, int] = (exact, 1, parties - d)
                if opener and name.startswith("r5"):
                    end = gone, 0, 0
                elif d > spare:
                    end = few, name > "r4", 0
                elif opener and name == "r4":
                    end = gone, 0, 0
                expected[when, d, opener] = end
    assert ends == expected
    assert len(late) == len(expected)


def test_every_cell_of_five_parties_with_encrypted_sums(tmp_path: Path) -> None:
    status, record = run_command(tmp_path / "matrix.json", 5, backend="ckks")
    assert status == 0
    assert_encrypted(record, 5)
    assert record["totals"] == {
        "cells": 38,
        "aborted: BELOW_THRESHOLD": 12,
        "aborted: OPENER_GONE": 5,
        "exact": 21,
        "failed": 0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("parties", [3, 10])
def test_every_cell_with_encrypted_sums(parties: int, tmp_path: Path) -> None:
    status, record = run_command(tmp_path / "matrix.json", parties, backend="ckks")
    assert status == 0
    assert_encrypted(record, parties)


@pytest.mark.slow
def test_every_cell_of_ten_parties(tmp_path: Path) -> None:
    status, record = run_command(tmp_path / "matrix.json", 10)
    assert status == 0
    assert_whole(record, 10)


@pytest.mark.slow
def test_every_cell_of_forty_parties_over_the_sparse_graph(tmp_path: Path) -> None:
    status, record = run_command(tmp_path / "matrix.json", 40, graph="sparse")
    assert status == 0
    assert_whole(record, 40)
    (federation,) = record["federations"]
    assert federation["graph"] == "sparse"
    assert federation["degree"] < 39


def tiles(federation: TestFederation) -> int:
    return TileLayout.of(federation.plan, FIRST).tiles


def faults_of(federation: TestFederation, case: Case) -> Faults:
    """Say the same with the simulation's own faults."""
    if case.moment in {"r3-none", "r3-half"}:
        frames = 0 if case.moment == "r3-none" else tiles(federation) // 2
        return Faults(crash_after_frames=dict.fromkeys(case.lost, frames))
    return Faults(crash_before=dict.fromkeys(case.lost, case.moment[:2]))


def test_a_forked_branch_is_byte_for_byte_the_session_that_nothing_forked(
    small: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    federation = build(5, seed=0)
    cells = [cell for cell in small[1]["cells"] if cell["parties"] == 5]
    cases = {(MOMENTS[case.moment], len(case.lost)): case for case in cases_of(federation, seed=0)}
    assert len(cells) == len(cases) == 27
    for number, cell in enumerate(cells):
        case = cases[cell["moment"], cell["dropped"]]
        simulation = federation.simulation(
            tmp_path / str(number), faults=faults_of(federation, case)
        )
        outcome = simulation.run(federation.contribute)
        assert transcript_digest(outcome.transcript) == cell["transcript_sha256"], case


# The command sees what it is for.


@dataclasses.dataclass
class Run:
    """One real session that lost parties, and what the checks say of it."""

    federation: TestFederation
    case: Case
    spool: Path
    simulation: Simulation
    outcome: Outcome
    witness: Witness

    def failures(self) -> list[str]:
        return failures(
            self.federation,
            self.case,
            simulation=self.simulation,
            outcome=self.outcome,
            witness=self.witness,
            spool=self.spool,
        )


def lose(spool: Path, moment: str, *lost: int) -> Run:
    federation = build(5, seed=0)
    case = Case(moment, frozenset(PartyId(party) for party in lost))
    witness = Witness()
    faults = Faults(crash_before=dict.fromkeys(case.lost, moment[:2]))
    plain = federation.simulation(spool, faults=faults)
    plain.coordinator._report.observer = witness.observe
    outcome = plain.run(federation.contribute, witness.apply)
    return Run(federation, case, spool, plain, outcome, witness)


@pytest.fixture
def exact(tmp_path: Path) -> Run:
    run = lose(tmp_path, "r4", 2)
    assert run.failures() == []
    return run


@pytest.fixture
def aborted(tmp_path: Path) -> Run:
    run = lose(tmp_path, "r5", 2, 4)
    assert run.failures() == []
    return run


def test_other_survivors_than_the_right_ones_are_seen(exact: Run) -> None:
    exact.case = dataclasses.replace(exact.case, moment="r2")
    found = " ".join(exact.failures())
    assert "survivors [1, 2, 3, 4, 5]" in found
    assert "elements of the sum are wrong" in found
    assert "relative error" in found


def test_one_wrong_element_of_the_sum_is_seen(exact: Run) -> None:
    total = exact.outcome.sums[FIRST].copy()
    total[3] += 1
    exact.outcome = dataclasses.replace(exact.outcome, sums={FIRST: total})
    assert exact.failures() == [f"1 of {len(total)} elements of the sum are wrong"]


def test_a_wrong_update_at_one_party_is_seen(exact: Run) -> None:
    exact.witness.applied[PartyId(3)] = exact.witness.applied[PartyId(3)] * (1 + 1e-8)
    (found,) = exact.failures()
    assert found.startswith("party 3: relative error 1.0e-08")


def test_an_update_applied_by_a_lost_party_is_seen(exact: Run) -> None:
    exact.witness.applied[PartyId(2)] = exact.witness.applied[PartyId(3)]
    assert exact.failures() == ["[1, 2, 3, 4, 5] applied, must be [1, 3, 4, 5]"]


def test_files_and_refusals_that_should_not_be_are_seen(exact: Run) -> None:
    (exact.spool / "left.tiles").write_bytes(b"x")
    refusals = ((PartyId(1), UnexpectedMessageError("x")),)
    exact.outcome = dataclasses.replace(exact.outcome, refusals=refusals)
    assert exact.failures() == [
        "1 messages were refused though nobody lied",
        "spool files are left",
    ]


def test_any_file_after_nothing_was_opened_is_seen(aborted: Run) -> None:
    (aborted.spool / "left").write_bytes(b"x")
    assert aborted.failures() == ["spool files are left"]


def test_a_session_that_should_have_gone_on_is_seen(aborted: Run) -> None:
    aborted.case = dataclasses.replace(aborted.case, lost=frozenset([PartyId(2)]))
    assert "the session ended with" in aborted.failures()[0]


def test_a_sum_that_was_opened_before_an_abort_is_seen(aborted: Run) -> None:
    length = aborted.federation.plan.task_length(FIRST)
    aborted.witness.events.append("opened")
    sums = {FIRST: np.zeros(length, dtype=np.uint64)}
    aborted.outcome = dataclasses.replace(aborted.outcome, sums=sums)
    assert "1 sums were opened, must be 0" in aborted.failures()


def lose_encrypted(spool: Path, moment: str, *lost: int) -> Run:
    federation = build_encrypted(5, seed=0)
    case = Case(moment, frozenset(PartyId(party) for party in lost))
    witness = Witness()
    recording = RecordingSimulation(
        federation.plan,
        identities=federation.identities,
        directory=spool,
        randomness={
            party: InsecureTestRandomness(party)
            for party in (AGGREGATOR, *federation.plan.party_ids)
        },
        faults=Faults(crash_before=dict.fromkeys(case.lost, moment[:2])),
        observer=witness.observe,
    )
    outcome = recording.run(federation.statistics, witness.apply)
    return Run(federation, case, spool, recording, outcome, witness)


def test_one_wrong_element_of_an_encrypted_sum_is_seen(tmp_path: Path) -> None:
    run = lose_encrypted(tmp_path, "r4", 2)
    assert run.failures() == []
    total = run.outcome.sums[FIRST].copy()
    total[3] += 1
    run.outcome = dataclasses.replace(run.outcome, sums={FIRST: total})
    assert run.failures() == [f"1 of {len(total)} elements of the sum are wrong"]


def test_a_second_opener_and_another_culprit_are_seen(tmp_path: Path) -> None:
    run = lose_encrypted(tmp_path, "r5", 1)
    run.case = dataclasses.replace(run.case, moment="r5-none")
    assert run.failures() == []
    packets = [each for each in run.outcome.transcript if each.kind == "packet"]
    offer = next(
        each for each in packets if decode_packet(each.data).envelope.kind == m.KINDS[m.OfferSum]
    )
    second = dataclasses.replace(offer, receiver=PartyId(2))
    transcript = (*run.outcome.transcript, second)
    assert run.outcome.aborted is not None
    blamed = dataclasses.replace(run.outcome.aborted, culprit=PartyId(2))
    run.outcome = dataclasses.replace(run.outcome, transcript=transcript, aborted=blamed)
    assert run.failures() == [
        "party 2 is blamed, not 1",
        "the sum was offered to [1, 2], its opener is 1",
    ]


@pytest.mark.parametrize(
    ("sender", "message", "said"),
    [
        (4, m.Unmask({}), "4 parties revealed shares, enough to open the sum"),
        (0, m.Release(bytes(32), 1, bytes(32)), "an update was released"),
    ],
)
def test_what_left_before_an_abort_is_seen(
    sender: int, message: m.Message, said: str, aborted: Run
) -> None:
    setup = aborted.simulation.coordinator._setup
    envelope = sign_message(
        message,
        context=setup.context,
        sender=PartyId(sender),
        key=aborted.federation.identities[PartyId(sender)],
    )
    receiver = PartyId(1) if sender == AGGREGATOR else AGGREGATOR
    data = encode_packet(m.Packet(envelope))
    more = Delivery(PartyId(sender), receiver, FIRST, "packet", data)
    transcript = (*aborted.outcome.transcript, more)
    aborted.outcome = dataclasses.replace(aborted.outcome, transcript=transcript)
    assert aborted.failures() == [said]


def test_shares_and_frames_that_left_too_early_are_seen(aborted: Run) -> None:
    aborted.case = dataclasses.replace(aborted.case, moment="r2")
    assert aborted.failures() == [
        "3 parties revealed shares before they were asked",
        f"{5 * tiles(aborted.federation)} frames were uploaded",
    ]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("import tests.audit.dropouts as d; d.RELATIVE_ERROR = 0.0", "relative error"),
        ("import tests.audit.dropouts as d; d.failures = None", "TypeError"),
        (
            "import os; import tests.audit.dropouts as d; d.failures = lambda *a, **k: os._exit(9)",
            "the branch ended with status 9",
        ),
    ],
    ids=["a check that fails", "a check that breaks", "a process that dies"],
)
def test_a_failed_cell_fails_the_command(before: str, said: str, tmp_path: Path) -> None:
    status, record = run_command(tmp_path / "matrix.json", 3, before=before)
    assert status == 1
    assert record["totals"]["failed"] > 0
    failed = [cell for cell in record["cells"] if not cell["ok"]]
    assert {cell["outcome"] for cell in failed} == {"failed"}
    assert all(said in cell["failures"][0] for cell in failed)
