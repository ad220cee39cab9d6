"""Health and reflection, asked in both versions and about things that are not there."""

from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from mortalgpu.rpc.channel import Channel, channel_over
from mortalgpu.rpc.health import Health
from mortalgpu.rpc.pb.grpc.health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from mortalgpu.rpc.pb.grpc.reflection.v1 import reflection_pb2 as v1
from mortalgpu.rpc.pb.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from mortalgpu.rpc.reflection import reflection_services
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.status import Code, RpcError

CHECK, WATCH, LIST = (f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List"))


async def _asked(health: Health, questions: Any) -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        services = [health.service(), *reflection_services(["grpc.health.v1.Health"])]
        nursery.start_soon(Server(services).serve_connection, theirs)
        async with channel_over(ours, "memory") as channel:
            await questions(channel)
        nursery.cancel_scope.cancel()


async def test_a_watcher_hears_of_each_change_and_of_nothing_else() -> None:
    health = Health()
    seen: list[int] = []

    async def questions(channel: Channel) -> None:
        async with channel.stream(WATCH, HealthCheckRequest(service="late"), HealthCheckResponse) as answers:
            for change in (None, True, False):
                if change is not None:
                    health.set("other", serving=change)
                    health.set("late", serving=change)
                answer = await answers.receive()
                assert answer is not None
                seen.append(answer.status)

    await _asked(health, questions)
    assert seen == [HealthCheckResponse.SERVICE_UNKNOWN, HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING]


async def test_all_states_can_be_listed() -> None:
    health = Health()
    health.set("a.B", serving=False)

    async def questions(channel: Channel) -> None:
        listed = await channel.unary(LIST, HealthListRequest(), HealthListResponse)
        assert {name: answer.status for name, answer in listed.statuses.items()} == {"": 1, "a.B": 2}

    await _asked(health, questions)


async def test_a_check_of_an_unknown_service_is_not_found() -> None:
    async def questions(channel: Channel) -> None:
        with pytest.raises(RpcError) as caught:
            await channel.unary(CHECK, HealthCheckRequest(service="x"), HealthCheckResponse)
        assert caught.value.code is Code.NOT_FOUND

    await _asked(Health(), questions)


@pytest.mark.parametrize("version", [v1, v1alpha], ids=["v1", "v1alpha"])
@pytest.mark.parametrize(
    ("question", "answer", "code"),
    [
        ({"list_services": ""}, "list_services_response", 0),
        ({"file_by_filename": "grpc/health/v1/health.proto"}, "file_descriptor_response", 0),
        ({"file_containing_symbol": "grpc.health.v1.Health.Check"}, "file_descriptor_response", 0),
        ({"all_extension_numbers_of_type": "grpc.health.v1.HealthCheckRequest"}, "all_extension_numbers_response", 0),
        ({"file_by_filename": "deviceplugin/v1beta1/deviceplugin.proto"}, "error_response", Code.NOT_FOUND),
        ({"file_containing_symbol": "google.protobuf.Any"}, "error_response", Code.NOT_FOUND),
        ({"all_extension_numbers_of_type": "no.Such"}, "error_response", Code.NOT_FOUND),
        ({}, "error_response", Code.INVALID_ARGUMENT),
    ],
    ids=str,
)
async def test_reflection_answers(version: ModuleType, question: dict[str, str], answer: str, code: int) -> None:
    path = f"/{version.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo"

    async def questions(channel: Channel) -> None:
        request = version.ServerReflectionRequest(host="h", **question)
        async with channel.stream(path, request, version.ServerReflectionResponse) as answers:
            (told,) = [told async for told in answers]
        assert (told.WhichOneof("message_response"), told.error_response.error_code) == (answer, code)
        assert told.original_request == request

    await _asked(Health(), questions)


def test_a_service_nobody_has_described_cannot_be_reflected() -> None:
    with pytest.raises(KeyError):
        reflection_services(["no.such.Service"])
