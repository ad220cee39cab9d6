"""What a port may say that is not so: plausible answers of the right type, made from the true one.

A lie is a plain function of the true answer and of an older one. Where it changes nothing it is no lie, and is not told.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mortalgpu.model.device import Fault, GpuProcess
from mortalgpu.model.pod import ContainerRef

HUGE = 2**62
LONG = "x" * 70_000 + "\n\x1b[31m"
UNKNOWN = "nobody-"
OTHER_CONTAINER = ContainerRef("0badc0de-0000-4000-8000-000000000000", "0badc0de" * 8)

Leaf = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Lie:
    """One way not to tell the truth. `twist` takes the true answer and an older one."""

    name: str
    twist: Callable[[Any, Any], Any]

    def told(self, truth: object, older: object) -> object:
        """What is said instead; the truth itself where the lie does not apply."""
        return self.twist(truth, older)

    def applies(self, truth: object, older: object) -> bool:
        """Whether there is anything to lie about."""
        return self.told(truth, older) != truth


def _rebuilt(value: Any, leaf: Leaf) -> Any:
    """The same value with each leaf (number, text, flag, enumerator) changed."""
    if isinstance(value, Mapping):
        return {key: _rebuilt(inside, leaf) for key, inside in value.items()}
    if isinstance(value, tuple | frozenset | list):
        return type(value)(_rebuilt(inside, leaf) for inside in value)
    if _is_record(value):
        return dataclasses.replace(value, **{name: _rebuilt(inside, leaf) for name, inside in _fields(value)})
    return leaf(value)


def _numbers(change: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def leaf(value: Any) -> Any:
        return change(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    return lambda truth, _older: _rebuilt(truth, leaf)


def _texts(change: Callable[[str], str]) -> Callable[[Any, Any], Any]:
    return lambda truth, _older: _rebuilt(truth, lambda value: change(value) if isinstance(value, str) else value)


def _flags(truth: Any, _older: Any) -> Any:
    def leaf(value: Any) -> Any:
        if isinstance(value, Enum):
            members = list(type(value))
            return members[(members.index(value) + 1) % len(members)]
        return not value if isinstance(value, bool) else value

    return _rebuilt(truth, leaf)


def _empty(truth: Any, _older: Any) -> Any:
    if isinstance(truth, Mapping):
        return {}
    if isinstance(truth, tuple):
        return ()
    if _is_record(truth):
        return dataclasses.replace(truth, **{name: _empty(inside, None) for name, inside in _fields(truth)})
    return truth


def _doubled(truth: Any, _older: Any) -> Any:
    if isinstance(truth, Mapping):
        return {key: _doubled(inside, None) for key, inside in truth.items()}
    if isinstance(truth, tuple):
        return tuple(_doubled(inside, None) for inside in truth) * 2
    if _is_record(truth):
        return dataclasses.replace(truth, **{name: _doubled(inside, None) for name, inside in _fields(truth)})
    return truth


def _shorter(truth: Any, _older: Any) -> Any:
    if isinstance(truth, Mapping):
        return dict(list(truth.items())[1:])
    if isinstance(truth, tuple):
        return truth[1:]
    if _is_record(truth):
        return dataclasses.replace(truth, **{name: _shorter(inside, None) for name, inside in _fields(truth)})
    return truth


def _reversed(truth: Any, _older: Any) -> Any:
    if isinstance(truth, Mapping):
        return dict(reversed([(key, _reversed(inside, None)) for key, inside in truth.items()]))
    if isinstance(truth, tuple):
        return tuple(_reversed(inside, None) for inside in reversed(truth))
    return truth


def _swapped(truth: Any, _older: Any) -> Any:
    """Each has what belongs to the next."""
    if isinstance(truth, Mapping):
        return dict(zip(truth, _rotated(truth.values()), strict=True))
    if isinstance(truth, tuple) and truth and all(_is_record(each) for each in truth):
        names = [name for name, inside in _fields(truth[0]) if isinstance(inside, Mapping | tuple)]
        columns = {name: _rotated(getattr(each, name) for each in truth) for name in names}
        return tuple(
            dataclasses.replace(each, **{name: columns[name][number] for name in names}) for number, each in enumerate(truth)
        )
    if _is_record(truth):
        return dataclasses.replace(
            truth, **{name: _swapped(inside, None) for name, inside in _fields(truth) if isinstance(inside, Mapping | tuple)}
        )
    return truth


def _strangers(truth: Any, _older: Any) -> Any:
    """Names and numbers of nobody."""
    if isinstance(truth, Mapping):
        return {
            UNKNOWN + key if isinstance(key, str) else key + 100_000 if isinstance(key, int) else key: inside
            for key, inside in truth.items()
        }
    return _rebuilt(truth, lambda value: UNKNOWN + value if isinstance(value, str) and value else value)


def _silent(truth: Any, _older: Any) -> Any:
    """Nothing where nothing may be said."""
    if isinstance(truth, Mapping):
        return {key: _silent(inside, None) for key, inside in truth.items()}
    if isinstance(truth, tuple):
        return tuple(_silent(inside, None) for inside in truth)
    if not _is_record(truth):
        return truth
    hints = typing.get_type_hints(type(truth))
    found = {name: None if _may_be_none(hints[name]) else _silent(inside, None) for name, inside in _fields(truth)}
    return dataclasses.replace(truth, **found)


def _faults(truth: Any, _older: Any) -> Any:
    if not isinstance(truth, Mapping) or not all(isinstance(key, str) for key in truth):
        return truth
    return {key: Fault("made up", lost=True) for key in truth}


def _smaller(truth: Any, _older: Any) -> Any:
    """Devices have a tenth of their memory; nothing else is wrong."""
    if isinstance(truth, Mapping):
        return {key: _smaller(inside, None) for key, inside in truth.items()}
    if isinstance(truth, tuple):
        return tuple(_smaller(inside, None) for inside in truth)
    if not _is_record(truth):
        return truth
    sizes = {name: inside // 10 for name, inside in _fields(truth) if name in ("memory_bytes", "total_bytes")}
    return dataclasses.replace(truth, **sizes)


def _larger(truth: Any, _older: Any) -> Any:
    """Processes hold ten times as much; nothing else is wrong."""
    if isinstance(truth, Mapping):
        return {key: _larger(inside, None) for key, inside in truth.items()}
    if isinstance(truth, tuple):
        return tuple(_larger(inside, None) for inside in truth)
    if isinstance(truth, GpuProcess) and truth.used_bytes:
        return dataclasses.replace(truth, used_bytes=truth.used_bytes * 10)
    return truth


def _moved(truth: Any, _older: Any) -> Any:
    """Processes are in another container."""
    if isinstance(truth, Mapping):
        return {key: _moved(inside, None) for key, inside in truth.items()}
    if _is_record(truth) and any(name == "container" for name, _ in _fields(truth)):
        return dataclasses.replace(truth, container=OTHER_CONTAINER)
    return truth


LIES = (
    Lie("negative numbers", _numbers(lambda value: -abs(value) - 1)),
    Lie("huge numbers", _numbers(lambda value: HUGE if isinstance(value, int) else 1e18)),
    Lie("zeros", _numbers(lambda value: value * 0)),
    Lie("numbers one higher", _numbers(lambda value: value + 1)),
    Lie("a tenth", _numbers(lambda value: value // 10)),
    Lie("a day later", _numbers(lambda value: value + 86400.0 if isinstance(value, float) else value)),
    Lie("a day earlier", _numbers(lambda value: value - 86400.0 if isinstance(value, float) else value)),
    Lie("no number", _numbers(lambda value: math.nan if isinstance(value, float) else value)),
    Lie("long texts", _texts(lambda value: value + LONG)),
    Lie("empty texts", _texts(lambda value: "")),
    Lie("flags turned", _flags),
    Lie("nothing there", _empty),
    Lie("everything twice", _doubled),
    Lie("the first one gone", _shorter),
    Lie("in reverse", _reversed),
    Lie("mixed up", _swapped),
    Lie("names of nobody", _strangers),
    Lie("no word", _silent),
    Lie("every device at fault", _faults),
    Lie("another container", _moved),
    Lie("smaller devices", _smaller),
    Lie("larger processes", _larger),
    Lie("the first answer again", lambda _truth, older: older),
)


def _is_record(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]


def _rotated(values: Iterable[Any]) -> list[Any]:
    found = list(values)
    return found[1:] + found[:1]


def _may_be_none(hint: object) -> bool:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return is_union and type(None) in typing.get_args(hint)
