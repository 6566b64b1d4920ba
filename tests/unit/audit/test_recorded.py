"""Recordings, the parties' files and the plan: what fits together, and who is told otherwise."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Finding
from collabedit.attacks.claims import Estimates, Names, Recovery
from collabedit.attacks.counts import EDITS_IN_ALL
from collabedit.attacks.differencing import Differencing
from collabedit.attacks.encrypted_views import EncryptedView
from collabedit.attacks.network import NetworkView
from collabedit.attacks.registry import Entry
from collabedit.attacks.stage import Stage
from collabedit.attacks.views import AggregatorView, ColludingView, RecipientView, SessionPair
from collabedit.audit.recorded.attacking import Source, unscored
from collabedit.audit.recorded.defence import defence_of, told
from collabedit.audit.recorded.running import RecordedAudit, chosen_entries, make_jobs
from collabedit.audit.recorded.sessions import RecordedSession, open_sessions, recording_digest
from collabedit.audit.recorded.truth import Brought, Known, draw_known, read_brought
from collabedit.audit.recorded.views import KINDS, Evidence, RecordedKind, lacking, register
from collabedit.errors import EditFileError, InputError
from collabedit.experiments.deal import Pool
from collabedit.ids import PartyId, TaskIndex
from collabedit.overlap import Overlap
from collabedit.party.edits import Edit
from collabedit.party.items import normalise
from collabedit.plan import Plan
from collabedit.recorder import Recorder
from collabedit.recording import FILE
from collabedit.simulation import Faults
from tests.e2e.test_grpc_session import run
from tests.security.test_attacks_synthetic import prior_of
from tests.support.federations import TestFederation, build_federation
from tests.support.networks import Network

POOL = Pool(
    "made up",
    tuple(
        Edit(str(n), "{} is in", subject=f"place {n % 90}", target_new=f"x{n % 7}")
        for n in range(100)
    ),
)
ONE, TWO, THREE, FOUR = map(PartyId, range(1, 5))
LOST = Faults(crash_before={FOUR: "r3"})


def record(
    federation: TestFederation, place: Path, *, faults: Faults | None = None, seed: int = 0
) -> Path:
    with Recorder(place, federation.plan, role="simulation") as recorder:
        simulation = federation.simulation(
            place / "spool", faults=faults, seed=seed, recorder=recorder
        )
        closed = federation.plan.closed is not None
        simulation.run(federation.statistics if closed else federation.contribute)
    return place / FILE


def own(party: int, count: int = 3) -> tuple[Edit, ...]:
    """Edits of a party; the subject of each is its alone."""
    return tuple(
        Edit(f"{party}{n}", "{} lies in", subject=f"Town {party}-{n}", target_new="y")
        for n in range(count)
    )


def brought(*parties: int, past: int = 0) -> Brought:
    return Brought(
        {PartyId(party): own(party) for party in parties},
        {PartyId(party): own(party + 10) for party in range(1, past + 1)},
    )


def subjects(known: Known, party: PartyId) -> set[str]:
    return {known.candidates.edits[number].subject for number in known.members[party]}


def changed(session: RecordedSession, **changes: object) -> RecordedSession:
    """The session, as if it had been of another plan; without recordings."""
    plan: Plan = session.plan.model_copy(update=changes)
    return RecordedSession(plan, (), session.survivors)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recordings")
    federation = build_federation(4, layers=2)
    record(federation, place / "whole")
    record(federation, place / "lost", faults=LOST, seed=1)
    record(federation, place / "again", seed=2)
    record(build_federation(3), place / "other")
    return place


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every end of a session over gRPC."""
    directory = tmp_path_factory.mktemp("ends")
    records = directory / "records"
    network = Network(build_federation(3), directory / "state", records=records)
    run(network, [1, 2, 3])
    assert not network.errors
    return records


def refused(paths: Sequence[Path]) -> str:
    with pytest.raises(InputError) as error, open_sessions(paths):
        pass
    return str(error.value)


# Recordings.


