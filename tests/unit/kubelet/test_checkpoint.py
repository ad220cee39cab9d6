"""kubelet's checkpoint in every form it was seen in, and in forms it should never have."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.errors import KubeletError
from mortalgpu.kubelet.base import CheckpointEntry
from mortalgpu.kubelet.checkpoint import FILE_NAME, parse_checkpoint, read_checkpoint, resources_mounting
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb

R = "mortalgpu/a"
VARIABLE = "MORTALGPU_SHARES"


def response(**envs: str) -> str:
    """Return an Allocate answer as the checkpoint holds it."""
    return base64.b64encode(pb.ContainerAllocateResponse(envs=envs).SerializeToString()).decode()


def entry(ids: Any, resource: str = R, answer: str | None = None) -> dict[str, Any]:
    """Return one container's entry."""
    return {"PodUID": "u", "ContainerName": "c", "ResourceName": resource, "DeviceIDs": ids, "AllocResp": answer}


def text(*entries: dict[str, Any]) -> bytes:
    """Return a checkpoint's text."""
    data = {"PodDeviceEntries": list(entries), "RegisteredDevices": {R: ["a"]}}
    return json.dumps({"Data": data, "Checksum": 1}).encode()


def parsed(content: bytes) -> tuple[CheckpointEntry, ...]:
    """Return what is read of it."""
    return parse_checkpoint(content, [R], VARIABLE)


FORMS = {
    "without NUMA, new": ({"-1": ["g::0", "g::1"]}, ("g::0", "g::1")),
    "without NUMA, old": ({"0": ["g::0"]}, ("g::0",)),
    "two NUMA nodes": ({"0": ["g::0"], "1": ["h::0"]}, ("g::0", "h::0")),
    "a plain list, older still": (["g::0"], ("g::0",)),
    "none": (None, ()),
    "an empty mapping": ({}, ()),
}


@pytest.mark.parametrize(("ids", "expected"), FORMS.values(), ids=FORMS)
def test_ids_are_read_in_every_form(ids: Any, expected: tuple[str, ...]) -> None:
    assert parsed(text(entry(ids))) == (CheckpointEntry(R, expected, "", "u", "c"),)


def test_the_evidence_is_read_from_the_remembered_answer() -> None:
    answer = response(MORTALGPU_SHARES="g=1/4", OTHER="x")
    assert parsed(text(entry({"0": ["g::0"]}, answer=answer)))[0].evidence == "g=1/4"


@pytest.mark.parametrize("answer", [None, "", "no base64!", base64.b64encode(b"\xff\xff").decode(), response(OTHER="x"), "é"])
def test_an_answer_without_evidence_is_no_trouble(answer: str | None) -> None:
    assert parsed(text(entry({"0": ["g::0"]}, answer=answer))) == (CheckpointEntry(R, ("g::0",), "", "u", "c"),)


def test_other_resources_are_left_out() -> None:
    assert parsed(text(entry({"0": ["x"]}, "other/gpu"))) == ()


EMPTY = [b'{"Data": {}}', b'{"Data": {"PodDeviceEntries": null}}', b'{"Data": {"PodDeviceEntries": []}, "Checksum": 0}']


@pytest.mark.parametrize("content", EMPTY)
def test_nothing_allocated_is_nothing(content: bytes) -> None:
    assert parsed(content) == ()


WRONG = {
    "nothing": b"",
    "cut off": text(entry({"0": ["g::0"]}))[:-9],
    "a list": b"[]",
    "no data": b"{}",
    "data is text": b'{"Data": "x"}',
    "an id is a number": text(entry({"0": [1]})),
    "no resource": b'{"Data": {"PodDeviceEntries": [{}]}}',
    "no UTF-8": b'{"Data": {"PodDeviceEntries": [{"ResourceName": "\xff"}]}}',
    "very deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_what_is_no_checkpoint_is_an_error_and_not_an_empty_one(content: bytes) -> None:
    with pytest.raises(KubeletError, match="unknown form"):
        parsed(content)


@given(st.binary(max_size=60) | st.integers(0, 200).map(lambda cut: text(entry({"0": ["g::0"]}))[:cut]))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        assert isinstance(parsed(content), tuple)
    except KubeletError as error:
        assert str(error)  # noqa: PT017 - either outcome is fine


def mounting(*host_paths: str) -> str:
    """Return an Allocate answer with these mounts, as the checkpoint holds it."""
    mounts = [pb.Mount(host_path=path, container_path="/x") for path in host_paths]
    return base64.b64encode(pb.ContainerAllocateResponse(mounts=mounts).SerializeToString()).decode()


def test_resources_whose_grants_mount_something_of_a_folder_are_found(tmp_path: Path) -> None:
    entries = (
        entry(["g::0"], "old.name/a", mounting("/other", "/var/lib/ours/mgctl/1")),
        entry(["g::1"], "old.name/a", mounting("/var/lib/ours/mgctl/1")),
        entry(["g::0"], "beside.it/b", mounting("/var/lib/ours-too/mgctl/1")),
        entry(["g::0"], "nvidia.com/gpu", mounting()),
        entry(["g::0"], "damaged.one/c", "no base64"),
    )
    (tmp_path / FILE_NAME).write_bytes(text(*entries))
    assert resources_mounting(tmp_path, Path("/var/lib/ours/")) == ("old.name/a",)
    assert resources_mounting(tmp_path / "without", Path("/var/lib/ours/")) == ()


def test_no_file_means_that_nothing_was_given_out(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path, [R], VARIABLE) == ()


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    os.mkdir(tmp_path / FILE_NAME)
    with pytest.raises(KubeletError, match="cannot be read"):
        read_checkpoint(tmp_path, [R], VARIABLE)


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(text(entry({"0": ["g::0"]})))
    assert read_checkpoint(tmp_path, [R], VARIABLE) == (CheckpointEntry(R, ("g::0",), "", "u", "c"),)
