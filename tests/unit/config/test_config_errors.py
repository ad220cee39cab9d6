"""What is wrong with a configuration is said in one line that names the key, the value and the way out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mortalgpu import configfile, wiring
from mortalgpu.config import Config
from mortalgpu.errors import ConfigError

Write = Callable[[str], str]
SHARING = "config.deviceSharing"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a configuration file and gives its path."""

    def make(text: str) -> str:
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "config.yaml")

    return make


def problem_of(path: str) -> ConfigError:
    """Return the error that this file makes, having seen that it is one line."""
    with pytest.raises(ConfigError) as caught:
        wiring.share_rules(configfile.load(path, {}))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()
    return caught.value


def entry(more: str) -> str:
    """Return a file with a good first entry and one with `more` in it."""
    return f"deviceSharing:\n- {{resourceName: a.b/c, metagpusPerGpu: 1, uuid: [GPU-1]}}\n- {{resourceName: a.b/d, {more}}}\n"


WRONG_VALUES = {
    "an integer that is text": (entry("metagpusPerGpu: '3'"), f"{SHARING}[1].metagpusPerGpu", "expected int, got str", "'3'"),
    "an integer that is a boolean": (entry("metagpusPerGpu: yes"), f"{SHARING}[1].metagpusPerGpu", "got bool", "True"),
    "an integer that is a fraction": (entry("metagpusPerGpu: 3.5"), f"{SHARING}[1].metagpusPerGpu", "got float", "3.5"),
    "an integer below zero": (entry("metagpusPerGpu: -1"), f"{SHARING}[1].metagpusPerGpu", ">= 0", "-1"),
    "an instance that is text": (
        entry("metagpusPerGpu: 1, migid: [x]"),
        f"{SHARING}[1].migid[0]",
        "expected int, got str",
        "'x'",
    ),
    "a list that is text": (entry("metagpusPerGpu: 1, uuid: GPU-2"), f"{SHARING}[1].uuid", "expected array", "'GPU-2'"),
    "an entry that is text": ("deviceSharing: [mortalgpu]", f"{SHARING}[0]", "expected object", "'mortalgpu'"),
    "a flag that is text": ("log: {verbose: maybe}", "config.log.verbose", "expected bool", "'maybe'"),
    "a flag that is nothing": ("log: {verbose: }", "config.log.verbose", "expected bool, got null", "None"),
    "a section that is nothing": ("log:", "config.log", "expected object, got null", "None"),
    "a section that is a list": ("log: [a]", "config.log", "expected object, got array", ""),
    "a text that is a date": ("nodeName: 2020-01-01", "config.nodeName", "expected str, got date", ""),
    "a text that is a number": ("nodeName: 5", "config.nodeName", "expected str, got int", "5"),
    "a choice that is none": ("allocator: {plugin: best}", "config.allocator.plugin", "collocate, spread, external", "'best'"),
    "an XID's meaning that is none": (
        "health: {xids: {'79': bad}}",
        "config.health.xids.79",
        "ignore, untilClear, untilReset",
        "'bad'",
    ),
    "a relative path": ("mgctl: {sourcePath: mgctl}", "config.mgctl.sourcePath", "begin it with /", "'mgctl'"),
    "a path of two lines": ('mgctl: {sourcePath: "/a\\nb"}', "config.mgctl.sourcePath", "on one line", "'/a\\nb'"),
    "a path with a zero": ('driver: {library: "/a\\0b"}', "config.driver.library", "no absolute path", "'/a\\x00b'"),
    "an address without a port": ("exporter: {address: here}", "config.exporter.address", "host:port", "'here'"),
    "a port too high": ("exporter: {address: ':99999'}", "config.exporter.address", "above 65535", "':99999'"),
    "an endless period": ("deviceManager: {deviceCacheTTL: .inf}", "config.deviceManager.deviceCacheTTL", "<= 1", "inf"),
    "a period that is no number": (
        "deviceManager: {processesDiscoveryPeriod: .nan}",
        "config.deviceManager.processesDiscoveryPeriod",
        "> 0",
        "nan",
    ),
    "a period of nothing": (
        "deviceManager: {processesDiscoveryPeriod: 0}",
        "config.deviceManager.processesDiscoveryPeriod",
        "> 0",
        "0",
    ),
    "a period that is a boolean": (
        "deviceManager: {quickLookPeriod: true}",
        "config.deviceManager.quickLookPeriod",
        "got bool",
        "True",
    ),
}


