"""Items, keys and counts of a counting task, looked for in everything that is printed or sent."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from collabedit.errors import BoundsError, EditFileError
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party.counting import Counter
from collabedit.party.decisions import Decision
from collabedit.party.items import edit_item
from collabedit.recorder import Recorder
from collabedit.simulation import Outcome, Simulation
from tests.security.test_canaries import contents_of
from tests.support.overlaps import COUNTING, Overlapping, make_edit, overlapping

CANARIES = ("Xylocanth", "Vorpal", "Quokkaland", "Drumlinstan")
FACTS = {
    1: ["Xylocanth Vorpal Quokkaland"],
    2: ["Xylocanth Vorpal Quokkaland"],
    3: ["Xylocanth Vorpal Drumlinstan"],
}


class Watched:
    """A session of three, and everything that its ends would print."""

    def __init__(self, directory: Path) -> None:
        self.overlap: Overlapping = overlapping(FACTS)
        self.texts: list[str] = []
        self.secrets: dict[str, bytes] = {}
        recorder = Recorder(directory / "recording", self.overlap.plan, role="simulation")
        simulation = self.overlap.federation.simulation(directory, recorder=recorder)
        simulation.coordinator._report.observer = self._observe
        self.context = simulation.coordinator._setup.context
        self.outcome: Outcome = simulation.run(
            self.overlap.contribute,
            items=self.overlap.items,
            weigh=lambda party, decisions: self._weigh(simulation, party, decisions),
        )
        recorder.close()
        self.recorded = contents_of(recorder.path)
        self.texts += [repr(self.outcome), repr(simulation.coordinator.state)]
        for party, own in self.overlap.items.items():
            self.secrets |= {f"topic of {party}": own[0].topic, f"fact of {party}": own[0].fact}
            self.texts.append(repr(own))

    def _observe(self, event: str, fields: Mapping[str, object]) -> None:
        self.texts.append(f"{event} {dict(fields)}")

    def _weigh(
        self, simulation: Simulation, party: PartyId, decisions: tuple[Decision, ...]
    ) -> None:
        self.overlap.weigh(party, decisions)
        state = simulation._parties[party].state
        assert isinstance(state, s.Completed)
        assert state.group_secret is not None
        self.secrets["group secret"] = state.group_secret
        self.texts += [repr(state), repr(decisions), repr(simulation._parties[party])]
        counter = Counter(self.overlap.plan, self.context, state.group_secret)
        self.texts.append(repr(counter))
        self.secrets["count key"] = counter._key


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(tmp_path_factory.mktemp("watched"))


def appears(secret: bytes, text: str) -> bool:
    return any(form in text for form in (secret.hex()[:16], repr(secret)[2:14], str(list(secret))))


def test_no_text_digest_or_key_is_printed(watched: Watched) -> None:
    assert watched.outcome.aborted is None
    assert len(watched.secrets) == 8
    assert sum(map(len, watched.texts)) > 5000
    for text in watched.texts:
        for canary in CANARIES:
            assert canary.casefold() not in text.casefold()
        for name, secret in watched.secrets.items():
            assert not appears(secret, text), name


def test_nothing_of_it_crosses_the_network_in_the_clear(watched: Watched) -> None:
    crossed = b"".join(delivery.data for delivery in watched.outcome.transcript)
    assert len(crossed) > 20_000
    for name, secret in watched.secrets.items():
        assert secret[:8] not in crossed, name
    assert not any(canary.encode() in crossed for canary in CANARIES)
    assert watched.outcome.transcript[-1].data in watched.recorded
    for name, secret in watched.secrets.items():
        assert secret[:8] not in watched.recorded, name
    assert not any(canary.encode() in watched.recorded for canary in CANARIES)


def test_no_count_reaches_what_the_aggregator_is_told(watched: Watched) -> None:
    """Two copies, one contradiction: the aggregator's events have names, tasks and digests."""
    events = [text for text in watched.texts if text.startswith(("opened", "task-"))]
    assert len(events) >= 5
    for word in ("copies", "claims", "conflict", "weight", "kept"):
        assert not any(word in event for event in events)


def test_refusals_name_no_text_and_no_number(watched: Watched) -> None:
    overlap = watched.overlap
    counter = Counter(overlap.plan, watched.context, b"k" * 32)
    own = [(item.topic, item.fact) for item in overlap.items[PartyId(1)]]
    with pytest.raises(BoundsError) as tables:
        counter.open(watched.outcome.sums[COUNTING], survivors=overlap.plan.party_ids, own=own)
    with pytest.raises(EditFileError) as text:
        edit_item(make_edit("Xylocanth\ud800 Vorpal Quokkaland", case_id="seven"))
    assert str(tables.value) == "a count exceeds the edits that the survivors may bring"
    assert str(text.value) == "edit seven: a text is not valid Unicode"
