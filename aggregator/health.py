"""Ask an aggregator how it is: the client of its health service, for probes and units."""

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from collabedit.aggregator.service import HEALTH, ServerTls
from collabedit.errors import TransportError


def is_serving(address: str, *, tls: ServerTls, server_name: str, seconds: float) -> bool:
    """Return whether the aggregator at `address` takes new calls.

    Args:
        address: `host:port`.
        tls: any identity of the session's authority; the aggregator's own will do.
        server_name: on the aggregator's certificate.
        seconds: longest wait.

    Raises:
        TransportError: nobody answers, or somebody else.
    """
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    options = [("grpc.ssl_target_name_override", server_name)]
    with grpc.secure_channel(address, credentials, options) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{HEALTH}/Check")
        try:
            reply = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=seconds))
        except grpc.RpcError as error:
            raise TransportError(f"{address}: {error.details() or error.code().name}") from error
        except DecodeError as error:
            raise TransportError(f"{address}: what answers is no health service") from error
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