def test_several_ends_of_a_session_are_one(ends: Path) -> None:
    with open_sessions([ends / "party-2", ends / "aggregator"]) as sessions:
        (session,) = sessions
        assert session.origins == ("party-2", "aggregator")
        assert session.summed == {ONE, TWO, THREE}
        assert session.aggregator is not None
        assert session.aggregator.role == "aggregator"
        assert session.recipient is not None
        assert session.recipient.origin == "party-2"
        assert len(recording_digest(session.aggregator)) == 64


def test_each_view_is_of_the_end_that_has_it(ends: Path) -> None:
    with open_sessions([ends / "aggregator"]) as (session,):
        assert lacking(AggregatorView, session) is None
        assert "no recording is a party's" in (lacking(RecipientView, session) or "")
        assert "no ciphertexts" in (lacking(EncryptedView, session) or "")
    with open_sessions([ends / "party-1"]) as (session,):
        assert "no recording is the aggregator's" in (lacking(AggregatorView, session) or "")
        assert lacking(RecipientView, session) is None
        # A party alone says who survived, by what it was sent.
        assert session.summed == {ONE, TWO, THREE}
        (seen,) = KINDS[NetworkView].see(_evidence(session))
        assert "party-1 alone" in seen.note
        assert "contributed" in (lacking(ColludingView, session) or "")
        assert "is over" in (lacking(Stage, session) or "")
        assert "of its type int" in (lacking(int, session) or "")


def _evidence(session: RecordedSession, second: RecordedSession | None = None) -> Evidence:
    def nothing() -> None:
        raise AssertionError("needs no model")

    return Evidence(session, second, nothing, nothing)  # type: ignore[arg-type]


def test_a_second_session_without_a_party_gives_a_pair(place: Path) -> None:
    with open_sessions([place / "whole", place / "lost"]) as (first, second):
        assert second.summed == {ONE, TWO, THREE}
        assert lacking(SessionPair, first, second) is None
        assert "no fewer" in (lacking(SessionPair, second, first) or "")
        (seen,) = KINDS[SessionPair].see(_evidence(first, second))
        assert seen.parties == frozenset({FOUR})
        assert isinstance(seen.view, SessionPair)
        assert seen.view.second.survivors[TaskIndex(0)] == second.summed
        prior, labels = prior_of(build_federation(4, layers=2))
        (row,) = Differencing().run(seen.view, prior).scores
        assert set(labels[np.argsort(row)[-3:]]) == {FOUR}
        assert "of one session" in (lacking(SessionPair, first) or "")


def test_recordings_that_do_not_belong_together_are_named(place: Path, ends: Path) -> None:
    said = refused([place / "whole", place / "other"])
    assert str(place / "other") in said
    assert "audit each plan" in said
    assert "give one of them" in refused([place / "whole", place / "whole" / FILE])
    assert "3 sessions" in refused([place / "whole", place / "lost", place / "again"])
    assert "there is no recording" in refused([ends / "nobody"])


def damaged(source: Path, place: Path, *statements: str) -> Path:
    place.mkdir()
    (place / FILE).write_bytes((source / FILE).read_bytes())
    with closing(sqlite3.connect(place / FILE)) as database, database:
        for statement in statements:
            database.execute(statement)
    return place


def test_a_session_without_an_end_is_refused(place: Path, ends: Path, tmp_path: Path) -> None:
    for statements in (
        ["DELETE FROM survivors WHERE task = 1", "DELETE FROM sums WHERE task = 1"],
        ["DELETE FROM updates WHERE layer = 1"],
    ):
        copy = damaged(place / "whole", tmp_path / str(len(statements)), *statements)
        said = refused([copy])
        assert f"{copy / FILE}: is of an unfinished session: simulation" in said
        assert "sum 2 of 2" in said
    unopened = damaged(ends / "party-3", tmp_path / "unopened", "DELETE FROM deliveries")
    assert "party-3 saw no end of sum 1 of 1" in refused([unopened])


def test_altered_contents_and_ends_that_disagree_are_refused(
    place: Path, ends: Path, tmp_path: Path
) -> None:
    altered = damaged(
        place / "whole", tmp_path / "altered", "UPDATE pieces SET data = zeroblob(length(data))"
    )
    assert f"{altered / FILE}: is damaged" in refused([altered])
    lying = damaged(
        ends / "aggregator", tmp_path / "lying", "DELETE FROM survivors WHERE party = 3"
    )
    assert "names other survivors than" in refused([ends / "party-1", lying])


