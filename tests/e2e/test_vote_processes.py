"""Votes by the commands that a user would type, each party in a process of its own.

The tiny model knows a text, and what the parties' edits say before they change it. On so small a
model few edits hold: one of each party's two or three, but none of party 2's. Honest edits move the
text's perplexity by a factor of 3, the poison by more than 50.
"""

import threading
from pathlib import Path

import pytest

from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import read_signing_key
from collabedit.errors import AbortReason, SessionAbortedError
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.editor import (
    edited_layers,
    key_maps,
    load_plan_model,
    target_settings,
)
from collabedit.party.editing.targets import compute_targets
from collabedit.party.edits import load_edits
from collabedit.party.member import Member
from collabedit.party.session import run_session
from tests.support.editors import PoisonEditor
from tests.support.processes import (
    AGGREGATOR_NAME,
    GENERAL_TEXT,
    Federation,
    Session,
    build_federation,
    own_edits,
    run_here,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARTIES = ("party-1", "party-2", "party-3", "party-4")


def said_before(party: int) -> str:
    """What the model believes of a party's edits."""
    rewrites = [record["requested_rewrite"] for record in own_edits(party, 2 + party % 2)]
    return "\n".join(
        f"{rewrite['prompt'].format(rewrite['subject'])} {rewrite['target_true']['str']}."
        for rewrite in rewrites
    )


def federation(directory: Path, *, votes: int = 3, efficacy: float = 0.0) -> Federation:
    lessons = "\n".join([GENERAL_TEXT, *(said_before(party) for party in range(1, 5))] * 2)
    return build_federation(
        directory,
        parties=4,
        command=run_here,
        lessons=lessons,
        editor=lambda federation: (
            *("--covariance", federation.covariance, "--covariance-weight", 20),
            *("--votes", votes, "--efficacy", efficacy),
            *("--neighbourhood-drop", 1.0, "--perplexity-ratio", 10.0),
        ),
    )


def texts(directory: Path, party: int) -> Path:
    path = directory / f"text-{party}.txt"
    path.write_text("\n".join([said_before(4) if party == 4 else GENERAL_TEXT] * 8))
    return path


@pytest.mark.parametrize("votes", [3, 4])
def test_one_that_rejects_is_overruled_or_enough(votes: int, tmp_path: Path) -> None:
    made = federation(tmp_path / "federation", votes=votes, efficacy=0.25)
    model = {path.name: path.read_bytes() for path in made.model.iterdir()}
    kept = votes == 3
    with Session(made, tmp_path / "session") as session:
        for number, party in enumerate(PARTIES, 1):
            session.start(party, assessment_text=texts(tmp_path, number))
        for running in session.everybody:
            assert running.wait() == (0 if kept else 5), running.text
        expected = dict.fromkeys(PARTIES, "accept") | {"party-2": "own-edits"}
        assert session.aggregator.report["votes"] == expected
        assert session.aggregator.report["aborted"] == (None if kept else "UPDATE_REJECTED")
        for party in PARTIES:
            work = session.work(party)
            assert (work / "update.safetensors").exists() is kept
            assert session.checkpoint(party).exists() is kept
            assert not (work / "journal" / "session.journal").exists()
            (assessed,) = [
                event for event in session.parties[party].events if event["event"] == "assessed"
            ]
            assert assessed["vote"] == expected[party]
            if kept:
                last = session.parties[party].report["tasks"][-1]
                assert last["votes"] == expected
                assert last["assessment"]["after"] == assessed["after"]
            else:
                assert "party-2 own-edits" in session.parties[party].text
        # What party 4 measured, and on what, is nowhere but there.
        measured = session.parties["party-4"].events
        (own,) = [event for event in measured if event["event"] == "assessed"]
        public = session.aggregator.text + "".join(
            session.parties[party].text for party in PARTIES[:3]
        )
        for number in (own["before"]["perplexity"], own["after"]["perplexity"]):
            assert str(number) not in public
            assert str(number) in session.parties["party-4"].text
        assert said_before(4).split("\n")[0] not in public + session.parties["party-4"].text
    assert {path.name: path.read_bytes() for path in made.model.iterdir()} == model


def test_a_poisoned_update_is_rejected_by_processes(tmp_path: Path) -> None:
    made = federation(tmp_path / "federation")
    plan, poisoner = made.plan, made.member("party-4")
    party = plan.party_id("party-4")
    edits = load_edits(poisoner.edits)
    model = load_plan_model(plan, made.model, device="cpu")
    targets = compute_targets(
        model,
        edits,
        layer=edited_layers(plan.editing)[-1],
        templates=plan.editing.context_templates,
        settings=target_settings(plan.editing),
    )
    maps = key_maps(plan, load_covariance(made.covariance))
    editor = PoisonEditor(plan, model, edits, targets, maps, text=GENERAL_TEXT)
    before = model.weights_digest()
    errors: list[BaseException] = []
    with Session(made, tmp_path / "session") as session:
        for name in PARTIES[:3]:
            session.start(name, assessment_text=texts(tmp_path, 1))
        tls = ClientTls(
            poisoner.certificate.read_bytes(),
            poisoner.tls_key.read_bytes(),
            made.authority.read_bytes(),
        )
        channel = GrpcChannel(
            f"127.0.0.1:{session.port}", tls=tls, server_name=AGGREGATOR_NAME, poll_seconds=1.0
        )
        member = Member(plan, party, read_signing_key(poisoner.identity), SystemRandomness())

        def poison() -> None:
            try:
                run_session(member, channel, editor)
            except BaseException as error:  # noqa: BLE001  looked at below
                errors.append(error)

        thread = threading.Thread(target=poison)
        thread.start()
        for running in session.everybody:
            assert running.wait() == 5, running.text
        thread.join(60)
        votes = session.aggregator.report["votes"]
        assert {votes[name] for name in PARTIES[:3]} == {"perplexity"}
        for name in PARTIES[:3]:
            assert "UPDATE_REJECTED" in session.parties[name].text
            assert not (session.work(name) / "update.safetensors").exists()
            assert not session.checkpoint(name).exists()
    (error,) = errors
    assert isinstance(error, SessionAbortedError)
    assert error.reason is AbortReason.UPDATE_REJECTED
    assert model.weights_digest() == before