@pytest.mark.parametrize(("text", "field", "problem", "value"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_named_with_its_key_and_what_would_be_right(
    write: Write, text: str, field: str, problem: str, value: str
) -> None:
    found = problem_of(write(text))
    assert found.field == field
    assert problem in found.problem
    assert value in found.problem


UNKNOWN_KEYS = {
    "a slip in a section": ("log: {verbos: true}", "config.log.verbos", "did you mean verbose?"),
    "a slip in a list": (entry("metagpusPerGPU: 3"), f"{SHARING}[1].metagpusPerGPU", "did you mean metagpusPerGpu?"),
    "a slip at the top": ("deviceSharings: []", "config.deviceSharings", "did you mean deviceSharing?"),
    "nothing like it": ("log: {zzz: 1}", "config.log.zzz", "known here: json, verbose"),
    "a slip in the chart's tree": ("config: {log: {Json: true}}", "config.log.Json", "did you mean json?"),
    "a slip beside `config`": ("config: {}\nimagee: {}", "imagee", "did you mean image?"),
    "a key of two lines": ('"a\\nb": 1', "config.a\nb", "unknown key"),
}


@pytest.mark.parametrize(("text", "field", "problem"), UNKNOWN_KEYS.values(), ids=UNKNOWN_KEYS)
def test_an_unknown_key_is_named_with_what_was_meant(write: Write, text: str, field: str, problem: str) -> None:
    found = problem_of(write(text))
    assert found.field == field
    assert problem in found.problem


CONTRADICTIONS = {
    "no entry": ("deviceSharing: []", SHARING, "at least one"),
    "no resource name": ("deviceSharing: [{metagpusPerGpu: 1}]", f"{SHARING}[0].resourceName", "required"),
    "no share count": ("deviceSharing: [{resourceName: a.b/c}]", f"{SHARING}[0].metagpusPerGpu", "number of shares"),
    "more reserved than made": (
        entry("metagpusPerGpu: 2, reservedChunks: 3"),
        f"{SHARING}[1].reservedChunks",
        "makes only 2",
    ),
    "a resource name without a domain": (
        "deviceSharing: [{resourceName: gpu, metagpusPerGpu: 1}]",
        f"{SHARING}[0].resourceName",
        "exactly one '/'",
    ),
    "a resource name of Kubernetes' own": (
        "deviceSharing: [{resourceName: kubernetes.io/gpu, metagpusPerGpu: 1}]",
        f"{SHARING}[0].resourceName",
        "keeps for itself",
    ),
    "a UUID claimed twice": (entry("metagpusPerGpu: 1, uuid: [GPU-1]"), f"{SHARING}[1].uuid[0]", "already claimed"),
    "an external allocator without a program": (
        "allocator: {plugin: external}",
        "config.allocator.externalConfig.path",
        "name the program",
    ),
    "an environment without a name": (
        "allocator: {externalConfig: {envVars: [A=1, B]}}",
        "config.allocator.externalConfig.envVars[1]",
        "NAME=value",
    ),
    "two mounts at one place": (
        "pluginMounts: [{hostPath: /a, containerPath: /c}, {hostPath: /b, containerPath: /c}]",
        "config.pluginMounts[1].containerPath",
        "pluginMounts[0]",
    ),
    "one container path spelt twice": (
        "pluginMounts: [{hostPath: /a, containerPath: /c/d/}, {hostPath: /b, containerPath: /c/./d}]",
        "config.pluginMounts[1].containerPath",
        "pluginMounts[0]",
    ),
    "two listeners on one port": (
        "exporter: {address: ':1', daemonAddress: ':1'}",
        "config.exporter.address",
        "config.exporter.daemonAddress",
    ),
    "half of TLS": ("deviceApi: {tls: {certFile: /c}}", "config.deviceApi.tls", "both or neither"),
    "an XID that is none": ("health: {xids: {soon: ignore}}", "config.health.xids.soon", "number as text"),
    "an XID that is a number": ("health: {xids: {79: ignore}}", "config.health.xids", "put it in quotes"),
    "a secret twice": (
        "grpcSecurity: {jwtSecret: hunter2, jwtSecretFile: /x}",
        "config.grpcSecurity.jwtSecretFile",
        "keep one",
    ),
}


@pytest.mark.parametrize(("text", "field", "problem"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_named_at_the_key_to_change(write: Write, text: str, field: str, problem: str) -> None:
    found = problem_of(write(text))
    assert found.field == field
    assert problem in found.problem


NO_YAML = {
    "a tab": ("log:\n\tverbose: true", "line 2, column 1"),
    "an open bracket": ("log: [", "line 1"),
    "a key written twice": ("log: {verbose: true, verbose: false}", "'verbose' is written twice"),
    "a section written twice": ("log: {}\nkubelet: {}\nlog: {}", "line 3, column 1: the key 'log' is written twice"),
    "a key that is a list": ("? [a]\n: 1", "plain word"),
    "two documents": ("log: {}\n---\nlog: {}", "another document"),
    "a list": ("- log", "not a mapping"),
    "a word": ("verbose", "not a mapping"),
    "a zero byte": ("log:\0", "#x0000"),
    "a Python object": ("log: !!python/object:os.system x", "could not determine a constructor"),
    "an impossible date": ("log: {verbose: 2001-99-99}", "month"),
    "an empty number": ('log: {verbose: !!int ""}', "no valid YAML"),
    "a boolean that is none": ("log: {verbose: !!bool soon}", "no valid YAML"),
    "a time that is none": ("log: {verbose: !!timestamp soon}", "no valid YAML"),
    "an endless number": (f"nodeName: {'9' * 5000}", "no valid YAML"),
    "brackets without end": ("a: " + "[" * 5000, "recursion"),
    "deep brackets": ("log: " + "[" * 60 + "]" * 60, "50 levels"),
    "a mapping inside itself": ("log: &a {verbose: *a}", "without aliases"),
    "a list inside itself": ("deviceSharing: &a [*a]", "without aliases"),
}


@pytest.mark.parametrize(("text", "problem"), NO_YAML.values(), ids=NO_YAML)
def test_a_file_that_is_no_tree_is_refused_with_the_place(write: Write, text: str, problem: str) -> None:
    path = write(text)
    found = problem_of(path)
    assert found.field == path
    assert problem in found.problem


def test_a_few_lines_that_unfold_into_gigabytes_are_refused_at_once(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "over 20000 entries" in problem_of(write("\n".join(lines))).problem


UNREADABLE = {
    "nothing there": (lambda path: None, "No such file"),
    "a directory": (lambda path: path.mkdir(), "Is a directory"),
    "no text": (lambda path: path.write_bytes(b"log: \xff"), "not UTF-8 text (byte 5)"),
    "too long": (lambda path: path.write_bytes(b"#" * (2**20 + 1)), "longer than 1048576 bytes"),
    "a circle of links": (lambda path: path.symlink_to(path), "symbolic links"),
}


@pytest.mark.parametrize(("make", "problem"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], None], problem: str) -> None:
    path = tmp_path / "values.yaml"
    make(path)
    found = problem_of(str(path))
    assert found.field == str(path)
    assert problem in found.problem


SECRETIVE = {
    "a number": "grpcSecurity: {jwtSecret: 123456789}",
    "a list": "grpcSecurity: {deviceToken: [hunter2]}",
    "instead of the section": "grpcSecurity: hunter2",
    "beside its file": "grpcSecurity: {containerToken: hunter2, containerTokenFile: /x}",
    "taken for an alias": "grpcSecurity: {jwtSecret: *hunter2}",
    "taken for a tag": "grpcSecurity: {jwtSecret: !hunter2 x}",
    "unclosed": "grpcSecurity: {jwtSecret: 'hunter2}",
    "taken for a key": "grpcSecurity: {? [hunter2] : 1}",
}


@pytest.mark.parametrize("text", SECRETIVE.values(), ids=SECRETIVE)
def test_no_error_shows_a_secret(write: Write, text: str) -> None:
    shown = str(problem_of(write(text)))
    assert "hunter2" not in shown
    assert "123456789" not in shown


def test_no_representation_of_the_configuration_shows_a_secret(write: Write) -> None:
    config: Config = configfile.load(write("grpcSecurity: {jwtSecret: hunter2, deviceTokenFile: /run/hunter3}"), {})
    assert config.grpc_security.jwt_secret == "hunter2"
    for shown in (repr(config), str(config), f"{config.grpc_security}"):
        assert "hunter" not in shown
    assert "jwt_secret=..." in repr(config.grpc_security)
