import pytest

from tests.support.lies import check_marks, refusal

__all__ = ["refusal"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    check_marks(items)
