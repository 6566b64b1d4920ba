"""Whole sessions of every editor: the parties' driver, a coordinator, a model for each party."""

import threading
from pathlib import Path

import pytest
import torch

from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.rng import SystemRandomness
from collabedit.demo.methods import relative_errors
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId
from collabedit.party.member import Member
from collabedit.party.session import run_session
from collabedit.plan import EditorName
from tests.support.editors import EDITORS, TinyFederation, tiny_federation
from tests.support.loopback import LoopbackChannel, driven


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    torch.set_num_threads(1)
    return tiny_federation(tmp_path_factory.mktemp("tiny"), model_type="gpt2", layers=(1, 2))


@pytest.mark.parametrize("editor", EDITORS)
def test_a_session_edits_every_party_s_model_as_one_trustee_would(
    editor: EditorName, federation: TinyFederation, tmp_path: Path
) -> None:
    plan = federation.plan(editor)
    want = federation.centralised(plan)
    editors = federation.editors(plan)
    before = {party: model.weights_digest() for party, model in federation.models.items()}
    coordinator = Coordinator(
        plan, federation.identities[AGGREGATOR], directory=tmp_path, randomness=SystemRandomness()
    )
    failed: dict[PartyId, BaseException] = {}

    def join(party: PartyId) -> None:
        member = Member(plan, party, federation.identities[party], SystemRandomness())
        try:
            run_session(member, LoopbackChannel(coordinator, party), editors[party])
        except BaseException as error:  # noqa: BLE001  shown by the test
            failed[party] = error

    with driven(coordinator, patience=30.0):
        threads = [threading.Thread(target=join, args=(party,)) for party in plan.party_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failed
    for party, own in editors.items():
        got = {layer: own.updates[LayerIndex(layer)].dense() for layer in want}
        errors = relative_errors(got, want)
        assert errors[1] < 1e-8
        assert errors[2] < 1e-7
        assert own.model.weights_digest() != before[party]
        own.rollback()
        assert own.model.weights_digest() == before[party]
