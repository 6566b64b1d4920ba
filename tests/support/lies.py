"""Marks tests that try a lie, and observes what refused it.

    @pytest.mark.lie(role="aggregator", lie="what it does", round="r1", refused_by="ROSTER_FORK")
    def test_...(refusal: Refusal) -> None:
        ...
        refusal(state.reason)

`refused_by` is declared in the mark; the test hands what it observed to `refusal`, and fails if
that is anything else. `tests.audit.lie_table` makes a table of all marks.
"""

from collections.abc import Iterator

import pytest

from collabedit.errors import AbortReason

OBSERVED = "observed refusal"
"""Name of the property that carries (lie, observed reason) in a test's report."""


def name_of(observed: object) -> str:
    """Return what refused a lie by its name: an abort reason, or else the kind of exception."""
    if isinstance(observed, str):
        return observed
    reason = getattr(observed, "reason", observed)
    return reason.name if isinstance(reason, AbortReason) else type(observed).__name__


class Refusal:
    """Takes what a test observed and holds it against what its mark declares."""

    def __init__(self, item: pytest.Item, *, lie: str, refused_by: str) -> None:
        self._item = item
        self._lie = lie
        self._declared = refused_by
        self.observations = 0

    def __call__(self, *observed: object) -> None:
        assert observed, "nothing refused this lie"
        for each in observed:
            self.observations += 1
            self._item.user_properties.append((OBSERVED, (self._lie, name_of(each))))
            assert name_of(each) == self._declared


@pytest.fixture
def refusal(request: pytest.FixtureRequest) -> Iterator[Refusal]:
    """Where a test of a lie says what it observed."""
    item = request.node
    marker = item.get_closest_marker("lie")
    assert marker is not None, "a test that observes a refusal has a mark `lie`"
    observer = Refusal(item, lie=marker.kwargs["lie"], refused_by=marker.kwargs["refused_by"])
    yield observer
    assert observer.observations, "a test of a lie says what refused it"


def check_marks(items: list[pytest.Item]) -> None:
    """Refuse a mark on a test that cannot observe."""
    for item in items:
        if item.get_closest_marker("lie") and "refusal" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} is marked `lie` and does not use `refusal`")
