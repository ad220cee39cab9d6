"""What msgspec found wrong, in the operator's words: the key, its value unless it is a secret, and what would be right."""

import re
import types
from typing import Any, get_args

from mortalgpu.config import PATTERN_HINTS
from mortalgpu.configfile.document import Tree
from mortalgpu.configfile.keys import names_at, type_at
from mortalgpu.configfile.words import LONGEST_SHOWN, suggestion
from mortalgpu.errors import ConfigError

_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_AT = re.compile(r"^(?P<problem>.*) - at `\$(?P<path>[^`]*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_SECRETS = "grpcSecurity"
"""The section of which no value is ever shown."""


def explained(message: str, tree: Tree) -> ConfigError:
    """Return the error for a message of msgspec about a tree."""
    found = _AT.match(message)
    problem, path = (found["problem"], found["path"] or "") if found else (message, "")
    if path.endswith("[...]"):
        path = _with_key(path, tree)
    unknown = _UNKNOWN.match(problem)
    if unknown:
        names = names_at(_steps(path))
        return ConfigError(f"config{path}.{unknown['name']}", f"unknown key{suggestion(unknown['name'], names)}")
    missing = _MISSING.match(problem)
    if missing:
        return ConfigError(f"config{path}.{missing['name']}", "is required and missing")
    return ConfigError(f"config{path}", _plain(problem, path) + _shown(path, tree))


def _with_key(path: str, tree: Tree) -> str:
    """Name the wrong entry of a mapping, which msgspec leaves as `[...]`."""
    above = path.removesuffix("[...]")
    allowed = get_args(type_at(_steps(path)))
    entries: Any = tree
    for step in _steps(above):
        entries = entries[step]
    return above + "." + next((key for key, value in entries.items() if value not in allowed), "*")


def _plain(problem: str, path: str) -> str:
    if "matching regex" in problem:
        return next(hint for pattern, hint in PATTERN_HINTS.items() if repr(pattern) in problem)
    if problem.startswith("Invalid enum value"):
        return f"is none of {', '.join(map(str, get_args(type_at(_steps(path)))))}"
    plain = problem.replace("`", "")
    return plain[:1].lower() + plain[1:]


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    for name, number in _PATH_STEP.findall(path):
        steps.append(name or (int(number) if number.isdecimal() else 0))
    return steps


def _shown(path: str, tree: Tree) -> str:
    if _SECRETS in path:
        return ""
    value: Any = tree
    try:
        for step in _steps(path):
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return ""
    if isinstance(value, str) and len(value) > LONGEST_SHOWN:
        return f"; its value begins with {value[:LONGEST_SHOWN]!r}"
    return f"; its value is {value!r}" if isinstance(value, (str, int, float, bool, types.NoneType)) else ""
