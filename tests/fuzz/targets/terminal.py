"""Targets: what `mgctl` reads from a hostile daemon and from its own command line, and what of it reaches a terminal."""

import json
import re

import yaml
from google.protobuf.message import DecodeError

from mortalgpu.mgctl import dump, render
from mortalgpu.mgctl.arguments import UsageError, parse
from mortalgpu.mgctl.client import explained
from mortalgpu.mgctl.text import Paint, clip, columns
from mortalgpu.mgctl.topview import ASCII, BLOCKS, View
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import Code, RpcError
from tests.fuzz.target import Target, only

_COLOUR = re.compile(r"\x1b\[[0-9]*m")
_WIDTHS = (0, 1, 20, 80, 200)


def _is_harmless(line: str) -> bool:
    return _COLOUR.sub("", line).isprintable()


def check_answer(data: bytes) -> None:
    """Whatever a daemon answers becomes lines that only show text, in our colours; and JSON and YAML that mean what it said."""
    try:
        containers = pb.GetGpuContainersResponse.FromString(data)
        devices = pb.GetDevicesResponse.FromString(data)
    except DecodeError:
        return
    view = View(BLOCKS if len(data) % 2 else ASCII)
    shown = [held.device for found in containers.gpu_containers for held in found.container_devices]
    for width in _WIDTHS:
        paint = Paint(width > 1)
        lines = render.processes(containers, paint, width=width, ruled=width > 20) + render.devices(devices, paint, width=width)
        for now in (0.0, 70.0):
            lines += view.draw(containers, [*shown, *devices.device.values()], paint, now=now, clock="12:00:00", width=width)
        for line in lines:
            assert _is_harmless(line), f"reaches a terminal: {line!r}"
            assert columns(_COLOUR.sub("", clip(line, 40))) <= 40
    for message in (containers, devices):
        data_ = dump.as_data(message)
        assert json.loads(dump.as_json(data_, pretty=True)) == data_
        text = dump.as_yaml(data_)
        assert all(map(str.isprintable, text.splitlines()))
        assert yaml.safe_load(text) == data_


def check_refusal(data: bytes) -> None:
    """A status's text, which is the server's, is shown harmless."""
    text = data.decode("utf-8", "surrogateescape")
    for code in Code:
        for line in str(explained(RpcError(code, text), "host:1", has_token=True)).split("\n"):
            assert _is_harmless(line)


def check_words(data: bytes) -> None:
    """Words and environment are options, or one UsageError."""
    words, _, variables = data.decode("utf-8", "surrogateescape").partition("\n")
    environment = dict(zip(("MG_CTL_ADDR", "MG_CTL_TOKEN", "MG_CTL_OUTPUT", "MG_CTL_POD"), variables.split("\0"), strict=False))
    with only(UsageError, longest=20_000):
        options = parse(words.split("\0"), environment)
        assert options.output in ("table", "json", "yaml")
        assert all(0 < pid < 10**9 for pid in options.pids)
        # Both go over the wire, as UTF-8; a token that begins with @ is a file's name.
        assert options.pod.encode() is not None
        assert options.token.startswith("@") or options.token.encode() is not None


def _answer() -> bytes:
    device = pb.Device(uuid="GPU-0", index=0, shares=4, memory_total=100, memory_used=50, node_name="n", model="m", health="x")
    kill = pb.Kill(time=1_700_000_000, pid=5, container_pid=1, cmdline="a b", memory_used=9, reason="over its limit of 3 MiB")
    found = pb.GpuContainer(
        container_name="c",
        pod_id="p",
        pod_namespace="ns",
        node_name="n",
        metagpu_requests=1,
        device_processes=[pb.DeviceProcess(uuid="GPU-0", pid=5, cmdline="python3", gpu_utilization=50, memory=5)],
        container_devices=[pb.ContainerDevice(device=device, allocated_shares=1, memory_request=25, memory_limit=30)],
        kills=[kill],
    )
    return bytes(
        pb.GetGpuContainersResponse(
            visibility_level="l0", gpu_containers=[found], kills=[kill], troubles=["t"]
        ).SerializeToString()
    )


_DEVICES = pb.GetDevicesResponse(
    device={"GPU-0": pb.Device(uuid="GPU-0", health="Unhealthy", health_reason="sick", mig_gpu_instance=2, memory_total=5)}
).SerializeToString()
_TEXTS = (
    *(b"\x1b[2J", b"\xc2\x9b2J", b"\n", b"\r", b"\x07", b"\xe2\x80\xae", b"\xe2\x81\xa6", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80"),
    *("漢字".encode(), "é̂́".encode(), b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
    *(b"\xff" * 9 + b"\x01", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"true", b"- ", b": ", b"'"),
)

TARGETS = (
    Target("mgctl-answer", check_answer, (_answer(), bytes(_DEVICES), b""), _TEXTS, inputs=300),
    Target("mgctl-refusal", check_refusal, (b"no answer in time", b"not yours"), (*_TEXTS, b"\xff"), inputs=800),
    Target(
        "mgctl-words",
        check_words,
        (b"get\0p\0-o\0json\n", b"kill\x0012\0--token=x\0--addr\0a:1\n", b"top\0-n3\0--pretty\nhost:1\0tok\0yaml\0pod"),
        (b"-", b"--", b"=", b"\0", b"-o", b"--count", b"--watch", "٣".encode(), b"\xff", b"9" * 30, b"\n"),
        inputs=3000,
    ),
)
