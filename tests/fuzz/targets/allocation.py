"""Targets: what decides about shares and comes from others: the allocator program, annotations, kubelet's requests."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from mortalgpu.allocator import collocate
from mortalgpu.allocator.base import Policy, Request, Terms
from mortalgpu.allocator.external import ExternalAllocator
from mortalgpu.deviceplugin.servicer import Offer, Servicer
from mortalgpu.errors import AllocationError, ExternalAllocatorError
from mortalgpu.isolation.base import EditSettings
from mortalgpu.isolation.none import NoIsolation
from mortalgpu.latest import Latest
from mortalgpu.model.counts import PluginCounts
from mortalgpu.model.grant import Grant
from mortalgpu.model.share import Inventory
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.scan.limits import limit_on, limit_shares
from tests.fuzz.target import Target, only, scratch
from tests.unit.allocator.nodes import RESOURCE, equal
from tests.unit.deviceplugin.rig import R, ids, shared

LONGEST_REFUSAL = 1000
"""Characters of what a user reads in `kubectl describe pod`."""

_DEVICES = equal(2, 8)
_AVAILABLE = tuple(f"{device}::{number}" for device in "01" for number in range(8))
_REQUEST = Request(RESOURCE, 2, _AVAILABLE, ("0::1",))


@dataclass(frozen=True, slots=True)
class _Canned(ExternalAllocator):
    """An allocator whose program has said these bytes."""

    output: bytes = b""

    async def _ask(self, request: Request, text: bytes) -> bytes:
        return self.output


def check_answer(data: bytes) -> None:
    """What the allocator program wrote is an answer by the rules, or a refusal that says in one line what is wrong."""
    with only(ExternalAllocatorError, longest=LONGEST_REFUSAL):
        _by_the_rules(trio.run(_Canned(("/bin/choose",), Terms(), 1.0, {}, data).prefer, _REQUEST, _DEVICES))


_ENDINGS = ("cat $0", "cat $0 >&2; exit 3", "cat $0; kill -9 $$", "cat $0; exec >&-; exit 0", "cat $0; exec yes")


def check_program(data: bytes) -> None:
    """The same with a real program: it writes the bytes to one of its outputs and ends as the first byte says."""
    text = scratch() / "said"
    text.write_bytes(data[1:])
    ending = _ENDINGS[(data[0] if data else 0) % len(_ENDINGS)]
    with only(ExternalAllocatorError, longest=LONGEST_REFUSAL):
        program = ExternalAllocator(("/bin/sh", "-c", ending, str(text)), Terms(), 30.0)
        _by_the_rules(trio.run(program.prefer, _REQUEST, _DEVICES))


def _by_the_rules(answer: tuple[str, ...]) -> None:
    assert len(set(answer)) == len(answer) == _REQUEST.size
    assert set(_REQUEST.must_include) <= set(answer) <= set(_REQUEST.available)


def check_annotation(data: bytes) -> None:
    """A limit annotation leaves a limit between the request and the device, and one line for its owner."""
    text = data.decode("utf-8", "replace")
    device = shared(0)
    for held, most in ((1, 0.0), (2, 1.5), (4, 1e9)):
        limit = limit_shares(R, held, {f"gpu-mem-limit.{R}": text}, most)
        assert limit.shares >= held
        assert not most or limit.shares <= max(held, held * most)
        assert device.limit_bytes(held) <= limit_on(device, held, limit) <= device.device.memory_bytes
        if limit.notice:
            assert limit.notice.message.isprintable()
            assert len(limit.notice.message) <= 400


def _servicer(grants: list[Grant]) -> Servicer:
    inventory = Latest(Inventory((shared(0), shared(1))))
    policy = Policy(collocate.choose, Terms())
    return Servicer(Offer(R, inventory, policy, NoIsolation(EditSettings()), lambda: True, PluginCounts(), grants.append))


def check_request(data: bytes) -> None:
    """What kubelet asks of a plugin: an answer out of what was asked for, or a refusal; a grant is never more."""
    grants: list[Grant] = []
    servicer, call = _servicer(grants), Any
    try:
        allocate = pb.AllocateRequest.FromString(data)
        prefer = pb.PreferredAllocationRequest.FromString(data)
    except Exception:
        return
    with only(AllocationError, longest=LONGEST_REFUSAL):
        answer = trio.run(partial(servicer.allocate, allocate, call))  # type: ignore[arg-type]
        assert len(answer.container_responses) == len(allocate.container_requests) == len(grants)
        for grant, asked in zip(grants, allocate.container_requests, strict=True):
            assert set(grant.meta_devices) == set(asked.devices_ids) <= set(ids(0, *range(4)) + ids(1, *range(4)))
    with only(AllocationError, longest=LONGEST_REFUSAL):
        chosen = trio.run(partial(servicer.get_preferred_allocation, prefer, call))  # type: ignore[arg-type]
        for each, wanted in zip(chosen.container_responses, prefer.container_requests, strict=True):
            assert set(wanted.must_include_deviceIDs) <= set(each.deviceIDs) <= set(wanted.available_deviceIDs)
            assert len(each.deviceIDs) == wanted.allocation_size


_ANSWERS = (
    b'{"deviceIDs": ["0::1", "0::2"]}',
    b'{"deviceIDs": ["0::1", "1::2"], "why": {"a": [1, 2.5, null, true, "\\u00e9"]}}',
    b'{"deviceIDs": []}',
)
_WORDS = (
    b'"0::3"',
    b'["0::1"]',
    b'"' + b"x" * 2000 + b'"',
    b'"\\ud800"',
    b'"\\n\\u001b[2J"',
    b"[" * 1500,
    b"9" * 5000,
    b"\xff",
    b"\0",
)


def _preferred(size: int, available: list[str], included: list[str]) -> bytes:
    wanted = pb.ContainerPreferredAllocationRequest(
        available_deviceIDs=available, must_include_deviceIDs=included, allocation_size=size
    )
    return bytes(pb.PreferredAllocationRequest(container_requests=[wanted]).SerializeToString())


TARGETS = (
    Target("allocator-answer", check_answer, _ANSWERS, _WORDS, inputs=1000),
    Target(
        "allocator-program",
        check_program,
        tuple(bytes([how]) + text for how in range(len(_ENDINGS)) for text in (*_ANSWERS, b"no room\n")),
        _WORDS,
        inputs=60,
    ),
    Target(
        "limit-annotation",
        check_annotation,
        (b"4", b" 12 ", b"0", b"-1", b"1e3"),
        (b"9" * 5000, "٣".encode(), b"\x1b[2J", b"\n", b"_", b"+", b"0" * 3000),
        inputs=3000,
    ),
    Target(
        "kubelet-requests",
        check_request,
        (
            pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=ids(0, 0, 1))]).SerializeToString(),
            pb.AllocateRequest(
                container_requests=[pb.ContainerAllocateRequest(devices_ids=ids(number, 3)) for number in (0, 1)]
            ).SerializeToString(),
            _preferred(2, ids(0, 0, 1, 2) + ids(1, 0), ids(0, 1)),
            _preferred(1, ids(1, 0, 1, 2, 3), []),
        ),
        (ids(0, 2)[0].encode(), b"::", b"\x18\xff\xff\xff\xff\x07", b"\x0a\x00", b"::00", b"::999999999"),
        inputs=600,
    ),
)
