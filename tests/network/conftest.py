"""What the network tests leave behind: out/network.json, and a failure if none could run."""

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.network.lab import NotPermittedError, find_mechanism
from tests.network.session import CAPACITY, LAYERS, ROOT, TIMING

OUTPUT = ROOT / "out" / "network.json"
_results: dict[str, dict[str, Any]] = {}
_mechanism = ""

Record = Callable[..., None]


@pytest.fixture(scope="session")
def mechanism() -> str:
    global _mechanism  # noqa: PLW0603  read when the session ends
    try:
        _mechanism = find_mechanism()
    except NotPermittedError as error:
        pytest.skip(str(error))
    return _mechanism


@pytest.fixture
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Record:
    def write(**fields: object) -> None:
        _results.setdefault(request.node.name, {}).update(fields)

    return write


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ours = [item for item in session.items if item.get_closest_marker("network")]
    if not ours or session.config.option.collectonly:
        return
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    written = {
        "mechanism": _mechanism or None,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "settings": {"tasks": LAYERS, "capacity": CAPACITY, "timing": TIMING},
        "scenarios": _results,
    }
    OUTPUT.write_text(json.dumps(written, indent=1) + "\n")
    if not _results and exitstatus == pytest.ExitCode.OK:
        # Skipped is not passed: whoever asked for these tests has learnt nothing.
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
