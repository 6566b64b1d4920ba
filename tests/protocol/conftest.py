import pytest

from tests.protocol.stage import Walk, parties, walk


@pytest.fixture(scope="package")
def full() -> Walk:
    """Five parties, all contribute."""
    return walk(contributors=parties(1, 2, 3, 4, 5))


@pytest.fixture(scope="package")
def dropped() -> Walk:
    """Five parties, party 5 falls silent in r3: the survivors are exactly the threshold."""
    return walk(contributors=parties(1, 2, 3, 4))


@pytest.fixture(scope="package")
def other_session() -> Walk:
    """The same plan in another session."""
    return walk(contributors=parties(1, 2, 3, 4, 5), seed=1)
