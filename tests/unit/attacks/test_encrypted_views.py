"""Views of sessions with ciphertexts hold what their adversary has, and nothing else."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.encrypted_views import (
    EncryptedTask,
    EncryptedView,
    MaskedCollusion,
    OpenerView,
    PartyView,
    context_of,
)
from collabedit.attacks.views import AggregatorView, RecipientView
from collabedit.ciphertexts import choose_opener, offer_bytes, upload_seeds
from collabedit.encrypted import SEED_BYTES
from collabedit.errors import AbortReason
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.recording import Delivery
from collabedit.simulation import Faults, Outcome
from tests.e2e.test_grpc_session import run, with_timing
from tests.support.federations import TestFederation, build_federation, encrypted_federation
from tests.support.keeper import Keeper
from tests.support.networks import Network

FIRST = TaskIndex(0)


def play(federation: TestFederation, directory: Path, **options: object) -> Outcome:
    faults = Faults(**options) if options else None  # type: ignore[arg-type]
    return federation.simulation(directory, faults=faults).run(federation.statistics)


def check_views(
    federation: TestFederation, transcript: tuple[Delivery, ...], keeper: Keeper
) -> EncryptedView:
    """What holds of the views of every session of all parties, however it was recorded."""
    plan, view = federation.plan, EncryptedView.of(federation.plan, transcript)
    everybody = frozenset(plan.party_ids)
    for task, each in view.tasks.items():
        assert each.survivors == everybody == each.uploads.keys()
        assert len(each.offer) == offer_bytes(plan, task, len(everybody))
        seeds = b"".join(
            upload_seeds(plan, task, each.uploads[party]) for party in sorted(each.uploads)
        )
        assert each.offer[: len(seeds)] == seeds
        # What was opened is the plain sum of what was contributed.
        plain = np.sum(
            [keeper.held[party][task].contribution for party in everybody], axis=0, dtype=np.uint64
        )
        np.testing.assert_array_equal(view.as_masked().sums[task], plain)
        assert each.context == keeper.held[PartyId(2)][task].context
    for party in plan.party_ids:
        own = PartyView.of(plan, party, transcript, keeper.held[party])
        assert own.survivors == dict.fromkeys(view.tasks, everybody)
        update = own.outside().updates[LayerIndex(0)].dense()
        want = federation.centralised(everybody, FIRST)
        assert np.linalg.norm(update - want) < 1e-7 * np.linalg.norm(want)
        opener = OpenerView.of(own, transcript)
        if party != choose_opener(everybody):
            assert not opener.offers
            assert not opener.opened
            continue
        for task, each in view.tasks.items():
            assert opener.offers[task] == each.offer
            np.testing.assert_array_equal(opener.opened[task], each.opened)
    return view


def test_views_of_a_simulated_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation, keeper = encrypted_federation(4, layers=2), Keeper(monkeypatch)
    outcome = play(federation, tmp_path, duplicate=0.3, delay=20)
    view = check_views(federation, outcome.transcript, keeper)
    for task, total in outcome.sums.items():
        np.testing.assert_array_equal(view.as_masked().sums[task], total)
    # The general view has the same, and no opened integers in the place of an upload.
    general = AggregatorView.of(federation.plan, outcome)
    for task, uploads in general.uploads.items():
        for party, words in uploads.items():
            np.testing.assert_array_equal(words, view.tasks[task].uploads[party])


def test_views_of_a_session_over_grpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation, keeper = with_timing(encrypted_federation(4)), Keeper(monkeypatch)
    network = Network(federation, tmp_path / "state", records=tmp_path / "records")
    run(network, [1, 2, 3, 4])
    assert not network.errors
    check_views(federation, network.transcript, keeper)


def test_an_opener_that_vanished_before_the_offer_leaves_uploads_and_no_sum(
    tmp_path: Path,
) -> None:
    federation = encrypted_federation(4)
    outcome = play(federation, tmp_path, crash_before={PartyId(1): "r4"})
    view = EncryptedView.of(federation.plan, outcome.transcript)
    assert view.tasks[FIRST].uploads.keys() == {1, 2, 3, 4}
    assert view.tasks[FIRST].opened is None
    assert not view.tasks[FIRST].offer
    assert not view.as_masked().sums


def test_an_opener_that_vanished_behind_its_tiles_leaves_the_sum(tmp_path: Path) -> None:
    """It never said SumOpened and the task ends, but the aggregator has been told."""
    federation = encrypted_federation(4)
    outcome = play(federation, tmp_path, crash_before={PartyId(1): "r5"})
    assert outcome.aborted is not None
    assert outcome.aborted.reason is AbortReason.OPENER_GONE
    view = EncryptedView.of(federation.plan, outcome.transcript)
    assert not outcome.sums
    assert view.as_masked().sums.keys() == {FIRST}


def test_the_aggregator_s_view_holds_no_secret_and_none_of_a_party_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, keeper = encrypted_federation(4), Keeper(monkeypatch)
    outcome = play(federation, tmp_path)
    view = EncryptedView.of(federation.plan, outcome.transcript)
    assert {each.name for each in fields(EncryptedTask)} == {
        "context",
        "survivors",
        "uploads",
        "offer",
        "opened",
    }
    each, secret = view.tasks[FIRST], keeper.of(1)[FIRST].group_secret
    assert each.opened is not None
    held = b"".join(
        [each.offer, each.opened.tobytes(), *(u.tobytes() for u in each.uploads.values())]
    )
    assert secret not in held
    # A party that does not open has none of the others' uploads, seeds or the sum.
    third = PartyView.of(federation.plan, PartyId(3), outcome.transcript, keeper.of(3))
    has = b"".join(
        [*third.released.values(), *(own.contribution.tobytes() for own in third.own.values())]
    )
    assert each.offer[:SEED_BYTES] not in has
    assert each.opened[:64].tobytes() not in has


def test_a_recipient_s_view_is_the_same_from_either_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, keeper = encrypted_federation(3), Keeper(monkeypatch)
    outcome = play(federation, tmp_path)
    simulated = RecipientView.of(federation.plan, outcome).updates[LayerIndex(0)]
    own = PartyView.of(federation.plan, PartyId(2), outcome.transcript, keeper.of(2))
    np.testing.assert_array_equal(own.outside().updates[LayerIndex(0)].dense(), simulated.dense())


@pytest.mark.parametrize("dropped", [None, 5])
def test_a_coalition_of_all_others_knows_every_mask_of_the_last(
    dropped: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control of the masked view: it lacks no mask that somebody in it has."""
    federation, keeper = build_federation(5, closed="check_columns = 4"), Keeper(monkeypatch)
    crash = {} if dropped is None else {"crash_before": {PartyId(dropped): "r3"}}
    outcome = play(federation, tmp_path, **crash)
    plan, transcript = federation.plan, outcome.transcript
    colluders = [
        PartyView.of(plan, PartyId(party), transcript, keeper.of(party)) for party in (1, 2, 3)
    ]
    if dropped is None:
        colluders.append(PartyView.of(plan, PartyId(5), transcript, keeper.of(5)))
    view = MaskedCollusion.of(AggregatorView.of(plan, outcome), colluders, transcript)
    # A self mask and one for each other party, whether it colludes or its key was revealed.
    assert len(view.known[FIRST][PartyId(4)]) == 5


def test_a_transcript_without_a_task_has_no_context() -> None:
    with pytest.raises(ValueError, match="no statement of task 0"):
        context_of(FIRST, ())
