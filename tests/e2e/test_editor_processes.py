"""Every editor by the commands that a user would type, each party in a process of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from collabedit.party.editing.covariance import load_covariance
from tests.e2e.test_processes import Finished, assert_parity, assert_same_update, centralised
from tests.support.editors import middle_eigenvalue
from tests.support.processes import LAYERS, Federation, Session, build_federation, run_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def alphaedit(federation: Federation) -> Sequence[object]:
    moments = load_covariance(federation.covariance).matrices
    threshold = middle_eigenvalue(moments)
    return (
        *("--editor", "alphaedit", "--covariance", federation.covariance),
        *("--nullspace-threshold", threshold, "--l2", 2.0),
    )


def emmet(federation: Federation) -> Sequence[object]:
    return (
        *("--editor", "emmet", "--covariance", federation.covariance),
        *("--covariance-weight", 20),
    )


OPTIONS: dict[str, Callable[[Federation], Sequence[object]]] = {
    "ridge": lambda _: ("--editor", "ridge", "--shift", 0.5, "--layers", LAYERS),
    "alphaedit": alphaedit,
    "emmet": emmet,
}


@pytest.mark.parametrize("editor", OPTIONS)
def test_three_processes_edit_as_one_trustee_would(editor: str, tmp_path: Path) -> None:
    federation = build_federation(
        tmp_path / "federation",
        parties=3,
        dtype="float64",
        command=run_here,
        editor=OPTIONS[editor],
    )
    assert federation.plan.editing.editor == editor
    without = {"covariance": None} if federation.plan.editing.covariance is None else {}
    with Session(federation, tmp_path / "session") as session:
        for party in federation.parties:
            session.start(party, **without)
        for running in session.everybody:
            assert running.wait() == 0, running.text
        finished = Finished(federation, session)
        assert_same_update(finished, federation.parties)
        everybody = [federation.parties] * 2
        # Without a ridge nothing damps what the first layer's rounding does to the next one.
        later = 1e-7 if editor == "emmet" else None
        want = centralised(finished, everybody)
        assert_parity(finished, federation.parties, want, later=later)
