"""A few kills of each role with real processes; `make crash-test` does two hundred."""

from pathlib import Path

import pytest

from tests.crash.campaign import KINDS, run_campaign


@pytest.mark.slow
@pytest.mark.parametrize("role", ["aggregator", "party"])
def test_a_killed_process_resumes_its_session(role: str, tmp_path: Path) -> None:
    told: list[str] = []
    result = run_campaign(role, tmp_path / role, points=6, per_session=2, seed=20, tell=told.append)
    assert not result.failures
    assert result.kills == 6
    assert len(result.stages) > 1
    assert set(result.kinds) == set(KINDS)
