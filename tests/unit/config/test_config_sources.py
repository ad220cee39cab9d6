"""A file, then the environment, then flags: what wins, what is left alone, and what odd files mean."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mortalgpu import arguments, configfile
from mortalgpu.config import Config, DeviceSharing
from mortalgpu.errors import ConfigError

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return what loads a configuration from a file's bytes, an environment and flags."""

    def run(content: bytes = b"", environ: Mapping[str, str] | None = None, overrides: Sequence[str] = ()) -> Config:
        (tmp_path / "config.yaml").write_bytes(content)
        return configfile.load(str(tmp_path / "config.yaml"), environ or {}, overrides)

    return run


ODD_FILES = {
    "empty": b"",
    "only a comment": b"# nothing yet\n",
    "only a line end": b"\n",
    "an empty chart": b"config:\n",
    "an empty chart mapping": b"config: {}\nimage: {tag: x}\nserviceAccount: {}\n",
}


@pytest.mark.parametrize("content", ODD_FILES.values(), ids=ODD_FILES)
def test_a_file_that_says_nothing_means_the_defaults(load: Load, content: bytes) -> None:
    assert load(content) == Config()


SAME = {
    "plain": b"log: {verbose: true}",
    "a byte order mark": b"\xef\xbb\xbflog: {verbose: true}",
    "line ends of another system": b"log:\r\n  verbose: true\r\n",
    "an alias": b"log: {verbose: &on true, json: *on}",
    "a merged mapping": b"log: {<<: {verbose: true}, json: true}",
    "a merged mapping that is overridden": b"log: {<<: {verbose: false, json: true}, verbose: true}",
    "a chart's values": b"config:\n  log: {verbose: true}\nimage: {}\n",
    "JSON": b'{"log": {"verbose": true}}',
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_one_meaning_may_be_written_in_many_ways(load: Load, content: bytes) -> None:
    assert load(content).log.verbose is True


def test_no_file_at_all_means_the_defaults() -> None:
    assert configfile.load("", {}) == Config()


VARIABLES = {
    "words apart": ("MORTALGPU_DEVICE_MANAGER_DEVICE_CACHE_TTL", "7", lambda c: c.device_manager.device_cache_t_t_l, 7.0),
    "words together": ("MORTALGPU_DEVICEMANAGER_DEVICECACHETTL", "7", lambda c: c.device_manager.device_cache_t_t_l, 7.0),
    "a key named otherwise": (
        "MORTALGPU_DEVICE_SHARING_0_METAGPUS_PER_GPU_MEMORY_CHUNK_MB",
        "512",
        lambda c: c.device_sharing[0].chunk_mib,
        512,
    ),
    "an entry of a list": ("MORTALGPU_DEVICE_SHARING_0_METAGPUS_PER_GPU", "9", lambda c: c.device_sharing[0], None),
    "a whole list": ("MORTALGPU_PLUGIN_MOUNTS", "[{hostPath: /a, containerPath: /b}]", lambda c: len(c.plugin_mounts), 1),
    "a list of numbers": ("MORTALGPU_DEVICE_SHARING_0_MIGID", "[3, 4]", lambda c: c.device_sharing[0].migid, (3, 4)),
    "the next entry of a list": ("MORTALGPU_DEVICE_SHARING_0_MIGID_0", "3", lambda c: c.device_sharing[0].migid, (3,)),
    "an entry of a mapping": ("MORTALGPU_HEALTH_XIDS_79", "ignore", lambda c: dict(c.health.xids), {"79": "ignore"}),
    "a choice": ("MORTALGPU_ALLOCATOR_PLUGIN", "spread", lambda c: c.allocator.plugin, "spread"),
    "a flag": ("MORTALGPU_MEMORY_ENFORCER", "false", lambda c: c.memory_enforcer, False),
    "text like a number": ("MORTALGPU_NODE_NAME", "0123", lambda c: c.node_name, "0123"),
    "text like a hexadecimal number": ("MORTALGPU_NODE_NAME", "0x1F", lambda c: c.node_name, "0x1F"),
    "text like a boolean": ("MORTALGPU_NODE_NAME", "yes", lambda c: c.node_name, "yes"),
    "text like nothing": ("MORTALGPU_NODE_NAME", "null", lambda c: c.node_name, "null"),
    "text like YAML": ("MORTALGPU_GRPC_SECURITY_JWT_SECRET", "a: [b", lambda c: c.grpc_security.jwt_secret, "a: [b"),
    "text like an alias": ("MORTALGPU_GRPC_SECURITY_JWT_SECRET", "*x!", lambda c: c.grpc_security.jwt_secret, "*x!"),
    "no text": ("MORTALGPU_NODE_NAME", "", lambda c: c.node_name, ""),
}


@pytest.mark.parametrize(("name", "value", "read", "expected"), VARIABLES.values(), ids=VARIABLES)
def test_a_variable_overrides_its_key(
    load: Load, name: str, value: str, read: Callable[[Config], object], expected: object
) -> None:
    config = load(b"nodeName: from-the-file\n", {name: value})
    assert read(config) == (
        expected if expected is not None else DeviceSharing(resource_name="mortalgpu/v100", metagpus_per_gpu=9)
    )


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_left_alone(load: Load) -> None:
    environ = {
        "MORTALGPU_SERVICE_HOST": "10.0.0.1",
        "MORTALGPU_SERVICE_PORT": "50052",
        "MORTALGPU_SERVICE_PORT_GRPC": "50052",
        "MORTALGPU_PORT": "tcp://10.0.0.1:50052",
        "MORTALGPU_PORT_50052_TCP": "tcp://10.0.0.1:50052",
        "MORTALGPU_PORT_50052_TCP_PROTO": "tcp",
        "MORTALGPU_PORT_50052_TCP_ADDR": "10.0.0.1",
        "MORTALGPU_EXPORTER_SERVICE_HOST": "10.0.0.2",
        "MORTALGPU_EXPORTER_PORT_2113_TCP_ADDR": "10.0.0.2",
        "MORTALGPU_": "",
        "PATH": "/bin",
        "NODE_NAME": "elsewhere",
    }
    assert load(b"", environ) == Config()


WRONG_VARIABLES = {
    "wrong type": ("MORTALGPU_LOG_VERBOSE", "maybe", "config.log.verbose", "expected bool"),
    "nothing for a flag": ("MORTALGPU_LOG_VERBOSE", "", "config.log.verbose", "got null"),
    "no YAML": ("MORTALGPU_PLUGIN_MOUNTS", "[", "MORTALGPU_PLUGIN_MOUNTS", "quote it"),
    "an impossible date": ("MORTALGPU_LOG_VERBOSE", "2001-99-99", "MORTALGPU_LOG_VERBOSE", "quote it"),
    "deep brackets": ("MORTALGPU_PLUGIN_MOUNTS", "[" * 5000, "MORTALGPU_PLUGIN_MOUNTS", "quote it"),
    "a list inside itself": ("MORTALGPU_PLUGIN_MOUNTS", "&a [*a]", "MORTALGPU_PLUGIN_MOUNTS", "without aliases"),
    "a place beyond the list": ("MORTALGPU_DEVICE_SHARING_5_RESOURCE_NAME", "a.b/c", "MORTALGPU_DEVICE_SHARING_5", "no entry"),
    "a section that is text": ("MORTALGPU_LOG", "loud", "config.log", "expected object"),
}


@pytest.mark.parametrize(("name", "value", "field", "problem"), WRONG_VARIABLES.values(), ids=WRONG_VARIABLES)
def test_a_wrong_variable_is_refused_by_name(load: Load, name: str, value: str, field: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(b"", {name: value})
    assert str(caught.value).startswith(field)
    assert problem in caught.value.problem


def test_a_variable_cannot_reach_into_a_value_that_is_no_section(load: Load) -> None:
    with pytest.raises(ConfigError, match="MORTALGPU_LOG_VERBOSE: cannot be set"):
        load(b"log: loud", {"MORTALGPU_LOG_VERBOSE": "true"})


def test_flags_beat_the_environment_and_the_environment_beats_the_file(load: Load) -> None:
    content, environ = (
        b"nodeName: file\nstateDir: /file\npodSource: cri",
        {"MORTALGPU_NODE_NAME": "env", "MORTALGPU_STATE_DIR": "/env"},
    )
    config = load(content, environ, ["nodeName=flag"])
    assert (config.node_name, config.state_dir, config.pod_source) == ("flag", "/env", "cri")


def test_a_flag_with_a_name_of_its_own_beats_set() -> None:
    chosen = arguments.parser().parse_args(
        ["run", "--node-name", "named", "--set", "nodeName=set", "--set", "log.json=true", "--log-text", "--kubelet-dir", "/k"]
    )
    config = configfile.load("", {}, arguments.overrides(chosen))
    assert (config.node_name, config.log.json, config.kubelet.device_plugin_dir) == ("named", False, "/k")


SETS = {
    "a path": ("log.verbose=true", lambda c: c.log.verbose, True),
    "a path as the chart has it": ("config.log.verbose=true", lambda c: c.log.verbose, True),
    "an entry of a list": ("deviceSharing[0].resourceName=a.b/c", lambda c: c.device_sharing[0].resource_name, "a.b/c"),
    "the next entry of a list": ("allocator.externalConfig.args[0]=-x", lambda c: c.allocator.external_config.args, ("-x",)),
    "text with an equals sign": (
        "allocator.externalConfig.envVars[0]=A=b",
        lambda c: c.allocator.external_config.env_vars,
        ("A=b",),
    ),
    "an empty text": ("nodeName=", lambda c: c.node_name, ""),
}


@pytest.mark.parametrize(("flag", "read", "expected"), SETS.values(), ids=SETS)
def test_set_overrides_a_key(load: Load, flag: str, read: Callable[[Config], object], expected: object) -> None:
    assert read(load(b"", {}, [flag])) == expected


@pytest.mark.parametrize(
    "flag", ["log.verbos=true", "log.verbose", "=x", "", "grpcSecurity.jwtSecre=hunter2", "log.verbose.x=1"]
)
def test_set_of_no_key_is_refused_and_shows_no_value(load: Load, flag: str) -> None:
    with pytest.raises(ConfigError, match="names no key") as caught:
        load(b"", {}, [flag])
    assert "hunter2" not in str(caught.value)
