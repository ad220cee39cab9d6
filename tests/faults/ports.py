"""Every method of every port, found by looking: a port, a method, or an error that is new is covered without being listed.

A port is a protocol of a `base.py` in mortalgpu. A point is one place in which a call can fail: the call itself, and where it
gives a context, its entering, leaving, and each item of an iterator in it.
"""

import collections.abc
import contextlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from types import ModuleType

import mortalgpu
from mortalgpu import errors


class Shape(Enum):
    """How a method is called."""

    PLAIN = "plain"
    ASYNC = "async"
    PROPERTY = "property"
    CONTEXT = "context"
    ITEM = "item"
    LEAVING = "leaving"

    @property
    def waits(self) -> bool:
        """Whether a call may take time."""
        return self not in (Shape.PLAIN, Shape.PROPERTY)


@dataclass(frozen=True)
class Point:
    """One place in which a port can fail. `declared` are the errors that its contract names; `result` is the annotation.

    `may_wait`: its contract says that it waits, and for how long is nobody's fault.
    """

    port: str
    method: str
    shape: Shape
    declared: tuple[type[Exception], ...]
    result: object
    may_wait: bool = False

    @cached_property
    def name(self) -> str:
        """Port, method, and the part of it."""
        part = {Shape.ITEM: ".next", Shape.LEAVING: ".leave"}.get(self.shape, "")
        return f"{self.port}.{self.method}{part}"


def port_modules() -> list[ModuleType]:
    """The modules that hold ports."""
    packages = (found.name for found in pkgutil.iter_modules(mortalgpu.__path__) if found.ispkg)
    names = (f"mortalgpu.{name}.base" for name in packages)
    return [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]


@cache
def protocols() -> dict[type, str]:
    """Every port with its name."""
    found = {}
    for module in port_modules():
        for name, value in vars(module).items():
            if inspect.isclass(value) and getattr(value, "_is_protocol", False) and value.__module__ == module.__name__:
                found[value] = name
    return found


@cache
def points() -> tuple[Point, ...]:
    """Every point of every port."""
    return tuple(point for protocol in protocols() for point in points_of(protocol))


def points_of(protocol: type) -> Iterator[Point]:
    """The points of one port. What a `with` calls is left out: it is `close`."""
    module = importlib.import_module(protocol.__module__)
    for method, value in vars(protocol).items():
        if method.startswith("_") and method != "__call__":
            continue
        function = value.fget if isinstance(value, property) else value
        if not inspect.isfunction(function):
            continue
        result = typing.get_type_hints(function, vars(module)).get("return")
        declared = _declared(function.__doc__ or "", module.__doc__ or "")
        yield from _points(protocols()[protocol], method, value, declared, result)


def _points(port: str, method: str, value: object, declared: tuple[type[Exception], ...], result: object) -> Iterator[Point]:
    if isinstance(value, property):
        yield Point(port, method, Shape.PROPERTY, declared, result)
    elif inspect.iscoroutinefunction(value):
        yield Point(port, method, Shape.ASYNC, declared, result, (value.__doc__ or "").startswith("Wait "))
    elif typing.get_origin(result) is contextlib.AbstractAsyncContextManager:
        (inside,) = typing.get_args(result)[:1]
        yield Point(port, method, Shape.CONTEXT, declared, inside)
        if typing.get_origin(inside) is collections.abc.AsyncIterator:
            yield Point(port, method, Shape.ITEM, declared, typing.get_args(inside)[0])
        yield Point(port, method, Shape.LEAVING, declared, None)
    else:
        yield Point(port, method, Shape.PLAIN, declared, result)


def _declared(about_method: str, about_port: str) -> tuple[type[Exception], ...]:
    """The errors that a contract's text names: the method's own, and those that its port declares for every verb."""
    if re.search(r"[Nn]ever raises", about_method):
        return ()
    shared = about_port.partition("Errors of every verb")[2]
    named = dict.fromkeys(re.findall(r"\b[A-Z]\w+", f"{about_method} {shared}"))
    found = (getattr(errors, name, None) for name in named)
    return tuple(error for error in found if inspect.isclass(error) and issubclass(error, Exception))
