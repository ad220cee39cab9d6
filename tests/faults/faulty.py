"""Any port, made faulty: a wrapper for each method that is found in the port itself, with one plan for all of them.

The plan counts the calls of each point; a fault strikes at the call it is planned for. A lie that would be none there (an
empty answer cannot be emptied) waits for the next call at which it is one.
"""

import errno
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast, get_args

import trio

from tests.faults.lies import LIES, Lie
from tests.faults.ports import Point, Shape, points_of, protocols

T = TypeVar("T")

LATE_SECONDS = 45.0
"""Longer than anybody's deadline."""


class Foreign(Exception):
    """What a library raises that nobody has heard of."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a point: the `number`-th, from 1. `ask` carries it out."""

    point: Point
    number: int
    ask: Callable[[], Awaitable[Any]]


class Kind(Protocol):
    """A way to fail. `name` says which."""

    @property
    def name(self) -> str: ...

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """Answer in the place of the partner, which may be asked."""
        ...


@dataclass(frozen=True, slots=True)
class Raises:
    """Raises an error."""

    error: type[Exception]

    @property
    def name(self) -> str:
        """Which."""
        return f"raises {self.error.__name__}"

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """See Kind."""
        plan.note(call, self)
        raise self.error(errno.EIO, "made up") if self.error is OSError else self.error("made up")


@dataclass(frozen=True, slots=True)
class Hangs:
    """Never answers."""

    name: str = "hangs"

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """See Kind."""
        plan.note(call, self)
        await trio.sleep_forever()


@dataclass(frozen=True, slots=True)
class StaysQuiet:
    """Has nothing to say for as long as anything is wrong: what a verb that waits by its contract may do."""

    name: str = "stays quiet"

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """See Kind."""
        plan.note(call, self)
        while not plan.healthy:
            await trio.sleep(1.0)
        return await call.ask()


@dataclass(frozen=True, slots=True)
class AnswersLate:
    """Answers what was true when it was asked, long after."""

    name: str = "answers late"

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """See Kind."""
        plan.note(call, self)
        answer = await call.ask()
        await trio.sleep(LATE_SECONDS)
        return answer


@dataclass(frozen=True, slots=True)
class Ends:
    """An iterator that is at its end."""

    name: str = "ends"

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """See Kind."""
        plan.note(call, self)
        raise StopAsyncIteration


@dataclass(frozen=True, slots=True)
class Lies:
    """Says what is not so."""

    lie: Lie

    @property
    def name(self) -> str:
        """Which lie."""
        return f"lies: {self.lie.name}"

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """See Kind."""
        truth = await call.ask()
        older = plan.first.get(call.point.name, truth)
        if plan.healthy:  # It waited for something to tell until nothing may be wrong any more.
            return truth
        if not self.lie.applies(truth, older):
            plan.put_off(call)
            plan.keep(call.point, truth)
            return truth
        plan.note(call, self)
        told = self.lie.told(truth, older)
        for hear in plan.hear_lie:
            hear(call.point, truth, told)
        return told


@dataclass(frozen=True, slots=True)
class Denies:
    """Says that there is none."""

    name: str = "lies: there is none"

    async def strike(self, plan: "Plan", call: Call) -> Any:
        """See Kind."""
        if await call.ask() is None:
            plan.put_off(call)
        else:
            plan.note(call, self)


UNDECLARED: tuple[type[Exception], ...] = (OSError, Foreign, RuntimeError)


def failures(point: Point) -> list[Kind]:
    """The errors that a point can raise: those of its contract, and others."""
    return [Raises(error) for error in (*point.declared, *UNDECLARED)]


def waits(point: Point) -> list[Kind]:
    """The ways in which it does not answer in time, or not any more."""
    if point.shape is Shape.ITEM:
        return [StaysQuiet(), AnswersLate(), Ends()]
    if point.may_wait:
        return [StaysQuiet(), AnswersLate()]
    return [Hangs(), AnswersLate()] if point.shape.waits else []


def lies(point: Point, samples: list[tuple[object, object]]) -> list[Kind]:
    """The lies that can be told in the place of these answers (each with the first one).

    The clock that never goes back is the kernel's own, and is believed.
    """
    if point.name == "WallClock.monotonic":
        return []
    found: list[Kind] = [Lies(lie) for lie in LIES if any(lie.applies(truth, first) for truth, first in samples)]
    return [*found, Denies()] if type(None) in get_args(point.result) else found


