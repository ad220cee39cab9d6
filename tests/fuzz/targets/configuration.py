"""Targets: the configuration file, its overrides by environment and flags, and who the node's environment says we are."""

import math
import os
from typing import Any

import msgspec

from mortalgpu import configfile, wiring
from mortalgpu.config import Config, DeviceApi
from mortalgpu.errors import ConfigError
from tests.fuzz.target import Target, only, scratch

SECRET = "a-secret-that-no-message-may-show"

_FILE = b"""\
visibleDevices: all
log: {verbose: true, json: false}
deviceSharing:
  - &one
    resourceName: mortalgpu/v100
    metagpusPerGpu: 320
    reservedChunks: 2
    uuid: ["GPU-1", 'GPU-2']
  - {<<: *one, resourceName: mortalgpu/a100, modelName: [A100], migid: [1, 0x2, 0b11, 1:30]}
allocator:
  plugin: external
  externalConfig: {path: /bin/choose, args: [-v], envVars: [A=b], timeoutSeconds: 1.5}
enforcer: {dryRun: no, graceSeconds: 2.5e+0, maxOvercommit: 1_000}
health: {xids: {"79": untilReset, default: ignore}, quietSeconds: 60}
pluginMounts: [{hostPath: /a, containerPath: /b, readOnly: false}]
deviceApi: {address: "[::]:50052", tls: {certFile: "", keyFile: ""}}
"""
_CHART = b"config:\n  deviceManager: {deviceCacheTTL: 3600, quickLookPeriod: .1}\n  nodeName: n\nimage: {}\nextraEnv: []\n"
_WORDS = (
    *(b"<<: *one\n", b"&a ", b"*a", b"!!int ", b"!!binary ", b"!!set ", b"!!python/object:os.system ", b"!!timestamp "),
    *(b"? ", b"---\n", b"...\n", b"%YAML 1.1\n", b"%TAG ! x\n", b"|\n ", b">-\n ", b"\t", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b".nan", b".inf", b"-.inf", b"1:1:1:1:1:1.5", b":59" * 100, b"0x" + b"f" * 400, b"9999-12-31T23:59:59Z", b"null", b"~"),
    *(b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"` - at `$.deviceSharing[...]", b"` - at `$.health.xids", b"=", b"<<"),
    *(b"grpcSecurity: {jwtSecret: x}\n", b"metagpusPerGpuMemoryChunkMB: 1\n", b"kubernetes: {apiServer: 'http://[::1'}\n"),
)


def check_file(data: bytes) -> None:
    """A file is a configuration that means one thing and can be started with, or one ConfigError."""
    path = scratch() / "configuration.yaml"
    path.write_bytes(data)
    with only(ConfigError):
        _usable(configfile.load(str(path), {}))


def check_overrides(data: bytes) -> None:
    """`NAME=value` words in the environment and `key.path=value` flags: a configuration or one ConfigError, without secrets."""
    environment, flags = {"MORTALGPU_GRPC_SECURITY_JWT_SECRET": SECRET}, []
    for word in data.decode("utf-8", "surrogateescape").split("\0")[:8]:
        name, _, value = word.partition("=")
        if name.startswith("MORTALGPU"):
            environment.setdefault(name, value)
        else:
            flags.append(word)
    with only(ConfigError, longest=30_000, hidden=SECRET):
        _usable(configfile.load("", environment, flags))


def check_node(data: bytes) -> None:
    """A node's name from the environment, as bytes: a name that every neighbour takes, or one ConfigError."""
    with only(ConfigError):
        name = wiring.node_name(Config(node_name=data.decode("utf-8", "surrogateescape")))
        assert name.isascii()
        assert name.isprintable()
        assert 0 < len(name) <= 253


def check_node_address(data: bytes) -> None:
    """The node's address from the environment: host:port as every client reads it, or one ConfigError."""
    settings = Config(device_api=DeviceApi(socket_mount=False), node_name="node-1")
    before = os.environ.pop("NODE_IP", None)
    try:
        os.environ["NODE_IP"] = data.decode("utf-8", "surrogateescape").replace("\0", "")
        with only(ConfigError):
            host, _, port = wiring.mgctl_address(settings).rpartition(":")
            assert port == "50052"
            assert host.isascii()
            assert host.isprintable()
            assert ":" not in host or host.startswith("[")
    finally:
        os.environ.pop("NODE_IP")
        if before is not None:
            os.environ["NODE_IP"] = before


def _usable(config: Config) -> None:
    """What a start derives from the configuration, and that it is what was written."""
    plain = msgspec.to_builtins(config)
    assert configfile.convert(plain) == config
    _finite(plain)
    for settings in (
        *(wiring.share_rules, wiring.allocator, wiring.discovery_settings, wiring.key_settings, wiring.exporter_switches),
        *(wiring.device_api_settings, lambda each: wiring.cluster(each, {})),
    ):
        with only(ConfigError):
            settings(config)


def _finite(value: Any) -> None:
    """No number in a configuration is infinite, no number at all, or too long to be written in a message."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _finite(each)
    elif isinstance(value, int | float):
        assert math.isfinite(value)
        assert abs(value) < 1e121


TARGETS = (
    Target("config-file", check_file, (_FILE, _CHART, b"", b"{}", b"grpcSecurity: {jwtSecret: *x}"), _WORDS, inputs=400),
    Target(
        "config-overrides",
        check_overrides,
        (
            b"MORTALGPU_LOG_VERBOSE=true\0deviceSharing[0].metagpusPerGpu=4",
            b"MORTALGPU_DEVICE_SHARING_1_UUID_0=GPU-1\0config.allocator.noSplit=false",
            b"MORTALGPU_HEALTH_XIDS_79=ignore\0health.xids.79=untilReset\0enforcer={graceSeconds: 1}",
        ),
        (*_WORDS, b"MORTALGPU_", b"deviceSharing[0].", b"deviceSharing[0", b"[...]", b"\0", b"grpcSecurity=", b"=1\0"),
        inputs=800,
    ),
    Target(
        "node-address", check_node_address, (b"10.0.0.7", b"fd00::7", b"[fd00::7]", b""), (b"\xff", b"\n", b"::"), inputs=500
    ),
    Target("node-name", check_node, (b"node-1", b"gpu.example.com"), (b",metadata.name=x", b"\xff", b"\n", b"%00"), inputs=500),
)
