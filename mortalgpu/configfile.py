"""Reads the configuration: a YAML file, then the environment, then flags; later ones override.

Rules:
1. The file holds the tree of `config`, or is a chart's values file whose `config:` key holds it.
2. `MORTALGPU_<KEY_PATH>` overrides a key: the path's words in upper case, with or without underscores between words
   (`deviceManager.deviceCacheTTL` is MORTALGPU_DEVICE_MANAGER_DEVICE_CACHE_TTL). Variables that name no key are left alone,
   since Kubernetes itself sets MORTALGPU_SERVICE_HOST and the like for a Service called mortalgpu.
3. `--set key.path=value` overrides both; a path that names no key is an error.
4. Every error is a ConfigError that names the key, and never shows the value of a secret.
"""

import difflib
import itertools
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import yaml

from mortalgpu.config import PATTERN_HINTS, Config, check
from mortalgpu.errors import ConfigError

Tree = dict[str, Any]

CHART_KEYS = (
    *("affinity", "config", "dashboard", "exporter", "extraEnv", "extraVolumeMounts", "extraVolumes", "fullnameOverride"),
    *("global", "hostNetwork", "image", "imagePullSecrets", "keysSecret", "livenessProbe", "nameOverride", "networkPolicy"),
    *("nodeSelector", "podAnnotations", "podLabels", "priorityClassName", "prometheusRule", "rbac", "readinessProbe"),
    *("resources", "runtimeClassName", "scc", "securityContext", "service", "serviceAccount", "tolerations", "updateStrategy"),
)
"""What may stand beside `config` in a chart's values file."""

_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_AT = re.compile(r"^(?P<problem>.*) - at `\$(?P<path>[^`]*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_SECRETS = "grpcSecurity"
"""The section of which no value is ever shown."""
_MAX_FILE_BYTES = 2**20
_MAX_NODES = 20_000
"""Of a tree with its aliases written out, so that a few lines cannot unfold into gigabytes."""
_MAX_DEPTH = 50
_LONGEST_NUMBER = 100
"""Characters. Far above any figure; PyYAML would take minutes for a long one (`1:1:1:...` is one to the base of 60)."""
_LONGEST_SHOWN = 200
_YAML_TROUBLE = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError, OverflowError)
"""What PyYAML raises for a text that is not what a tag in it says (`!!int ""`), besides its own errors."""


_MERGE = "tag:yaml.org,2002:merge"
"""Of the key `<<`, which may be overridden by what stands beside it."""
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key written twice is an error instead of the last one winning, and so is what is too much."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raises yaml.MarkedYAMLError for a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key_node.start_mark)
            key = None if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
            if key_node.tag != _MERGE and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is written twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Write merged mappings out; raises yaml.MarkedYAMLError for merges of merges that would fill the memory."""
        size = len(node.value)
        for key_node, value_node in node.value:
            merged = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for each in merged if key_node.tag == _MERGE else ():
                if isinstance(each, yaml.MappingNode):
                    self.flatten_mapping(each)
                    size += len(each.value)
                if size > _MAX_NODES:
                    raise yaml.MarkedYAMLError(problem="this merges too much; write it out", problem_mark=key_node.start_mark)
        super().flatten_mapping(node)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Build a number; raises yaml.MarkedYAMLError for one that is too long to mean anything."""
        if len(node.value) > _LONGEST_NUMBER:
            problem = f"a number has at most {_LONGEST_NUMBER} characters; put it in quotes if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        construct = self.construct_yaml_float if node.tag == _FLOAT else self.construct_yaml_int
        return construct(node)


_UniqueKeyLoader.add_constructor(_INT, _UniqueKeyLoader.construct_number)
_UniqueKeyLoader.add_constructor(_FLOAT, _UniqueKeyLoader.construct_number)


def load(path: str, environ: Mapping[str, str], overrides: Sequence[str] = ()) -> Config:
    """Read, override, convert and check the configuration at `path`; an empty path means all defaults.

    `overrides` are `key.path=value` texts from flags. Reads one file; blocks. Raises ConfigError.
    """
    tree = _read(path) if path else {}
    for name, value in sorted(environ.items()):
        _apply_variable(tree, name, value)
    for override in overrides:
        _apply_flag(tree, override)
    config = convert(tree)
    check(config)
    return config