@dataclass(slots=True)
class Plan:
    """Which call of which point fails how, and what became of it."""

    faults: dict[tuple[str, int], Kind] = field(default_factory=dict)
    """By point and number of the call, from 1."""
    lasting_seconds: float = 0.0
    """For how long after a fault every call of its point fails in the same way."""
    calls: Counter[str] = field(default_factory=Counter)
    exposed: dict[str, list[int]] = field(default_factory=dict)
    """By point, the numbers of the calls at which a fault could have struck."""
    injected: list[str] = field(default_factory=list)
    first: dict[str, object] = field(default_factory=dict)
    samples: dict[str, list[tuple[object, object]]] = field(default_factory=dict)
    """Answers that differ, with the first one: filled while `samples_wanted`."""
    samples_wanted: bool = False
    hear_lie: list[Callable[[Point, object, object], None]] = field(default_factory=list)
    hear_answer: list[Callable[[Point], None]] = field(default_factory=list)
    """Told of each answer before the caller has it: the world may change behind its back."""
    healthy: bool = False
    """From then on nothing is planned any more."""

    _lasting: dict[str, tuple[float, Kind]] = field(default_factory=dict)

    def note(self, call: Call, kind: Kind) -> None:
        """Take note of a fault that strikes now."""
        if self.lasting_seconds:
            self._lasting.setdefault(call.point.name, (trio.current_time() + self.lasting_seconds, kind))
        self.injected.append(f"{call.point.name} {kind.name} at call {call.number}")

    def put_off(self, call: Call) -> None:
        """Let the fault of this call strike at the next one that begins."""
        kind = self.faults.pop((call.point.name, call.number), None)
        if kind is not None:
            self.faults.setdefault((call.point.name, self.calls[call.point.name] + 1), kind)

    async def call(self, point: Point, ask: Callable[[], Awaitable[Any]]) -> Any:
        """One call, as planned."""
        self.calls[point.name] += 1
        call = Call(point, self.calls[point.name], ask)
        if not self.healthy:
            self.exposed.setdefault(point.name, []).append(call.number)
        kind = self._planned(call)
        answer = await (ask() if kind is None else kind.strike(self, call))
        if kind is None:
            self.keep(point, answer)
        for hear in self.hear_answer:
            hear(point)
        return answer

    def _planned(self, call: Call) -> Kind | None:
        if self.healthy:
            return None
        until, kind = self._lasting.get(call.point.name, (0.0, None))
        return kind if kind and trio.current_time() < until else self.faults.get((call.point.name, call.number))

    def keep(self, point: Point, answer: object) -> None:
        """Remember an answer."""
        first = self.first.setdefault(point.name, answer)
        if self.samples_wanted:
            kept = self.samples.setdefault(point.name, [])
            if len(kept) < 50 and (not kept or kept[-1][0] != answer):
                kept.append((answer, first))


def faulty(inner: T, protocol: type, plan: Plan) -> T:
    """Return the port with every method going through the plan."""
    return cast(T, _Faulty(inner, protocol, plan))


class _Faulty:
    """A port of any kind."""

    def __init__(self, inner: Any, protocol: type, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan
        self._protocol = protocol
        self._points: dict[str, list[Point]] = {}
        for point in points_of(protocol):
            self._points.setdefault(point.method, []).append(point)

    def __getattr__(self, method: str) -> Any:
        points = self._points.get(method)
        if points is None:
            raise AttributeError(f"{self._protocol.__name__} has no {method}")
        return _method(getattr(self._inner, method) if points[0].shape is not Shape.PROPERTY else None, points, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _method(self._inner, self._points["__call__"], self)(*arguments, **named)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _method(inner: Any, points: list[Point], port: _Faulty) -> Any:
    plan, point = port._plan, points[0]
    if point.shape is Shape.PROPERTY:
        return _at_once(plan.call(point, lambda: _answer(getattr(port._inner, point.method))))
    if point.shape is Shape.ASYNC:

        async def waiting(*arguments: Any, **named: Any) -> Any:
            return _wrapped(await plan.call(point, lambda: inner(*arguments, **named)), point, plan)

        return waiting
    if point.shape is Shape.CONTEXT:
        return lambda *arguments, **named: _context(inner(*arguments, **named), points, plan)

    def plain(*arguments: Any, **named: Any) -> Any:
        return _at_once(plan.call(point, lambda: _answer(inner(*arguments, **named))))

    return plain


@asynccontextmanager
async def _context(inner: AbstractAsyncContextManager[Any], points: list[Point], plan: Plan) -> AsyncIterator[Any]:
    by_shape = {point.shape: point for point in points}
    await plan.call(by_shape[Shape.CONTEXT], _nothing)
    try:
        async with inner as inside:
            yield _Items(inside, by_shape[Shape.ITEM], plan) if Shape.ITEM in by_shape else _wrapped(inside, points[0], plan)
    finally:
        await plan.call(by_shape[Shape.LEAVING], _nothing)


class _Items:
    """An iterator, item by item."""

    def __init__(self, inner: AsyncIterator[Any], point: Point, plan: Plan) -> None:
        self._inner = inner
        self._point = point
        self._plan = plan

    def __aiter__(self) -> "_Items":
        return self

    async def __anext__(self) -> Any:
        return await self._plan.call(self._point, lambda: anext(self._inner))


def _wrapped(value: Any, point: Point, plan: Plan) -> Any:
    """Make an answer that is a port itself faulty too."""
    protocol = next((found for found in (point.result, *get_args(point.result)) if found in protocols()), None)
    return value if value is None or protocol is None else _Faulty(value, cast(type, protocol), plan)


async def _nothing() -> None:
    """A part of a call that does nothing by itself."""


async def _answer(value: Any) -> Any:
    return value


def _at_once(call: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a plain method waited")
