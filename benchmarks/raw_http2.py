"""Just enough HTTP/2 to misbehave: a gRPC call whose message is announced and never completed.

gRPC's own client sends messages whole. A hostile one need not: it announces a length (5 bytes
before each message), sends what the flow control lets through, and stops.
"""

import socket
import ssl
import struct
from dataclasses import dataclass, field

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACKNOWLEDGE = END_HEADERS = 0x1 | 0x4
INITIAL_WINDOW = 65_535
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Build one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Encode a header field without a table; both shorter than 127 bytes."""
    return b"".join(
        (b"\x00", bytes([len(name)]), name.encode(), bytes([len(value)]), value.encode())
    )


@dataclass
class RawConnection:
    """One connection over a TLS socket; streams are opened by hand."""

    sock: ssl.SSLSocket
    window: int = INITIAL_WINDOW
    windows: dict[int, int] = field(default_factory=dict)
    closed: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _initial: int = INITIAL_WINDOW
    _next_stream: int = 1

    def __post_init__(self) -> None:
        self.sock.sendall(_PREFACE + frame(SETTINGS))
        self.sock.setblocking(False)

    def open(self, path: str, *, announced: int, metadata: dict[str, str]) -> int:
        """Open a stream and announce a message of so many bytes."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":path": path,
            ":authority": "aggregator",
            "te": "trailers",
            "content-type": "application/grpc",
            **metadata,
        }
        block = b"".join(literal(*item) for item in fields.items())
        self.windows[stream] = self._initial
        self._send(frame(HEADERS, block, flags=0x4, stream=stream))
        self._data(stream, b"\x00" + struct.pack(">I", announced))
        return stream

    def feed(self, limit: int) -> int:
        """Send up to `limit` zero bytes on each stream, as windows allow; return how many."""
        self._read()
        sent = 0
        for stream in self.windows:
            count = min(self.windows[stream], self.window, limit, 16_384)
            if count > 0 and not self.closed:
                self._data(stream, bytes(count))
                sent += count
        return sent

    def _data(self, stream: int, payload: bytes) -> None:
        self.window -= len(payload)
        self.windows[stream] -= len(payload)
        self._send(frame(DATA, payload, stream=stream))

    def _send(self, data: bytes) -> None:
        try:
            self.sock.setblocking(True)
            self.sock.settimeout(1.0)
            self.sock.sendall(data)
        except OSError:
            self.closed = True
        finally:
            self.sock.setblocking(False)

    def _read(self) -> None:
        try:
            while data := self.sock.recv(1 << 16):
                self._buffer += data
            self.closed = True
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError:
            self.closed = True
        while len(self._buffer) >= 9:
            size = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + size:
                return
            kind, flags = self._buffer[3], self._buffer[4]
            stream = int.from_bytes(self._buffer[5:9], "big")
            payload = bytes(self._buffer[9 : 9 + size])
            del self._buffer[: 9 + size]
            self._handle(kind, flags, stream, payload)

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += increment
            elif stream in self.windows:
                self.windows[stream] += increment
        elif kind == SETTINGS and not flags & 1:
            for place in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, place)
                if name == 4:
                    for known in self.windows:
                        self.windows[known] += value - self._initial
                    self._initial = value
            self._send(frame(SETTINGS, flags=1))
        elif kind == PING and not flags & 1:
            self._send(frame(PING, payload, flags=1))
        elif kind in {3, 7} or (kind == HEADERS and flags & 1):
            # RST_STREAM, trailers: that stream is over; GOAWAY: all are.
            self.windows.pop(stream, None)
            self.closed = self.closed or kind == 7


def connect(port: int, context: ssl.SSLContext) -> RawConnection:
    """Connect to localhost with a client certificate, speaking HTTP/2."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    return RawConnection(context.wrap_socket(plain, server_hostname="localhost"))
