"""What a server serves: a table of methods, and what a handler is given. Knows no connection and no HTTP/2.

A handler ends by returning, by an error (the table in `status` says what the caller learns of it), or by being cancelled:
at its deadline, or when its caller is gone. It must reach a checkpoint now and then for that.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from mortalgpu.rpc.peer import Peer
from mortalgpu.rpc.status import Code, Refusal

Request = TypeVar("Request", bound=Message)
Send = Callable[[Message], Awaitable[None]]
"""Sends one message; returns when the connection has taken it, so a slow reader slows its handler and nobody else."""
Receive = Callable[[], Awaitable[Request | None]]
"""Waits for the client's next message; None when it has ended its side."""


@dataclass(frozen=True, slots=True)
class Call:
    """Circumstances of one call."""

    method: str
    """Full path, /package.Service/Method."""
    deadline: float
    """On Trio's clock; infinite when there is none."""
    metadata: Mapping[str, str | bytes]
    """Lower-case names; bytes under names that end in -bin. Of a name sent twice, the first value: nobody can add to it."""
    authority: str
    peer: Peer
    connection_id: int


class Exchange(Protocol):
    """The two directions of one call, in bytes."""

    @property
    def call(self) -> Call:
        """The circumstances."""
        ...

    async def receive(self) -> bytes | None:
        """Wait for the client's next message; None at its end."""
        ...

    async def send(self, message: bytes) -> None:
        """Send one message, waiting for the client."""
        ...

    async def receive_only(self) -> bytes:
        """Wait, within the time for a request to arrive, for exactly one message and the client's end."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """How to carry out one method. `bounded`: the server's time limit for unary calls holds for it."""

    carry_out: Callable[[Exchange], Awaitable[None]]
    bounded: bool


@dataclass(frozen=True, slots=True)
class Service:
    """A service by its full name, and its methods by their short names."""

    name: str
    methods: Mapping[str, Method]


def _parse(request_class: type[Request], data: bytes) -> Request:
    try:
        return request_class.FromString(data)
    except DecodeError:
        raise Refusal(Code.INVALID_ARGUMENT, f"the request is not a {request_class.DESCRIPTOR.full_name}") from None


def unary(request_class: type[Request], handler: Callable[[Request, Call], Awaitable[Message]]) -> Method:
    """One request, one answer, within the server's time limit for unary calls or the client's if that is shorter."""

    async def carry_out(exchange: Exchange) -> None:
        request = _parse(request_class, await exchange.receive_only())
        answer = await handler(request, exchange.call)
        await exchange.send(answer.SerializeToString())

    return Method(carry_out, bounded=True)


def streaming(request_class: type[Request], handler: Callable[[Request, Call, Send], Awaitable[None]]) -> Method:
    """One request, any number of answers, for as long as handler and client like."""

    async def carry_out(exchange: Exchange) -> None:
        request = _parse(request_class, await exchange.receive_only())

        async def send(message: Message) -> None:
            await exchange.send(message.SerializeToString())

        await handler(request, exchange.call, send)

    return Method(carry_out, bounded=False)


def bidirectional(request_class: type[Request], handler: Callable[[Receive[Request], Call, Send], Awaitable[None]]) -> Method:
    """Any number of requests and answers in any order."""

    async def carry_out(exchange: Exchange) -> None:
        async def receive() -> Request | None:
            data = await exchange.receive()
            return None if data is None else _parse(request_class, data)

        async def send(message: Message) -> None:
            await exchange.send(message.SerializeToString())

        await handler(receive, exchange.call, send)

    return Method(carry_out, bounded=False)


def methods_by_path(services: Iterable[Service]) -> dict[str, Method]:
    """Flatten services into one table keyed /service/method."""
    return {f"/{service.name}/{name}": method for service in services for name, method in service.methods.items()}
