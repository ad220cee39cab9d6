"""A YAML text as a plain tree: bounded, without odd keys, and with the chart's values around it taken off."""

import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from mortalgpu.configfile.words import LONGEST_SHOWN, kind_of, suggestion
from mortalgpu.errors import ConfigError

Tree = dict[str, Any]

CHART_KEYS = (
    *("affinity", "config", "dashboard", "exporter", "extraEnv", "extraVolumeMounts", "extraVolumes", "fullnameOverride"),
    *("global", "hostNetwork", "image", "imagePullSecrets", "keysSecret", "livenessProbe", "nameOverride", "networkPolicy"),
    *("nodeSelector", "podAnnotations", "podLabels", "priorityClassName", "prometheusRule", "rbac", "readinessProbe"),
    *("resources", "runtimeClassName", "scc", "securityContext", "service", "serviceAccount", "tolerations", "updateStrategy"),
)
"""What may stand beside `config` in a chart's values file."""

_MAX_FILE_BYTES = 2**20
_MAX_NODES = 20_000
"""Of a tree with its aliases written out, so that a few lines cannot unfold into gigabytes."""
_MAX_DEPTH = 50
_LONGEST_NUMBER = 100
"""Characters. Far above any figure; PyYAML would take minutes for a long one (`1:1:1:...` is one to the base of 60)."""
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


def read(path: str) -> Tree:
    """Read the file at `path`; return what stands under `config`, or all of it. Blocks. Raises ConfigError."""
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


def value_of(text: str, source: str) -> object:
    """Return one value in YAML; `source` says whose it is. Raises ConfigError, which does not show it."""
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except _YAML_TROUBLE:
        raise ConfigError(source, "its value is no valid YAML; quote it") from None
    _refuse_bombs(source, value)
    _refuse_odd_keys(source, value)
    return value


def refuse_half_characters(where: str, text: str) -> None:
    """Refuse what cannot be written as UTF-8: half of a surrogate pair, or a byte of the environment that is no text.

    Raises ConfigError.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(where, "is not UTF-8 text; write it as UTF-8") from None


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
        raise ConfigError(path, f"holds {kind_of(tree)}, not a mapping of keys")
    _refuse_odd_keys("config", tree)
    if "config" not in tree:
        return tree
    for key in tree:
        if key not in CHART_KEYS:
            raise ConfigError(str(key), f"unknown key beside `config` in {path}{suggestion(str(key), CHART_KEYS)}")
    inner = tree["config"]
    if inner is None:
        return {}
    if not isinstance(inner, dict):
        raise ConfigError("config", f"expected object, got {kind_of(inner)}")
    return inner


def _refuse_odd_keys(where: str, value: object) -> None:
    if isinstance(value, str):
        refuse_half_characters(where, value)
    if isinstance(value, list):
        for number, entry in enumerate(value):
            _refuse_odd_keys(f"{where}[{number}]", entry)
    if isinstance(value, dict):
        for key, below in value.items():
            if not isinstance(key, str):
                raise ConfigError(where, f"has the key {key!r}, which YAML reads as {kind_of(key)}; put it in quotes")
            if "`" in key:
                raise ConfigError(where, f"has the key {key[:LONGEST_SHOWN]!r}, and no key has a ` in it")
            _refuse_odd_keys(f"{where}.{key}", below)