def convert(tree: Tree) -> Config:
    """Turn a plain tree into a Config. Raises ConfigError naming the first wrong key and its value."""
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise _explain(str(error), tree) from None


def _read(path: str) -> Tree:
    try:
        tree = yaml.load(_text_of(path), Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(path, f"is no valid YAML{where}: {_without_names(error.problem or error.context or '')}") from None
    except _YAML_TROUBLE as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(path, f"is no valid YAML: {problem}") from None
    _refuse_bombs(path, tree)
    return _config_of(path, {} if tree is None else tree)


def _text_of(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
        if len(text) > _MAX_FILE_BYTES:
            raise ConfigError(path, f"is longer than {_MAX_FILE_BYTES} bytes; give --config the configuration alone")
        return text.decode()
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}; give --config a readable file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _without_names(problem: str) -> str:
    """Leave out the alias or tag that PyYAML quotes: an unquoted secret that begins with `*` or `!` is taken for one."""
    return re.sub(r" (alias|tag|anchor) ['\"].*", r" \1; quote a value that begins with & * or !", problem, flags=re.DOTALL)


def _refuse_bombs(source: str, tree: object) -> None:
    """Refuse a tree that contains itself, or is too large to walk. Looks at no more than _MAX_NODES nodes."""
    waiting = [(tree, 0)]
    for seen in itertools.count():
        if not waiting:
            return
        node, depth = waiting.pop()
        if seen > _MAX_NODES or depth > _MAX_DEPTH:
            raise ConfigError(source, f"has over {_MAX_NODES} entries or {_MAX_DEPTH} levels; write it without aliases")
        below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        waiting.extend((entry, depth + 1) for entry in below)


def _config_of(path: str, tree: object) -> Tree:
    if not isinstance(tree, dict):
        raise ConfigError(path, f"holds {_kind(tree)}, not a mapping of keys")
    _refuse_odd_keys("config", tree)
    if "config" not in tree:
        return tree
    for key in tree:
        if key not in CHART_KEYS:
            raise ConfigError(str(key), f"unknown key beside `config` in {path}{_suggest(str(key), CHART_KEYS)}")
    inner = tree["config"]
    if inner is None:
        return {}
    if not isinstance(inner, dict):
        raise ConfigError("config", f"expected object, got {_kind(inner)}")
    return inner


def _refuse_odd_keys(where: str, value: object) -> None:
    if isinstance(value, str):
        _refuse_half_characters(where, value)
    if isinstance(value, list):
        for number, entry in enumerate(value):
            _refuse_odd_keys(f"{where}[{number}]", entry)
    if isinstance(value, dict):
        for key, below in value.items():
            if not isinstance(key, str):
                raise ConfigError(where, f"has the key {key!r}, which YAML reads as {_kind(key)}; put it in quotes")
            if "`" in key:
                raise ConfigError(where, f"has the key {key[:_LONGEST_SHOWN]!r}, and no key has a ` in it")
            _refuse_odd_keys(f"{where}.{key}", below)


def _refuse_half_characters(where: str, text: str) -> None:
    """Refuse what cannot be written as UTF-8: half of a surrogate pair, or a byte of the environment that is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(where, "is not UTF-8 text; write it as UTF-8") from None


# Overriding: paths of keys, walked over the types.


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


def _find(kind: Any, rest: str) -> tuple[str | int, ...] | None:
    if not rest:
        return ()
    for step, below, left in _step(kind, rest):
        tail = _find(below, left)
        if tail is not None:
            return (step, *tail)
    return None


def _apply_variable(tree: Tree, name: str, value: str) -> None:
    if not name.startswith("MORTALGPU_"):
        return
    path = _find(Config, name.removeprefix("MORTALGPU_").replace("_", "").upper())
    if path:
        _put(tree, path, _value(value, path, name), name)


def _apply_flag(tree: Tree, override: str) -> None:
    key, equals, value = override.partition("=")
    squeezed = re.sub(r"[.\[\]]", "", key.removeprefix("config.")).upper()
    path = _find(Config, squeezed) if equals else None
    if not path:
        raise ConfigError(f"--set {key}", "names no key; write key.path=value, e.g. log.verbose=true")
    _put(tree, path, _value(value, path, f"--set {key}"), f"--set {key}")


def _value(text: str, path: tuple[str | int, ...], source: str) -> object:
    """Read a value as YAML. A key that wants text takes it as it is: a secret may look like a number, or like YAML."""
    _refuse_half_characters(source, text)
    if _wants_text(path):
        return text
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except _YAML_TROUBLE:
        raise ConfigError(source, "its value is no valid YAML; quote it") from None
    _refuse_bombs(source, value)
    _refuse_odd_keys(source, value)
    return value


def _put(tree: Tree, path: tuple[str | int, ...], value: object, source: str) -> None:
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


def _wants_text(path: tuple[str | int, ...]) -> bool:
    kind: Any = Config
    for step in path:
        struct = _struct_of(kind)
        if struct is not None:
            kind = next(info.type for info in msgspec.structs.fields(struct) if info.encode_name == step)
        else:
            kind = get_args(kind)[-1 if get_origin(kind) is dict else 0]
    return kind is str or get_origin(kind) is Literal or (get_origin(kind) is Annotated and get_args(kind)[0] is str)


# Explaining what msgspec found.


def _explain(message: str, tree: Tree) -> ConfigError:
    found = _AT.match(message)
    problem, path = (found["problem"], found["path"] or "") if found else (message, "")
    if path.endswith("[...]"):
        path = _with_key(path, tree)
    unknown = _UNKNOWN.match(problem)
    if unknown:
        names = _names_at(path)
        return ConfigError(f"config{path}.{unknown['name']}", f"unknown key{_suggest(unknown['name'], names)}")
    missing = _MISSING.match(problem)
    if missing:
        return ConfigError(f"config{path}.{missing['name']}", "is required and missing")
    return ConfigError(f"config{path}", _plain(problem, path) + _shown(path, tree))


def _with_key(path: str, tree: Tree) -> str:
    """Name the wrong entry of a mapping, which msgspec leaves as `[...]`."""
    above = path.removesuffix("[...]")
    allowed = get_args(_type_at(path))
    entries: Any = tree
    for step in _steps(above):
        entries = entries[step]
    return above + "." + next((key for key, value in entries.items() if value not in allowed), "*")


def _plain(problem: str, path: str) -> str:
    if "matching regex" in problem:
        return next(hint for pattern, hint in PATTERN_HINTS.items() if repr(pattern) in problem)
    if problem.startswith("Invalid enum value"):
        return f"is none of {', '.join(map(str, get_args(_type_at(path))))}"
    plain = problem.replace("`", "")
    return plain[:1].lower() + plain[1:]


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    for name, number in _PATH_STEP.findall(path):
        steps.append(name or (int(number) if number.isdecimal() else 0))
    return steps


def _type_at(path: str) -> Any:
    kind: Any = Config
    for step in _steps(path):
        struct = _struct_of(kind)
        if struct is None:
            kind = get_args(kind)[-1 if get_origin(kind) is dict else 0] if get_args(kind) else None
        else:
            kind = next((info.type for info in msgspec.structs.fields(struct) if info.encode_name == step), None)
    return kind


def _names_at(path: str) -> list[str]:
    struct = _struct_of(_type_at(path))
    return [info.encode_name for info in msgspec.structs.fields(struct)] if struct else []


def _shown(path: str, tree: Tree) -> str:
    if _SECRETS in path:
        return ""
    value: Any = tree
    try:
        for step in _steps(path):
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return ""
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return f"; its value begins with {value[:_LONGEST_SHOWN]!r}"
    return f"; its value is {value!r}" if isinstance(value, (str, int, float, bool, types.NoneType)) else ""


def _kind(value: object) -> str:
    return {list: "array", str: "str", type(None): "null"}.get(type(value), type(value).__name__)


def _suggest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(sorted(names))}" if names else ""
