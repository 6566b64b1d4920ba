"""One federation on disk for the tests of the command line, made by the commands themselves."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.processes import Federation, build_federation, run_here


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Three parties; party-2 may bring two edits. Read only: copy what a test changes."""
    return build_federation(
        tmp_path_factory.mktemp("cli") / "federation", parties=3, command=run_here
    )


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which somebody listens; the test fails if anybody connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener.getsockname()[1]
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.close()
        pytest.fail("somebody connected")
