"""Attacks on transcripts of closed sums: at chance where they were certain, or certain still.

The undefended control of each is the same session with open sums.
"""

from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Prior
from collabedit.attacks.differencing import Differencing
from collabedit.attacks.metrics import auc
from collabedit.attacks.span import SumSpan, UpdateSpan
from collabedit.attacks.views import AggregatorView, RecipientView, SessionPair
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.closing import ClosedTask
from collabedit.party.states import Completed
from collabedit.proto.envelope import first_chain
from collabedit.proto.messages import Context
from collabedit.simulation import Faults, Outcome
from collabedit.sketch import Matrix
from tests.support.federations import EDITS_EACH, MAPPED, TestFederation, build_federation

CLOSED = "check_columns = 2"
SECTIONS = [None, CLOSED]
LAYERS = 24
OTHERS = 200
FIRST = TaskIndex(0)


def federation_of(section: str | None, *, layers: int = LAYERS) -> TestFederation:
    return build_federation(5, layers=layers, schedule='"parallel"', closed=section)


def play(
    federation: TestFederation, directory: Path, *, seed: int = 0, faults: Faults | None = None
) -> Outcome:
    outcome = federation.simulation(directory, seed=seed, faults=faults).run(federation.statistics)
    assert outcome.sums
    return outcome


def prior_of(federation: TestFederation) -> tuple[Prior, Matrix]:
    """Every party's keys of each layer in a crowd of others; whose each candidate is."""
    rng = np.random.default_rng(77)
    parties = federation.plan.party_ids
    owners = [*np.repeat(parties, EDITS_EACH), *[0] * OTHERS]
    keys = {
        LayerIndex(layer.index): np.concatenate(
            [
                *(federation.edits[party, TaskIndex(layer.index)][0] for party in parties),
                0.4 * rng.normal(size=(MAPPED, OTHERS)),
            ],
            axis=1,
        )
        for layer in federation.plan.editing.layers
    }
    return Prior(keys), np.array(owners)


def assert_certain_or_chance(values: list[float], section: str | None) -> None:
    if section is None:
        assert min(values) == 1.0
        return
    error = float(np.std(values) / np.sqrt(len(values)))
    assert abs(float(np.mean(values)) - 0.5) < 4 * error
    assert error < 0.05


@pytest.mark.parametrize("section", SECTIONS)
def test_the_opened_sum_tells_what_was_edited_only_if_it_is_open(
    section: str | None, tmp_path: Path
) -> None:
    federation = federation_of(section)
    view = AggregatorView.of(federation.plan, play(federation, tmp_path))
    prior, owners = prior_of(federation)
    found = [auc(SumSpan(layer).run(view, prior).scores[0], owners > 0) for layer in view_layers()]
    assert_certain_or_chance([one.value for one in found], section)


@pytest.mark.parametrize("section", SECTIONS)
def test_two_sessions_give_a_party_s_contribution_only_if_sums_are_open(
    section: str | None, tmp_path: Path
) -> None:
    federation = federation_of(section)
    plan = federation.plan
    faults = Faults(crash_before={PartyId(2): "r3"})
    whole = AggregatorView.of(plan, play(federation, tmp_path / "a", seed=1))
    part = AggregatorView.of(plan, play(federation, tmp_path / "b", seed=2, faults=faults))
    prior, owners = prior_of(federation)
    pair = SessionPair(whole, part)
    found = [
        auc(Differencing(layer).run(pair, prior).scores[0], owners == 2) for layer in view_layers()
    ]
    assert_certain_or_chance([one.value for one in found], section)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_released_update_tells_what_was_edited_in_either_case(
    section: str | None, tmp_path: Path
) -> None:
    """A recipient has the model before and after: no secret keeps it from the difference."""
    federation = federation_of(section, layers=2)
    view = RecipientView.of(federation.plan, play(federation, tmp_path))
    prior, owners = prior_of(federation)
    for layer in view_layers(2):
        scores = UpdateSpan(layer).run(view, prior).scores[0]
        assert auc(scores, owners > 0).value == 1.0


def test_a_party_that_tells_the_secret_opens_the_sum(tmp_path: Path) -> None:
    federation = federation_of(CLOSED, layers=1)
    plan = federation.plan
    simulation = federation.simulation(tmp_path)
    outcome = simulation.run(federation.statistics)
    state = outcome.party_states[PartyId(4)]
    assert isinstance(state, Completed)
    assert state.group_secret is not None
    session = simulation.coordinator.session_id
    context = Context(plan.digest, session, FIRST, first_chain(plan.digest, session))
    basis, _ = ClosedTask(plan, context, state.group_secret)._rotations(plan.editing.layers[0])
    prior, owners = prior_of(federation)
    rotated = Prior({layer: basis.apply(keys) for layer, keys in prior.mapped_keys.items()})
    view = AggregatorView.of(plan, outcome)
    assert auc(SumSpan().run(view, rotated).scores[0], owners > 0).value == 1.0
    assert auc(SumSpan().run(view, prior).scores[0], owners > 0).value < 0.8


def view_layers(count: int = LAYERS) -> list[LayerIndex]:
    return [LayerIndex(index) for index in range(count)]
