"""The other pages with blocks that take seconds each.

In two modules, so that two workers share the time.
"""

from pathlib import Path

import pytest

from tests.documentation.pages import SESSIONS, SLOW, run_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("page", [page for page in SLOW if page not in SESSIONS])
def test_its_blocks_run(page: str, tmp_path: Path) -> None:
    run_page(page, tmp_path, slow=True)
