"""Identities of a plan are checked when a session starts, not at the first message."""

import pytest

from collabedit.errors import PlanError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import Plan
from collabedit.proto.envelope import check_identities
from tests.support.federations import build_federation

SMALL_ORDER = "01" + "00" * 31
NOT_CANONICAL = "ff" * 31 + "7f"


def plan_with(identity: str, *, of: PartyId) -> Plan:
    values = build_federation(3).plan.model_dump()
    if of == AGGREGATOR:
        values["federation"]["aggregator"]["identity"] = identity
    else:
        values["federation"]["parties"][of - 1]["identity"] = identity
    return Plan.model_validate(values)


def test_usable_identities_pass() -> None:
    check_identities(build_federation(3).plan)


@pytest.mark.parametrize("identity", [SMALL_ORDER, NOT_CANONICAL])
@pytest.mark.parametrize(("of", "name"), [(0, "aggregator"), (2, "party-2")])
def test_an_unusable_identity_is_named(identity: str, of: int, name: str) -> None:
    with pytest.raises(PlanError, match=f"the identity of {name}"):
        check_identities(plan_with(identity, of=PartyId(of)))
