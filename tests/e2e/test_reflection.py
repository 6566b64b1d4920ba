"""gRPC reflection: off by default, for parties alone, and true."""

from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from collabedit.aggregator.service import AggregatorServer
from tests.support.federations import build_federation
from tests.support.networks import Network, client_tls, server_tls

METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def ask(
    tmp_path: Path, *requests: bytes, reflection: bool = True, name: str = "party-1"
) -> list[ServerReflectionResponse]:
    network = Network(build_federation(3), tmp_path)
    own = client_tls(network.authority, name)
    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    with (
        AggregatorServer(
            network.coordinator(),
            address="127.0.0.1:0",
            tls=server_tls(network.authority, "aggregator"),
            reflection=reflection,
        ) as server,
        grpc.secure_channel(
            f"127.0.0.1:{server.port}",
            credentials,
            [("grpc.ssl_target_name_override", "aggregator")],
        ) as channel,
    ):
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        answers = call(iter(requests), timeout=10)
        return [ServerReflectionResponse.FromString(answer) for answer in answers]


def test_services_and_their_methods_are_told(tmp_path: Path) -> None:
    listed, described = ask(
        tmp_path,
        ServerReflectionRequest(list_services="*").SerializeToString(),
        ServerReflectionRequest(
            file_containing_symbol="collabedit.v1.Coordination"
        ).SerializeToString(),
    )
    assert {service.name for service in listed.list_services_response.service} == {
        *("collabedit.v1.Coordination", "grpc.health.v1.Health"),
        "grpc.reflection.v1alpha.ServerReflection",
    }
    files = [
        FileDescriptorProto.FromString(data)
        for data in described.file_descriptor_response.file_descriptor_proto
    ]
    methods = {
        f"{service.name}/{method.name}"
        for file in files
        for service in file.service
        for method in service.method
    }
    assert methods == {"Coordination/Join", "Coordination/Deliver", "Coordination/Collect"}


@pytest.mark.parametrize(
    ("reflection", "name", "code"),
    [
        (False, "party-1", grpc.StatusCode.UNIMPLEMENTED),
        (True, "nobody", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_whom_it_is_not_for_is_refused(
    tmp_path: Path, *, reflection: bool, name: str, code: grpc.StatusCode
) -> None:
    request = ServerReflectionRequest(list_services="*").SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        ask(tmp_path, request, reflection=reflection, name=name)
    assert caught.value.code() is code


def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(tmp_path, b"\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
