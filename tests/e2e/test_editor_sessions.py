"""Whole sessions of every editor: the parties' driver, a coordinator, a model for each party."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.rng import SystemRandomness
from collabedit.demo.methods import relative_errors
from collabedit.editing import EditorName
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId
from collabedit.memory import Memory
from collabedit.party.editing.editor import ModelEditor
from collabedit.party.editing.reassertion import Reassertions
from collabedit.party.items import edit_items
from collabedit.party.member import Member, SessionReport
from collabedit.party.session import run_session
from collabedit.plan import Plan
from tests.support.editors import EDITORS, TinyFederation, tiny_federation
from tests.support.loopback import LoopbackChannel, driven
from tests.support.overlaps import with_overlap


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    torch.set_num_threads(1)
    return tiny_federation(tmp_path_factory.mktemp("tiny"), model_type="gpt2", layers=(1, 2))


def run_sessions(
    federation: TinyFederation,
    plan: Plan,
    editors: Mapping[PartyId, ModelEditor],
    directory: Path,
) -> dict[PartyId, SessionReport]:
    """Run every party's driver to its end; counts overlap if the plan does."""
    coordinator = Coordinator(
        plan, federation.identities[AGGREGATOR], directory=directory, randomness=SystemRandomness()
    )
    failed: dict[PartyId, BaseException] = {}
    reports: dict[PartyId, SessionReport] = {}

    def join(party: PartyId) -> None:
        member = Member(plan, party, federation.identities[party], SystemRandomness())
        own = editors[party]
        try:
            reports[party] = run_session(
                member,
                LoopbackChannel(coordinator, party),
                own,
                items=edit_items(own.edits),
                past_items=edit_items(own.past) if plan.overlap is not None else (),
                reasserted_items=edit_items(own.reassertions.facts) if own.reassertions else (),
            )
        except BaseException as error:  # noqa: BLE001  shown by the test
            failed[party] = error

    with driven(coordinator, patience=30.0):
        threads = [threading.Thread(target=join, args=(party,)) for party in plan.party_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failed
    return reports


@pytest.mark.parametrize("editor", EDITORS)
def test_a_session_edits_every_party_s_model_as_one_trustee_would(
    editor: EditorName, federation: TinyFederation, tmp_path: Path
) -> None:
    plan = federation.plan(editor)
    want = federation.centralised(plan)
    editors = federation.editors(plan)
    before = {party: model.weights_digest() for party, model in federation.models.items()}
    run_sessions(federation, plan, editors, tmp_path)
    for party, own in editors.items():
        got = {layer: own.updates[LayerIndex(layer)].dense() for layer in want}
        errors = relative_errors(got, want)
        assert errors[1] < 1e-8
        assert errors[2] < 1e-7
        assert own.model.weights_digest() != before[party]
        own.rollback()
        assert own.model.weights_digest() == before[party]


def test_a_past_edit_that_somebody_edits_now_is_left_out(
    federation: TinyFederation, tmp_path: Path
) -> None:
    """Party 1 remembers two facts; party 2 edits the first of them now, to something else."""
    plan = with_overlap(
        federation.plan("memit", memory=Memory(weight=2.0, max_edits=2)), "majority"
    )
    editors = federation.editors(plan)
    claimed = replace(editors[PartyId(2)].edits[0], target_new="nothing of the kind")
    own = federation.remembering(1).editors(plan)[PartyId(1)]
    own.past = (claimed, *own.past)
    own.rollback()  # takes up what it was given
    editors[PartyId(1)] = own
    reports = run_sessions(federation, plan, editors, tmp_path)
    claims = {int(party): report.past_claims for party, report in reports.items()}
    assert claims == {1: (1, 0), 2: (), 3: ()}
    assert len({report.digest for report in reports.values()}) == 1
    assert list(own._brought) == list(own.past[1:])
    ((keys, residuals), _) = own.statistics(plan.editing.layers)
    assert keys.shape[1] == residuals.shape[1] + 1
    for editor in editors.values():
        editor.rollback()
    # Without a count of the past ones nothing is left out, and other numbers are refused.
    own.weigh(list(reports[PartyId(1)].decisions))
    assert list(own._brought) == list(own.past)
    with pytest.raises(ValueError, match="argument 2"):
        own.weigh(list(reports[PartyId(1)].decisions), (0,))


def test_a_re_assertion_that_somebody_edits_stands_back(
    federation: TinyFederation, tmp_path: Path
) -> None:
    """Party 1 re-asserts two facts; party 2 edits the first of them, to something else."""
    plan = with_overlap(federation.plan("memit"), "majority")
    editors = federation.first(1).editors(plan)
    share = federation.shares[PartyId(1)]
    own = editors[PartyId(1)]
    targets = replace(share.targets, values=share.targets.values[:, 1:])
    own.reassertions = Reassertions(tuple(share.edits[1:]), targets)
    own.rollback()  # takes up what it was given
    other = editors[PartyId(2)]
    other.edits = (replace(share.edits[1], target_new="nothing of the kind"),)
    other.rollback()
    reports = run_sessions(federation, plan, editors, tmp_path)
    # The edit wins although the re-assertion says otherwise: that is not counted.
    assert [decision.is_kept for decision in reports[PartyId(2)].decisions] == [True]
    claims = {int(party): report.reasserted_claims for party, report in reports.items()}
    assert claims == {1: (1, 0), 2: (), 3: ()}
    assert reports[PartyId(1)].past_claims == ()
    ((_, residuals), _) = own.statistics(plan.editing.layers)
    assert residuals.shape[1] == 2
    for editor in editors.values():
        editor.rollback()
