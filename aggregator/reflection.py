"""gRPC reflection: tells tools such as grpcurl which methods there are. Off unless asked for.

It says no more than the public `.proto` files do, and answers parties of the plan only. The service
`Data` moves bytes that have no message, so no file describes it, and it is not listed.
"""

from collections.abc import Callable, Iterator

import grpc
from google.protobuf.message import DecodeError

from collabedit.errors import InputError
from collabedit.proto.v1 import service_pb2

SERVICES = tuple(
    f"{service_pb2.DESCRIPTOR.package}.{name}" for name in service_pb2.DESCRIPTOR.services_by_name
)


def reflect(
    health: str,
) -> tuple[str, Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]]:
    """Return the name of the reflection service, and its one method `ServerReflectionInfo`.

    Args:
        health: name of the health service, which is listed, too.

    Raises:
        InputError: the package that implements it is not installed.
    """
    try:
        from grpc_reflection.v1alpha import reflection, reflection_pb2  # noqa: PLC0415  an extra
    except ModuleNotFoundError as error:
        raise InputError(
            "--reflection needs grpcio-reflection: pip install 'collabedit[reflection]'"
        ) from error
    servicer = reflection.ReflectionServicer((*SERVICES, health, reflection.SERVICE_NAME))

    def requests(frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[object]:
        for frame in frames:
            try:
                request = reflection_pb2.ServerReflectionRequest.FromString(frame)
            except DecodeError:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a ServerReflectionRequest")
            yield request

    def method(frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for answer in servicer.ServerReflectionInfo(requests(frames, context), context):
            yield answer.SerializeToString()

    return reflection.SERVICE_NAME, method
