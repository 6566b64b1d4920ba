"""The HTTP server of metrics and status: what it refuses, and that it cannot be held up."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from collabedit.errors import InputError
from collabedit.operations import web
from collabedit.operations.web import Page, WebServer, is_loopback, is_own_host

PAGES = {
    "/": lambda: Page("text/html; charset=utf-8", b"<p>page</p>"),
    "/status.json": lambda: Page("application/json", json.dumps({"a": 1}).encode()),
}


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer("127.0.0.1:0", PAGES, names=["Hub.Example"]) as started:
        yield started


def ask(
    server: WebServer, path: str = "/", method: str = "GET", **headers: str
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def raw(server: WebServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=5) as link:
        link.sendall(data)
        received = b""
        while part := link.recv(1 << 16):
            received += part
    return received


def test_a_page_comes_with_its_length_and_may_load_nothing(server: WebServer) -> None:
    answer = ask(server)
    assert (answer.status, answer.body) == (200, b"<p>page</p>")  # type: ignore[attr-defined]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Length"] == "11"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Python" not in answer.headers["Server"]


def test_head_says_the_same_without_the_page(server: WebServer) -> None:
    answer = ask(server, method="HEAD")
    assert (answer.status, answer.headers["Content-Length"]) == (200, "11")
    head = b"HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n"
    assert raw(server, head).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_other_methods_are_refused(server: WebServer, method: str) -> None:
    answer = ask(server, method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/nothing", "/../etc/passwd", "/status.json/"])
def test_there_are_no_other_pages(server: WebServer, path: str) -> None:
    answer = ask(server, path)
    assert answer.status == 404
    assert answer.body == b"404 Not Found\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7480", "127.0.0.1.evil.example", "", "localhost:x", "a@b"],
)
def test_a_name_that_somebody_else_pointed_here_is_refused(server: WebServer, host: str) -> None:
    assert ask(server, Host=host).status == 421


def test_a_request_without_a_host_is_refused(server: WebServer) -> None:
    assert raw(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 421")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:9", "[::1]", "10.1.2.3", "hub.example"],
)
def test_addresses_and_given_names_are_served(server: WebServer, host: str) -> None:
    assert ask(server, Host=host).status == 200


def test_no_other_origin_may_read_the_answer(server: WebServer) -> None:
    answer = ask(server, Origin="https://evil.example")
    assert not [name for name in answer.headers if name.casefold().startswith("access-control")]
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_head_that_is_too_long_is_refused_unread(server: WebServer) -> None:
    filler = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 500) for i in range(80))
    answer = raw(server, b"GET / HTTP/1.0\r\nHost: localhost\r\n" + filler)
    assert answer.startswith(b"HTTP/1.0 431")


def test_a_client_that_says_nothing_is_cut_off_and_blocks_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "REQUEST_SECONDS", 2.0)
    with WebServer("127.0.0.1:0", PAGES) as server:
        place = ("127.0.0.1", server.server_address[1])
        started = time.monotonic()
        silent = [socket.create_connection(place, timeout=5) for _ in range(web.CONNECTIONS)]
        while server._places._value:
            assert time.monotonic() - started < 1.5
            time.sleep(0.01)
        # All places are taken: the next one is closed at once.
        with socket.create_connection(place, timeout=5) as late:
            assert late.recv(1) == b""
        assert time.monotonic() - started < 1.8
        # A byte now and then does not buy more time.
        silent[0].sendall(b"G")
        assert silent[0].recv(1) == b""
        assert 1.5 < time.monotonic() - started < 4
        for link in silent:
            link.close()
        while server._places._value < web.CONNECTIONS:
            assert time.monotonic() - started < 8
            time.sleep(0.01)
        assert ask(server).status == 200


def test_requests_are_served_side_by_side(server: WebServer) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ask(server).status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert found == [200] * 8


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "hub.example:0"])
def test_another_address_than_loopback_must_be_asked_for(address: str) -> None:
    with pytest.raises(InputError, match="--web-remote"):
        WebServer(address, PAGES)


def test_an_address_that_is_asked_for_is_served() -> None:
    with WebServer("0.0.0.0:0", PAGES, is_remote=True) as server:
        assert ask(server).status == 200


def test_a_port_in_use_is_an_error_of_the_operator(server: WebServer) -> None:
    with pytest.raises(InputError, match="cannot be listened on"):
        WebServer(f"127.0.0.1:{server.server_address[1]}", PAGES)


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("x", False)],
)
def test_loopback_is_known(host: str, *, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_host_header_is_compared_without_case() -> None:
    assert is_own_host("HUB.example:80", ["hub.EXAMPLE"])
    assert not is_own_host("hub.example.", ["hub.example"])
    assert not is_own_host(None, ["hub.example"])
