"""Which keys there are, and of which types: paths of keys, walked over the structs of `config`."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from mortalgpu.config import Config

KeyPath = tuple[str | int, ...]
"""The way to one value: names of keys, and numbers of entries."""


def find(squeezed: str) -> KeyPath | None:
    """Return the path whose words, in upper case and without anything between them, are these; None when none is."""
    return _find(Config, squeezed)


def type_at(path: Iterable[str | int]) -> Any:
    """Return the type of what stands at a path; None where nothing can."""
    kind: Any = Config
    for step in path:
        struct = _struct_of(kind)
        if struct is not None:
            kind = next((info.type for info in msgspec.structs.fields(struct) if info.encode_name == step), None)
        else:
            kind = get_args(kind)[-1 if get_origin(kind) is dict else 0] if get_args(kind) else None
    return kind


def names_at(path: Iterable[str | int]) -> list[str]:
    """Return the keys that may stand at a path."""
    struct = _struct_of(type_at(path))
    return [info.encode_name for info in msgspec.structs.fields(struct)] if struct else []


def wants_text(path: Iterable[str | int]) -> bool:
    """Say whether a text at a path is taken as it is."""
    kind = type_at(path)
    return kind is str or get_origin(kind) is Literal or (get_origin(kind) is Annotated and get_args(kind)[0] is str)


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _step(kind: Any, rest: str) -> Iterator[tuple[str | int, Any, str]]:
    """Yield (step, type below it, what is left) for every key of `kind` that `rest`, squeezed upper case, may begin with."""
    struct = _struct_of(kind)
    if struct is not None:
        for info in msgspec.structs.fields(struct):
            squeezed = info.encode_name.upper()
            if rest.startswith(squeezed):
                yield info.encode_name, info.type, rest[len(squeezed) :]
    elif get_origin(kind) is tuple and (number := re.match(r"\d{1,4}", rest)):
        yield int(number.group()), get_args(kind)[0], rest[number.end() :]
    elif get_origin(kind) is dict and rest.isalnum():
        yield rest.lower(), get_args(kind)[1], ""


def _find(kind: Any, rest: str) -> KeyPath | None:
    if not rest:
        return ()
    for step, below, left in _step(kind, rest):
        tail = _find(below, left)
        if tail is not None:
            return (step, *tail)
    return None
