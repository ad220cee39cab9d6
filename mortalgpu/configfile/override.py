"""Overrides one key of a tree: by a variable of the environment, or by `key.path=value` from a flag."""

import itertools
import re
from typing import Any

import msgspec

from mortalgpu.config import Config
from mortalgpu.configfile import document, keys
from mortalgpu.configfile.document import Tree
from mortalgpu.errors import ConfigError


def apply_variable(tree: Tree, name: str, value: str) -> None:
    """Put a variable's value in its place; one that names no key of ours changes nothing. Raises ConfigError."""
    if not name.startswith("MORTALGPU_"):
        return
    path = keys.find(name.removeprefix("MORTALGPU_").replace("_", "").upper())
    if path:
        _put(tree, path, _value(value, path, name), name)


def apply_flag(tree: Tree, override: str) -> None:
    """Put a flag's value in its place. Raises ConfigError."""
    key, equals, value = override.partition("=")
    squeezed = re.sub(r"[.\[\]]", "", key.removeprefix("config.")).upper()
    path = keys.find(squeezed) if equals else None
    if not path:
        raise ConfigError(f"--set {key}", "names no key; write key.path=value, e.g. log.verbose=true")
    _put(tree, path, _value(value, path, f"--set {key}"), f"--set {key}")


def _value(text: str, path: keys.KeyPath, source: str) -> object:
    """Read a value as YAML. A key that wants text takes it as it is: a secret may look like a number, or like YAML."""
    document.refuse_half_characters(source, text)
    return text if keys.wants_text(path) else document.value_of(text, source)


def _put(tree: Tree, path: keys.KeyPath, value: object, source: str) -> None:
    if isinstance(path[0], str) and isinstance(path[1] if len(path) > 1 else None, int) and path[0] not in tree:
        tree[path[0]] = msgspec.json.decode(msgspec.json.encode(Config()))[path[0]]
    place: Any = tree
    for step, following in itertools.pairwise(path):
        place = _descend(place, step, [] if isinstance(following, int) else {}, source)
    last = path[-1]
    if isinstance(last, int) and isinstance(place, list) and last == len(place):
        place.append(value)
    elif _fits(place, last):
        place[last] = value
    else:
        raise ConfigError(source, f"cannot be set: there is no place for {last!r} in what the file says above it")


def _descend(place: Any, step: str | int, empty: Any, source: str) -> Any:
    if isinstance(place, list) and isinstance(step, int) and step == len(place):
        place.append(empty)
    if isinstance(place, dict) and place.get(step) is None:
        place[step] = empty
    if not _fits(place, step):
        raise ConfigError(source, f"cannot be set: there is no entry {step!r} above it")
    return place[step]


def _fits(place: object, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(place, list) and step < len(place)
    return isinstance(place, dict)
