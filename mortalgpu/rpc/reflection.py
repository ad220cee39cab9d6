"""The standard reflection service, v1 and v1alpha: a server describes its services to tools such as grpcurl.

Describes the files of the services it is given, and what these import; nothing else of the program's descriptors.
"""

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor

from mortalgpu.rpc.pb.grpc.reflection.v1 import reflection_pb2 as v1
from mortalgpu.rpc.pb.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from mortalgpu.rpc.service import Call, Receive, Send, Service, bidirectional
from mortalgpu.rpc.status import Code

_VERSIONS = {"grpc.reflection.v1.ServerReflection": v1, "grpc.reflection.v1alpha.ServerReflection": v1alpha}


def reflection_services(names: Iterable[str]) -> list[Service]:
    """Return the reflection services for a server that serves `names` (full service names) and these.

    The generated modules of all named services must be imported; KeyError otherwise.
    """
    catalogue = _Catalogue([*names, *_VERSIONS])
    return [_service(name, version, catalogue) for name, version in _VERSIONS.items()]


class _Catalogue:
    """The described services and files."""

    def __init__(self, names: list[str]) -> None:
        self.names = sorted(names)
        self._pool = descriptor_pool.Default()
        self._files: dict[str, FileDescriptor] = {}
        for name in names:
            for file in _with_imports(self._pool.FindFileContainingSymbol(name)):
                self._files[file.name] = file

    def file(self, name: str) -> FileDescriptor | None:
        """The described file of that name."""
        return self._files.get(name)

    def file_of(self, symbol: str) -> FileDescriptor | None:
        """The described file that defines a symbol. Methods are found by their service: the pool does not index them."""
        for name in (symbol, symbol.rpartition(".")[0]):
            try:
                return self.file(self._pool.FindFileContainingSymbol(name).name)
            except KeyError:
                continue
        return None


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """The file first, then what it imports; none twice."""
    seen: dict[str, FileDescriptor] = {}
    waiting = [file]
    while waiting:
        found = waiting.pop()
        if found.name not in seen:
            seen[found.name] = found
            waiting += found.dependencies
    yield from seen.values()


def _service(name: str, version: ModuleType, catalogue: _Catalogue) -> Service:
    async def info(receive: Receive[Any], _call: Call, send: Send) -> None:
        while (request := await receive()) is not None:
            answer = version.ServerReflectionResponse(valid_host=request.host, original_request=request)
            _fill_in(answer, request, version, catalogue)
            await send(answer)

    return Service(name, {"ServerReflectionInfo": bidirectional(version.ServerReflectionRequest, info)})


def _fill_in(answer: Any, request: Any, version: ModuleType, catalogue: _Catalogue) -> None:
    match request.WhichOneof("message_request"):
        case "list_services":
            listed = [version.ServiceResponse(name=name) for name in catalogue.names]
            answer.list_services_response.CopyFrom(version.ListServiceResponse(service=listed))
        case "file_by_filename":
            _describe(answer, catalogue.file(request.file_by_filename))
        case "file_containing_symbol":
            _describe(answer, catalogue.file_of(request.file_containing_symbol))
        case "all_extension_numbers_of_type" if catalogue.file_of(request.all_extension_numbers_of_type):
            answer.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
        case "file_containing_extension" | "all_extension_numbers_of_type":
            _describe(answer, None)
        case _:
            answer.error_response.error_code = Code.INVALID_ARGUMENT
            answer.error_response.error_message = "the request asks nothing"


def _describe(answer: Any, file: FileDescriptor | None) -> None:
    if file is None:
        answer.error_response.error_code = Code.NOT_FOUND
        answer.error_response.error_message = "nothing of that name is served here"
    else:
        answer.file_descriptor_response.file_descriptor_proto.extend(found.serialized_pb for found in _with_imports(file))
