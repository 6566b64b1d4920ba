"""A small HTTP server for metrics and status: reads only, on loopback unless told otherwise.

It serves a fixed table of pages, and knows nothing of what they say. What it holds against
strangers, since whoever can reach the port can ask:

- only GET and HEAD; a body is never read, and a connection serves one request;
- a request's head has at most `HEAD_BYTES`, a connection lasts at most `REQUEST_SECONDS`, and there
  are at most `CONNECTIONS` at a time: a slow or greedy client costs others a page, never a session;
- the Host header must be an address, `localhost` or a name that the operator gave: a web page of
  somebody else, whose name was made to point here (DNS rebinding), has another one;
- no CORS header, and a policy that lets a page load nothing.
"""

import http.server
import io
import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self, TypeAlias

from collabedit.errors import InputError

HEAD_BYTES = 16 << 10
"""A browser sends 1 KiB or two."""

REQUEST_SECONDS = 10.0
"""From accepting a connection to closing it, whatever the client does."""

CONNECTIONS = 16
"""Each holds a thread."""

PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer.

    Attributes:
        content_type: as in the header.
        body: the bytes.
        policy: the content security policy; by default a page may load nothing at all.
    """

    content_type: str
    body: bytes
    policy: str = "default-src 'none'; frame-ancestors 'none'"


Pages: TypeAlias = Mapping[str, Callable[[], Page]]
"""Makers of pages by path. They are called in a thread for each request."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_host(header: str | None, names: Collection[str]) -> bool:
    """Return whether a Host header is an address, `localhost`, or one of `names`."""
    if not header:
        return False
    host, colon, port = header.rpartition(":")
    if not colon or header.endswith("]"):
        host, port = header, "0"
    if not (port.isascii() and port.isdecimal()):
        return False
    host = host.casefold()
    if host == "localhost" or host in {name.casefold() for name in names}:
        return True
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class _Head(io.RawIOBase):
    """A connection's bytes, up to `HEAD_BYTES`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = HEAD_BYTES

    @property
    def is_exhausted(self) -> bool:
        return not self._left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        view = memoryview(buffer)[: self._left]
        count = self._connection.recv_into(view) if self._left else 0
        self._left -= count
        return count


class _Handler(http.server.BaseHTTPRequestHandler):
    server: "WebServer"
    server_version = "collabedit"
    sys_version = ""
    timeout = REQUEST_SECONDS

    def setup(self) -> None:
        super().setup()
        self._head = _Head(self.connection)
        self.rfile = io.BufferedReader(self._head)

    def do_GET(self) -> None:
        if self._head.is_exhausted:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        if not is_own_host(self.headers.get("Host"), self.server.names):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._answer(HTTPStatus.OK, page())

    do_HEAD = do_GET  # noqa: N815  the library's name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say no in one line, without a word of what was asked."""
        del message, explain
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:  # the library's word for other methods
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self._answer(status, Page(PLAIN, f"{status.value} {status.phrase}\n".encode()))

    def _answer(self, status: HTTPStatus, page: Page) -> None:
        self.send_response(status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Content-Security-Policy", page.policy)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
        """Log nothing: a stranger must not fill the disk with lines."""


class WebServer(http.server.ThreadingHTTPServer):
    """Serves pages from its own threads while its context is entered.

    Args:
        address: `host:port`; port 0 lets the system choose.
        pages: what is served.
        names: further names by which a browser or a scraper may call this host.
        is_remote: whether others than this machine may reach it.

    Raises:
        InputError: the address is not of this machine alone and `is_remote` is not set, or it
            cannot be listened on.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * CONNECTIONS

    def __init__(
        self,
        address: str,
        pages: Pages,
        *,
        names: Collection[str] = (),
        is_remote: bool = False,
    ) -> None:
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not is_remote and not is_loopback(host):
            raise InputError(
                f"{address}: others could read metrics and status there; ask for it by "
                "--web-remote, behind a firewall or a proxy that knows who asks"
            )
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.pages = pages
        self.names = frozenset(names)
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((host, int(port)), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"{address}: cannot be listened on: {error}") from error
        self.address = f"{address.rpartition(':')[0]}:{self.server_address[1]}"
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="web", daemon=True
        )

    def server_bind(self) -> None:
        """Bind without asking the resolver for a name of this host."""
        socketserver.TCPServer.server_bind(self)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve a connection in a thread of its own, if there is a place for it."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve a connection, and end it when its time is over."""
        limit = threading.Timer(REQUEST_SECONDS, self._cut, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._places.release()

    @staticmethod
    def _cut(request: socket.socket) -> None:
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def handle_error(self, request: object, client_address: object) -> None:
        """Forget clients that went away; nothing of a request is worth a line."""
