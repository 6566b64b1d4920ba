"""Other plans for one party: refused by name at every machine; without a binding it is isolated."""

from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Prior
from collabedit.attacks.inconsistency import CHANGES, ModelInconsistency, changed
from collabedit.attacks.metrics import auc, recall_at
from collabedit.attacks.span import SumSpan
from collabedit.attacks.stage import Played, Stage
from collabedit.attacks.views import statistics_of
from collabedit.ids import LayerIndex, PartyId
from tests.protocol.stage import FIRST, plain_sum
from tests.security.test_attacks_synthetic import prior_of
from tests.support.federations import EDITS_EACH, build_federation
from tests.support.stages import stage_of

TARGET = PartyId(2)
LAYER = LayerIndex(0)
CLOSED = "check_columns = 3\nmin_edits = 5"


@pytest.mark.parametrize("closed", [None, CLOSED])
def test_a_party_with_another_plan_gets_into_no_sum(closed: str | None, tmp_path: Path) -> None:
    federation = build_federation(4) if closed is None else build_federation(4, closed=closed)
    claim = ModelInconsistency(TARGET).run(stage_of(federation, tmp_path), Prior({}))
    assert len(claim.attempts) == 5 * len(CHANGES)
    assert not any(each.succeeded for each in claim.attempts)
    for what in CHANGES:
        outcomes = [e.outcome for e in claim.attempts if e.label.startswith(f"{what}: ")]
        assert outcomes[0] == "PLAN_MISMATCH"
        assert outcomes[-1] == "BELOW_THRESHOLD"
        for said in outcomes[1:-1]:
            assert said in {"MALFORMED_MESSAGE", "MalformedMessageError"}


def test_every_change_is_of_something_that_the_digest_covers() -> None:
    plan = build_federation(3).plan
    digests = {changed(plan, change).digest for change in CHANGES.values()}
    assert len(digests | {plan.digest}) == len(CHANGES) + 1


@pytest.mark.parametrize("statistics", ['"sketch"', '"dense"'])
def test_without_a_binding_the_sum_is_the_targets_alone(statistics: str, tmp_path: Path) -> None:
    federation = build_federation(5, statistics=statistics)
    stage = stage_of(federation, tmp_path)
    attack = ModelInconsistency(TARGET, bound=False)
    (attempt,) = attack.run(stage, Prior({})).attempts
    assert (attempt.succeeded, attempt.outcome) == (True, "the sum of 5 parties has rank 3")
    view = attack.isolate(stage)
    # Isolation ratio ‖S_target‖/‖S‖, of the sketches: 1 but for five roundings.
    alone = statistics_of(federation.plan, LAYER, plain_sum(federation, {TARGET}))[0]
    opened = statistics_of(federation.plan, LAYER, view.sums[FIRST])[0]
    assert np.linalg.norm(alone) / np.linalg.norm(opened) == pytest.approx(1.0, abs=1e-9)
    prior, owners = prior_of(federation)
    scores = SumSpan().run(view, prior).scores[0]
    assert recall_at(scores, owners == TARGET, EDITS_EACH).value == 1.0
    assert auc(scores, owners == TARGET).value == 1.0
    others = (owners > 0) & (owners != TARGET)
    assert scores[others].max() < 0.9


class Bound(Stage):
    """Parties compute on the plan's model whatever they are handed."""

    def play(self, number: int, *, edits: object = None, **options: object) -> Played:
        del edits, options
        return super().play(number)


def test_where_parties_keep_to_the_plans_model_nobody_is_isolated(tmp_path: Path) -> None:
    stage = stage_of(build_federation(5), tmp_path)
    bound = Bound(stage.plan, stage.identities, stage.edits, tmp_path / "bound")
    (attempt,) = ModelInconsistency(TARGET, bound=False).run(bound, Prior({})).attempts
    assert (attempt.succeeded, attempt.outcome) == (False, "the sum of 5 parties has rank 15")
