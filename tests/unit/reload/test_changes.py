"""Which keys may change while the daemon runs: a decision about two configurations, and nothing else."""

from typing import Any

import msgspec
import pytest

from mortalgpu.config import Config
from mortalgpu.configfile import convert
from mortalgpu.errors import ConfigError
from mortalgpu.reload import LIVE, changes

SHARING = [{"resourceName": "example.com/gpu", "metagpusPerGpu": 10}]


def config(**tree: Any) -> Config:
    """A configuration."""
    return convert({"deviceSharing": SHARING, **tree})


@pytest.mark.parametrize(("tree", "keys"), [
    ({"log": {"verbose": True}}, ("log.verbose",)),
    ({"health": {"xids": {"79": "ignore"}, "quietSeconds": 5}}, ("health.xids", "health.quietSeconds")),
    ({"enforcer": {"dryRun": True}}, ("enforcer.dryRun",)),
    ({"memoryEnforcer": False}, ("memoryEnforcer",)),
    ({"allocator": {"plugin": "spread"}}, ("allocator.plugin",)),
    ({"allocator": {"externalConfig": {"timeoutSeconds": 1}}}, ("allocator.externalConfig.timeoutSeconds",)),
    ({"deviceSharing": [*SHARING, *SHARING]}, ("deviceSharing",)),
    ({"deviceManager": {"healthProbePeriod": 0.2}}, ("deviceManager.healthProbePeriod",)),
    ({"exporter": {"perProcess": True}}, ("exporter.perProcess",)),
    ({"pluginMounts": [{"hostPath": "/a", "containerPath": "/b"}]}, ("pluginMounts",)),
])  # fmt: skip
def test_what_can_change_while_running_is_taken(tree: dict[str, Any], keys: tuple[str, ...]) -> None:
    wanted = config(**tree)
    found = changes(config(), wanted)
    assert (found.taken, found.waiting) == (keys, ())
    assert found.config == wanted


@pytest.mark.parametrize(("tree", "key"), [
    ({"exporter": {"address": "127.0.0.1:1"}}, "exporter.address"),
    ({"deviceApi": {"enabled": False}}, "deviceApi.enabled"),
    ({"deviceApi": {"tls": {"certFile": "/a", "keyFile": "/a"}}}, "deviceApi.tls.certFile"),
    ({"kubelet": {"devicePluginDir": "/elsewhere"}}, "kubelet.devicePluginDir"),
    ({"stateDir": "/elsewhere"}, "stateDir"),
    ({"driver": {"library": "/elsewhere"}}, "driver.library"),
    ({"nodeName": "another"}, "nodeName"),
    ({"podSource": "cri"}, "podSource"),
    ({"deviceManager": {"processesDiscoveryPeriod": 9}}, "deviceManager.processesDiscoveryPeriod"),
])  # fmt: skip
def test_what_cannot_change_while_running_waits_for_a_restart(tree: dict[str, Any], key: str) -> None:
    found = changes(config(), config(**tree))
    assert found.taken == ()
    assert found.waiting[0] == key
    assert found.config == config()


def test_of_a_mixed_change_each_key_goes_its_own_way() -> None:
    found = changes(config(), config(log={"json": False}, nodeName="another", exporter={"perProcess": True, "enabled": False}))
    assert found.taken == ("log.json", "exporter.perProcess")
    assert found.waiting == ("nodeName", "exporter.enabled")
    assert found.config == config(log={"json": False}, exporter={"perProcess": True})


def test_the_same_configuration_changes_nothing() -> None:
    found = changes(config(), config())
    assert (found.taken, found.waiting, found.config) == ((), (), config())


def test_what_is_taken_must_not_contradict_what_stays() -> None:
    good = config(allocator={"plugin": "external", "externalConfig": {"path": "/bin/choose"}})
    assert changes(good, good).config == good
    with pytest.raises(ConfigError, match=r"config\.allocator\.externalConfig\.path"):
        changes(config(), config(allocator={"plugin": "external"}))


def test_a_changed_secret_is_named_and_never_shown() -> None:
    found = changes(config(), config(grpcSecurity={"jwtSecret": "hush-hush-hush-hush-hush"}))
    assert found.waiting == ("grpcSecurity.jwtSecret",)
    assert "hush" not in repr(found.waiting)


def test_every_live_key_exists() -> None:
    def keys(struct: Any, path: str) -> set[str]:
        found = set()
        for info in msgspec.structs.fields(struct):
            key = f"{path}.{info.encode_name}" if path else info.encode_name
            found.add(key)
            value = getattr(struct, info.name)
            found |= keys(value, key) if isinstance(value, msgspec.Struct) else set()
        return found

    assert keys(Config(), "") >= LIVE