def test_a_recording_with_its_log_beside_it_is_refused(place: Path, tmp_path: Path) -> None:
    copy = damaged(place / "whole", tmp_path / "open")
    (copy / f"{FILE}-wal").write_bytes(b"something")
    assert "still being written" in refused([copy])


# What parties brought.


def write(path: Path, edits: Sequence[Edit]) -> Path:
    records = [
        {
            "prompt": edit.prompt.replace("{}", edit.subject),
            "subject": edit.subject,
            "target_new": edit.target_new,
        }
        for edit in edits
    ]
    path.write_text(json.dumps(records))
    return path


def test_files_are_of_parties_of_the_plan_and_no_larger(tmp_path: Path) -> None:
    plan = build_federation(3).plan
    good, large = write(tmp_path / "good", own(1)), write(tmp_path / "large", own(1, 4))
    found = read_brought(plan, [f"party-1={good}"], [f"party-2={good}", "party-3="])
    assert {party: len(edits) for party, edits in found.edits.items()} == {ONE: 3}
    assert {party: len(edits) for party, edits in found.past.items()} == {TWO: 3, THREE: 0}
    for wrong, said in (
        ([f"party-1={large}"], "4 edits, the recorded plan let party-1 bring 3"),
        ([f"party-7={good}"], "no party 'party-7'; it has party-1, party-2, party-3"),
        (["party-1"], "write NAME=FILE"),
        (["party-1="], "write NAME=FILE"),
        ([f"party-1={good}", f"party-1={good}"], "party-1 is there twice"),
        ([], "one party at least"),
    ):
        with pytest.raises(InputError) as error:
            read_brought(plan, wrong, [])
        assert said in str(error.value)
    with pytest.raises(EditFileError, match="nowhere"):
        read_brought(plan, [f"party-1={tmp_path / 'nowhere'}"], [])


def test_members_stand_among_other_subjects_in_an_order_that_says_nothing(place: Path) -> None:
    with open_sessions([place / "whole"]) as (session,):
        known = draw_known(session, brought(1, 2, 3, 4), POOL, candidates=40, seed=3)
        again = draw_known(session, brought(4, 3, 2, 1), POOL, candidates=40, seed=3)
        other = draw_known(session, brought(1, 2, 3, 4), POOL, candidates=40, seed=4)
    assert known == again
    assert known.candidates.edits != other.candidates.edits
    names = [normalise(subject) for subject in known.candidates.subjects]
    assert len(set(names)) == len(names) == 40
    for party in (ONE, TWO, THREE, FOUR):
        assert subjects(known, party) == {edit.subject for edit in own(party)}
    assert known.member_numbers != tuple(range(12))
    keys = np.arange(24.0).reshape(2, 12)
    truth = known.truth(session.plan, keys)
    assert int(truth.edited.sum()) == 12
    assert truth.quantities == {f"edits of party-{n}": 3.0 for n in range(1, 5)} | {
        EDITS_IN_ALL: 12.0
    }
    np.testing.assert_array_equal(truth.vectors["keys"], keys)
    part = known.truth(session.plan, keys, parties=frozenset({TWO}))
    columns = [known.member_numbers.index(number) for number in sorted(known.members[TWO])]
    np.testing.assert_array_equal(part.vectors["keys"], keys[:, columns])
    assert set(part.facts) == set(known.members[TWO])


def test_a_subject_is_one_candidate_whoever_edits_it(place: Path) -> None:
    shared = Edit("s", "{} is near", subject="TOWN  1-0", target_new="z")
    pool = Pool("made up", (*own(1), *POOL.edits))
    files = {**brought(1, 3, 4).edits, TWO: (shared, *own(2, 2))}
    with open_sessions([place / "whole"]) as (session,):
        known = draw_known(session, Brought(files, {}), pool, candidates=40, seed=0)
    (both,) = set(known.members[ONE]) & set(known.members[TWO])
    assert normalise(known.candidates.edits[both].subject) == "town 1-0"
    assert sum(normalise(name) == "town 1-0" for name in known.candidates.subjects) == 1
    assert any("12 edits are about 11 subjects" in note for note in known.notes)
    assert known.counts[TWO] == 3


