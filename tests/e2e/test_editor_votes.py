"""Votes of real editors on a model that knows a text: kept, poisoned, and taken back bit by bit.

Four parties, threshold 3, the parties' driver and a coordinator, a model for each party. The model
was trained on a text, so that an update which wrecks it shows in the perplexity.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from collabedit.acceptance import Acceptance, Vote
from collabedit.aggregator import states as a
from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import AbortReason, SessionAbortedError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.party.member import Editor, Member, SessionReport
from collabedit.party.session import run_session
from collabedit.plan import Plan
from tests.support.editors import PoisonEditor, TinyFederation, tiny_federation
from tests.support.loopback import LoopbackChannel, driven
from tests.support.processes import GENERAL_TEXT

POISONER = PartyId(4)
ASKED = Acceptance(votes=3, efficacy=0.0, neighbourhood_drop=1.0, perplexity_ratio=2.0)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TinyFederation:
    torch.set_num_threads(1)
    return tiny_federation(
        tmp_path_factory.mktemp("tiny"), parties=4, layers=(1, 2), lessons=GENERAL_TEXT
    )


@dataclass
class Held:
    """A session of everybody, and how it ended."""

    plan: Plan
    federation: TinyFederation
    directory: Path
    poisoned: bool = False
    texts: dict[PartyId, str] = field(default_factory=dict)
    reports: dict[PartyId, SessionReport] = field(default_factory=dict)
    errors: dict[PartyId, BaseException] = field(default_factory=dict)

    def run(self) -> "Held":
        self.coordinator = Coordinator(
            self.plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory,
            randomness=SystemRandomness(),
        )
        self.editors = self.federation.editors(self.plan)
        if self.poisoned:
            own = self.editors[POISONER]
            self.editors[POISONER] = PoisonEditor(
                own.plan, own.model, own.edits, own.targets, own.maps
            )
        for party, editor in self.editors.items():
            editor.text = self.texts.get(party, GENERAL_TEXT)
        with driven(self.coordinator, patience=60.0):
            threads = [
                threading.Thread(target=self._join, args=(party, editor))
                for party, editor in self.editors.items()
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        return self

    def _join(self, party: PartyId, editor: Editor) -> None:
        member = Member(self.plan, party, self.federation.identities[party], SystemRandomness())
        channel = LoopbackChannel(self.coordinator, party)
        try:
            self.reports[party] = run_session(member, channel, editor)
        except BaseException as error:  # noqa: BLE001  shown by the test
            self.errors[party] = error

    @property
    def votes(self) -> dict[int, Vote]:
        state = self.coordinator.state
        assert isinstance(state, a.Completed | a.Aborted)
        return {int(party): vote for party, vote in state.votes.items()}

    def weights(self) -> dict[PartyId, str]:
        return {party: editor.model.weights_digest() for party, editor in self.editors.items()}


def test_an_update_that_leaves_the_text_alone_is_kept(
    federation: TinyFederation, tmp_path: Path
) -> None:
    before = {party: model.weights_digest() for party, model in federation.models.items()}
    held = Held(federation.plan("memit", acceptance=ASKED), federation, tmp_path).run()
    try:
        assert not held.errors
        assert held.votes == dict.fromkeys((1, 2, 3, 4), Vote.ACCEPT)
        after = held.weights()
        assert len(set(after.values())) == 1
        assert not set(after.values()) & set(before.values())
        own = held.reports[PartyId(1)].tasks[-1].assessment
        assert own is not None
        assert own.after is not None
        assert own.after == held.editors[PartyId(1)].measure()
        assert own.after.perplexity < 2.0 * own.before.perplexity
    finally:
        for editor in held.editors.values():
            editor.rollback()
    assert held.weights() == before


def test_an_update_that_one_party_poisoned_is_taken_back_bit_by_bit(
    federation: TinyFederation, tmp_path: Path
) -> None:
    before = {party: model.weights_digest() for party, model in federation.models.items()}
    plan = federation.plan("memit", acceptance=ASKED)
    held = Held(plan, federation, tmp_path, poisoned=True).run()
    assert not held.reports
    for error in held.errors.values():
        assert isinstance(error, SessionAbortedError)
        assert error.reason is AbortReason.UPDATE_REJECTED
    assert held.votes == dict.fromkeys((1, 2, 3, 4), Vote.PERPLEXITY)
    assert held.weights() == before


def test_the_same_poison_stays_where_nobody_votes(
    federation: TinyFederation, tmp_path: Path
) -> None:
    """What the votes are for: nothing else of the protocol notices."""
    plan = federation.plan("memit")
    held = Held(plan, federation, tmp_path, poisoned=True).run()
    try:
        assert not held.errors
        wrecked = held.editors[PartyId(1)].measure().perplexity
    finally:
        for editor in held.editors.values():
            editor.rollback()
    assert wrecked > 2.0 * held.editors[PartyId(1)].measure().perplexity
