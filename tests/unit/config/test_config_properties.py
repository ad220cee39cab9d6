"""Whatever happens to a configuration on its way, it is taken or refused in one line; nothing else ever happens."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mortalgpu import configfile, wiring
from mortalgpu.errors import ConfigError

VALID: dict[str, Any] = {
    "log": {"verbose": True, "json": False},
    "deviceSharing": [
        {"resourceName": "mortalgpu/a", "metagpusPerGpu": 4, "modelName": ["A"], "reservedChunks": 1},
        {"resourceName": "mortalgpu/b", "metagpusPerGpuMemoryChunkMB": 512, "uuid": ["GPU-1"], "migid": [1, 2]},
    ],
    "allocator": {"plugin": "external", "noSplit": False, "externalConfig": {"path": "/p", "args": ["a"], "envVars": ["A=b"]}},
    "mgctl": {"sourcePath": "/m", "hostMount": {"enabled": True, "hostPath": "/h/", "containerPath": "/c/"}},
    "pluginMounts": [{"hostPath": "/a", "containerPath": "/b", "readOnly": False}],
    "grpcSecurity": {"jwtSecret": "hunter2"},
    "deviceManager": {"processesDiscoveryPeriod": 5, "deviceCacheTTL": 3600},
    "health": {"xids": {"79": "ignore", "default": "untilReset"}, "quietSeconds": 1},
    "deviceApi": {"address": "[::1]:5", "tls": {"certFile": "/c", "keyFile": "/k"}},
}

odd_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) in a tree."""
    entries = list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    found = [(tree, key) for key, _ in entries]
    return found + [place for _, below in entries for place in places(below)]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """Draw the valid tree with one to three things replaced, removed or added."""
    tree = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(tree)))
        kind = draw(st.sampled_from(["replace", "remove", "add"]))
        if kind == "replace":
            container[key] = draw(odd_values)
        elif kind == "remove":
            del container[key]
        elif isinstance(container, list):
            container.append(draw(odd_values))
        else:
            container[draw(st.text(max_size=6))] = draw(odd_values)
        if not places(tree):
            break
    return tree


def check(path: str, environ: dict[str, str] | None = None, flags: list[str] | None = None) -> None:
    """Load a configuration and its rules; what an operator is told is one line without secrets, and nothing else is raised."""
    told = ""
    try:
        wiring.share_rules(configfile.load(path, environ or {}, flags or []))
    except ConfigError as error:
        told = str(error)
    assert told.isprintable()
    assert "hunter2" not in told


def check_file(content: bytes) -> None:
    """Check a file's bytes."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        Path(file.name).write_bytes(content)
        check(file.name)


def test_the_tree_to_be_changed_is_valid() -> None:
    wiring.share_rules(configfile.convert(VALID))


@settings(max_examples=150)
@given(mutated())
def test_a_changed_tree_is_taken_or_refused_in_one_line(tree: Any) -> None:
    check_file(yaml.safe_dump(tree, allow_unicode=True).encode())


@settings(max_examples=150)
@given(st.binary(max_size=60) | st.text(alphabet="&*!<>?:-,[]{}|%@`'\"a1 \n\t#~=", max_size=40).map(str.encode))
@example(b"!!int ''")
@example(b"{? {} : 1}")
@example(b"<<: 1")
@example(b"&a *a")
@example(b"!!omap [1]")
@example(b"a: !!binary x")
def test_any_bytes_are_taken_or_refused_in_one_line(content: bytes) -> None:
    check_file(content)


@settings(max_examples=150)
@given(
    st.sampled_from(
        ["MORTALGPU_LOG", "MORTALGPU_DEVICE_SHARING_0", "MORTALGPU_HEALTH_XIDS_9", "MORTALGPU_PLUGIN_MOUNTS_0_HOST_PATH"]
    )
    | st.text(alphabet="ABDEGILMOPSUX_019", max_size=12).map(lambda tail: f"MORTALGPU_{tail}"),
    st.text(max_size=12),
)
def test_any_variable_is_taken_left_alone_or_refused_in_one_line(name: str, value: str) -> None:
    check("", {name: value})


@settings(max_examples=150)
@given(st.text(alphabet="log.verbseun[]0123=deviceSharing ", max_size=24))
def test_any_flag_is_taken_or_refused_in_one_line(flag: str) -> None:
    check("", flags=[flag])