def test_who_dropped_out_is_no_member_and_no_candidate(place: Path) -> None:
    pool = Pool("made up", (*own(4), *POOL.edits))
    with open_sessions([place / "lost"]) as (session,):
        known = draw_known(session, brought(1, 2, 3, 4), pool, candidates=93, seed=0)
    assert FOUR not in known.members
    assert known.unknown == frozenset()
    assert not {edit.subject for edit in own(4)} & set(known.candidates.subjects)
    assert known.notes[0].startswith("party-4 dropped out")


def test_unknown_edits_are_not_guessed(place: Path) -> None:
    with open_sessions([place / "whole"]) as (session,):
        known = draw_known(session, brought(1, 2), POOL, candidates=40, seed=0)
    assert known.unknown == {THREE, FOUR}
    assert known.members[THREE] == ()
    truth = known.truth(session.plan, np.zeros((2, 6)))
    assert EDITS_IN_ALL not in truth.quantities
    names = ["party-3", "party-4"]
    scores = np.zeros((4, 40))
    everybody = Finding("x", (None,), scores[:1])
    assert "edits of all parties" in (unscored(everybody, truth, names) or "")
    assert unscored(everybody, truth, []) is None
    assert unscored(Finding("x", (ONE, TWO, THREE, FOUR), scores), truth, names) is None
    assert unscored(Finding("x", (THREE,), scores[:1]), truth, names) is not None
    assert unscored(Names("x", ("Town",)), truth, names) is not None
    assert unscored(Names("x", ("Town",)), truth, []) is None
    assert unscored(Estimates("x", {"edits of party-1": 3.0}, 3), truth, names) is None
    assert unscored(Estimates("x", {EDITS_IN_ALL: 3.0}, 3), truth, names) is not None
    assert unscored(Recovery("x", "keys", np.ones((2, 1))), truth, names) is None
    assert "targets" in (unscored(Recovery("x", "residuals", np.ones((2, 1))), truth, []) or "")


def test_files_that_contradict_the_session_are_refused(place: Path) -> None:
    few = {PartyId(party): own(party, 2) for party in range(1, 5)}
    with open_sessions([place / "whole"]) as (session,):
        with pytest.raises(InputError, match="the update has rank 12, the files have 8 edits"):
            draw_known(session, Brought(few, {}), POOL, candidates=40, seed=0)
        # With one file missing nobody can say.
        del few[FOUR]
        draw_known(session, Brought(few, {}), POOL, candidates=40, seed=0)
        for candidates, data, said in (
            (23, POOL, "ask for 24 or more"),
            (200, POOL, "98 fewer than --candidates 200"),
            (40, Pool("nothing", ()), "nothing: has 0 subjects"),
        ):
            with pytest.raises(InputError, match=said):
                draw_known(session, brought(1, 2, 3, 4), data, candidates=candidates, seed=0)
    closed = build_federation(4, closed="min_edits = 12").plan
    with (
        open_sessions([place / "whole"]) as (session,),
        pytest.raises(InputError, match=r"closed\.min_edits 12"),
    ):
        draw_known(
            changed(session, closed=closed.closed),
            Brought({PartyId(n): own(n, 2) for n in range(1, 5)}, {}),
            POOL,
            candidates=40,
            seed=0,
        )


def test_past_edits_must_be_told_where_a_plan_has_them(place: Path) -> None:
    class Memory:
        max_edits = 2

    pool = Pool("made up", (*own(11), *POOL.edits))
    with open_sessions([place / "whole"]) as (session,):
        remembering = changed(session, memory=Memory())
        with pytest.raises(InputError, match="--past party-4=FILE"):
            draw_known(remembering, brought(1, 2, 3, 4, past=3), pool, candidates=40, seed=0)
        known = draw_known(remembering, brought(1, 2, 3, 4, past=4), pool, candidates=102, seed=0)
    assert not {edit.subject for edit in own(11)} & set(known.candidates.subjects)
    assert any("past edits" in note for note in known.notes)


