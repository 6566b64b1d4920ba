"""What a connection may cost the aggregator (SPEC 5.5): limits that gRPC holds, and why."""

from collabedit.exchange import FRAME_OVERHEAD
from collabedit.proto.codec import MAXIMUM_PACKET_BYTES

MAXIMUM_DELIVERY_BYTES = 2 << 20
"""Largest packet that is read from a party. The largest that one sends, ShareKeys of 500 parties
with 1 KiB for each, has 0.6 MB; the 16 MiB of SPEC 3.3(d) are for what the aggregator relays."""

WINDOW_BYTES = 128 << 10
"""What a call may send ahead of its reader. The message that is being read is let in whole, so one
frame and this arrive in a round trip: 5 MiB/s at 200 ms with the usual tiles. gRPC itself lets a
fast sender have many MiB on each connection, also of messages that it then refuses."""

HTTP2_FRAME_BYTES = 256 << 10
"""Pieces in which a party may send a message. gRPC's 16 KiB cost a quarter more processor time."""

READ_BUFFER_BYTES = 128 << 10
"""What a connection reads at once. gRPC's buffer has no limit, grows with what a fast sender had
there, and stays as long as the connection does: without this 0.7 MiB of each party's."""

STREAMS_PER_CONNECTION = 8
"""Calls on one connection; a party's client needs three, gRPC's default has no limit."""

CONNECTIONS_PER_PARTY = 4
SPARE_CONNECTIONS = 512
"""A connection costs about 60 KiB and a file descriptor, and a stranger can open one; their number
is bounded, so that memory is. A party has one, and for some time a dead one after a broken link."""

HANDSHAKE_SECONDS = 10.0
"""A handshake is a round trip or two; gRPC's default of 120 s lets strangers hold connections."""

IDLE_CONNECTION_SECONDS = 60.0
"""A connection without a call is closed after this; an honest party always has its poll."""

KEEPALIVE_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 20.0
"""A party whose link is cut for good is noticed by its connection after their sum at most."""

_SLACK_BYTES = 64 << 10


def server_options(parties: int, *, tile_bytes: int) -> list[tuple[str, int]]:
    """Return what the aggregator's gRPC server is given.

    Args:
        parties: of the plan.
        tile_bytes: of the plan.
    """
    inbound = max(MAXIMUM_DELIVERY_BYTES, tile_bytes + FRAME_OVERHEAD)
    return [
        ("grpc.max_receive_message_length", inbound + _SLACK_BYTES),
        ("grpc.max_send_message_length", MAXIMUM_PACKET_BYTES + _SLACK_BYTES),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients ping every 30 s; the default of 300 s would end in GOAWAY.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE_SECONDS)),
        ("grpc.keepalive_timeout_ms", int(1000 * KEEPALIVE_TIMEOUT_SECONDS)),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
        ("grpc.experimental.tcp_max_read_buffer_size", READ_BUFFER_BYTES),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        ("grpc.max_connection_idle_ms", int(1000 * IDLE_CONNECTION_SECONDS)),
        ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_SECONDS)),
        (
            "grpc.max_allowed_incoming_connections",
            CONNECTIONS_PER_PARTY * parties + SPARE_CONNECTIONS,
        ),
    ]
