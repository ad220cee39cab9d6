"""JSON and YAML: the API's field names, numbers as numbers, unknown left out, harmless on terminals."""

import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.mgctl import dump
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from tests.unit.mgctl import pages


def test_field_names_are_the_apis_and_numbers_are_numbers() -> None:
    data = json.loads(dump.as_json(dump.as_data(pages.containers()), pretty=False))
    main = data["gpu_containers"][1]
    assert (data["visibility_level"], main["metagpu_requests"], main["pod_id"]) == ("l0", 4, "train")
    assert main["device_processes"][0]["memory"] == 250
    assert main["container_devices"][0]["device"]["memory_total"] == 1000


def test_unknown_is_left_out_and_nothing_else_is() -> None:
    data = dump.as_data(pages.containers())
    infer = data["gpu_containers"][2]
    assert "memory" not in infer["device_processes"][0]
    assert set(dump.as_data(pb.GpuContainer())) == {field.name for field in pb.GpuContainer.DESCRIPTOR.fields}
    assert dump.as_data(pb.Kill())["pid"] == 0


def test_devices_are_a_map_by_uuid() -> None:
    data = dump.as_data(pages.devices())
    assert {uuid: device["uuid"] for uuid, device in data["device"].items()} == {uuid: uuid for uuid in data["device"]}


def test_pretty_json_is_indented_and_the_same() -> None:
    data = dump.as_data(pages.containers())
    assert json.loads(dump.as_json(data, pretty=True)) == json.loads(dump.as_json(data, pretty=False))
    assert "\n" not in dump.as_json(data, pretty=False)


def test_yaml_says_what_json_says() -> None:
    for message in (pages.containers(), pages.devices(), pb.GetGpuContainersResponse()):
        data = dump.as_data(message)
        assert yaml.safe_load(dump.as_yaml(data)) == json.loads(dump.as_json(data, pretty=False))


def test_golden_yaml() -> None:
    pages.check("processes.yaml", [dump.as_yaml(dump.as_data(pages.containers(pages.TRAIN)))])


plain = st.none() | st.booleans() | st.integers(0, 2**63) | st.text()
trees = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=40), inner), max_leaves=20)


@given(trees)
def test_any_tree_survives_yaml(tree: Any) -> None:
    assert yaml.safe_load(dump.as_yaml(tree)) == tree


@given(st.text())
def test_texts_are_harmless_on_terminals(text: str) -> None:
    assert dump.as_json({"x": text}, pretty=False).isprintable()
    assert dump.as_yaml({"x": text}).isprintable()