def test_contested_edits_are_left_out_and_everybody_must_be_heard(place: Path) -> None:
    against = Edit("c", "{} lies in", subject="Town 1-0", target_new="elsewhere")
    files = {**brought(1, 3, 4).edits, TWO: (against, *own(2, 2))}
    policy = Overlap(policy="majority", false_positive=1e-6, rows=8, width=64)
    with open_sessions([place / "whole"]) as (session,):
        counting = changed(session, overlap=policy)
        # The first task of such a plan counts.
        counting = RecordedSession(
            counting.plan, (), {TaskIndex(t + 1): s for t, s in session.survivors.items()}
        )
        with pytest.raises(InputError, match=r"depends on party-4's"):
            draw_known(counting, brought(1, 2, 3), POOL, candidates=40, seed=0)
        known = draw_known(counting, Brought(files, {}), POOL, candidates=40, seed=0)
    assert "Town 1-0" not in known.candidates.subjects
    assert len(known.members[ONE]) == 2
    assert set(known.counts) == {THREE, FOUR}
    assert any("1 subjects are contested" in note for note in known.notes)


# Plans and jobs.


def test_the_defence_is_what_the_plan_says() -> None:
    def named(**changes: object) -> str:
        return defence_of(build_federation(3, **changes).plan).name  # type: ignore[arg-type]

    assert named() == "masked"
    assert named(closed="check_columns = 3") == "closed"
    plan = build_federation(3, closed="cover_edits = 2", capacity=40).plan
    card = defence_of(plan)
    assert card.name == "closed+covers"
    assert card.deployed
    assert "adds 2 cover edits" in card.text
    assert told(plan, parties=2) == {"covers": 4}
    assert told(build_federation(3).plan, parties=3) == {}


def test_results_are_named_by_content_and_tell_nothing_of_files(
    place: Path, tmp_path: Path
) -> None:
    entries = chosen_entries(_known(), {}, ["sum-span", "update-span", "replay"])
    source = Source((place / "whole",), tmp_path, (), None, "cpu")
    with open_sessions([place / "whole"]) as sessions:

        def ids(files: Brought, cache: str, seed: int = 0) -> list[str]:
            known = draw_known(sessions[0], files, POOL, candidates=40, seed=seed)
            audit = RecordedAudit(sessions, source, known, "exact", seed, tmp_path / cache)
            jobs = make_jobs(audit, entries)
            assert set(jobs.left_out) == {"replay"}
            text = json.dumps([job.identity for job in jobs.attacks.values()])
            assert known.candidates.digest not in text
            assert "Town" not in text
            return [job.id for job in jobs.attacks.values()]

        first = ids(brought(1, 2, 3, 4), "one")
        assert len(set(first)) == 2
        assert ids(brought(1, 2, 3, 4), "one") == first
        assert ids(brought(1, 2, 3), "one") != first
        assert ids(brought(1, 2, 3, 4), "one", 5) != first
        # Whoever has the folder, and not the cache, cannot try files against names.
        assert ids(brought(1, 2, 3, 4), "another") != first
    key = tmp_path / "one" / "audit" / "key"
    assert key.stat().st_mode & 0o077 == 0
    key.write_bytes(b"short")
    with (
        open_sessions([place / "whole"]) as sessions,
        pytest.raises(InputError, match="is no key"),
    ):
        ids(brought(1, 2, 3, 4), "one")


def _known() -> dict[str, Entry]:
    from collabedit.attacks.registry import installed

    return installed()


def test_attacks_that_cannot_be_used_are_named() -> None:
    known = _known()
    assert chosen_entries(known, {}, []) == tuple(known.values())
    with pytest.raises(InputError, match="attack guess is not installed"):
        chosen_entries(known, {}, ["guess"])
    with pytest.raises(InputError, match="package gone"):
        chosen_entries(known, {"rude": "package gone"}, [])
    assert chosen_entries(known, {"rude": "package gone"}, ["kster"])[0].name == "kster"


def test_a_type_of_view_is_registered_once() -> None:
    class Mine:
        pass

    kind = RecordedKind(Mine, lambda _: [], lambda *_: None)
    try:
        register(kind)
        register(kind)
        with pytest.raises(InputError, match="Mine are registered twice"):
            register(RecordedKind(Mine, lambda _: [], lambda *_: "never"))
    finally:
        KINDS.pop(Mine)
