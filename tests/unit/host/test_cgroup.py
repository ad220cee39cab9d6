"""The rule that tells a container from a cgroup text, against texts made to fool it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.host.cgroup import container_in_path, container_of
from mortalgpu.model.pod import ContainerRef

UID = "1f0c9c4e-6b1c-4a43-9d2b-1c2f3d4e5f60"
OURS = ContainerRef(UID, "a" * 64)
VICTIM = ContainerRef("99999999-9999-4999-8999-999999999999", "b" * 64)


def path_of(ref: ContainerRef, shape: str = "cgroupfs") -> str:
    low = ref.pod_uid.replace("-", "_")
    return {
        "cgroupfs": f"/kubepods/burstable/pod{ref.pod_uid}/{ref.container_id}",
        "guaranteed": f"/kubepods/pod{ref.pod_uid}/{ref.container_id}",
        "systemd": f"/kubepods.slice/kubepods-pod{low}.slice/cri-containerd-{ref.container_id}.scope",
        "crio": f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{low}.slice/crio-{ref.container_id}.scope",
        "colons": f"/system.slice/kubepods-burstable-pod{low}.slice:cri-containerd:{ref.container_id}",
        "kind": f"/docker/{'e' * 64}/kubelet/kubepods/pod{ref.pod_uid}/{ref.container_id}",
    }[shape]


SHAPES = ("cgroupfs", "guaranteed", "systemd", "crio", "colons", "kind")

lower_hex = st.text(alphabet="0123456789abcdef", min_size=32, max_size=32)
pod_uids = lower_hex.map(lambda h: f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}") | lower_hex
refs = st.builds(ContainerRef, pod_uids, st.text(alphabet="0123456789abcdef", min_size=64, max_size=64))
refs_or_known = refs | st.sampled_from((OURS, VICTIM))

# Pieces that a tenant would build a lie from, and noise. A kernel line holds no newline and a name no slash.
noise = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"").replace(b"/", b""))
lies = st.builds(lambda ref, shape: path_of(ref, shape).encode().strip(b"/"), refs_or_known, st.sampled_from(SHAPES))
tenant_paths = st.lists(noise | lies | st.just(b".."), max_size=6).map(b"/".join)


@given(text=st.binary(max_size=2000) | st.lists(noise | lies, max_size=12).map(b"\n".join))
def test_no_text_raises(text: bytes) -> None:
    found = container_of(text)
    assert found is None or isinstance(found, ContainerRef)


@given(text=st.lists(st.builds(lambda a, b: b"0::" + a + b, tenant_paths, noise), max_size=3).map(b"\n".join))
def test_an_answer_is_always_spelled_out_in_the_text_in_one_piece(text: bytes) -> None:
    found = container_of(text)
    if found is None:
        return
    spelled = found.pod_uid.encode().replace(b"-", b"[-_]")
    assert re.search(b"kubepods.*pod" + spelled + rb"(\.slice)?(/[a-z-]*|:[a-z-]+:)" + found.container_id.encode(), text)


@given(ref=refs, shape=st.sampled_from(SHAPES), below=tenant_paths)
def test_what_a_tenant_nests_below_its_container_never_changes_whose_it_is(ref: ContainerRef, shape: str, below: bytes) -> None:
    assert container_in_path(path_of(ref, shape).encode() + b"/" + below) == ref


@given(ref=refs, below=tenant_paths)
def test_a_container_seen_without_its_kubepods_is_nobodys_whatever_is_nested_in_it(ref: ContainerRef, below: bytes) -> None:
    path = f"/../../pod{ref.pod_uid}/{ref.container_id}/".encode() + below
    assert container_in_path(path) is None


@given(
    ref=refs, shape=st.sampled_from(SHAPES), prefix=st.lists(st.sampled_from(("..", "docker", "e" * 64, "a.slice")), max_size=4)
)
def test_what_stands_above_kubepods_does_not_matter(ref: ContainerRef, shape: str, prefix: list[str]) -> None:
    assert container_in_path("/".join(["", *prefix]).encode() + path_of(ref, shape).encode()) == ref


@given(shape=st.sampled_from(SHAPES), cut=st.integers(min_value=1, max_value=60))
def test_a_path_cut_short_names_nobody(shape: str, cut: int) -> None:
    path = path_of(OURS, shape).encode().removesuffix(b".scope")
    assert container_in_path(path[:-cut]) is None


@pytest.mark.parametrize(
    ("what", "lines", "expected"),
    [
        ("memory and pids agree", ("4:memory:{ours}", "3:pids:{ours}", "0::/"), OURS),
        ("memory shares a hierarchy", ("4:cpu,memory:{ours}",), OURS),
        ("only the unified one knows", ("4:memory:/", "3:pids:/", "0::{ours}"), OURS),
        ("memory was left, pids was not", ("4:memory:/", "3:pids:{ours}"), OURS),
        ("memory says another than pids", ("4:memory:{victim}", "3:pids:{ours}"), None),
        ("the unified one of a hybrid host says another", ("4:memory:{ours}", "0::{victim}"), OURS),
        ("and before the others", ("0::{victim}", "4:memory:{ours}", "3:pids:/"), OURS),
        ("a hierarchy that is not asked says another", ("9:freezer:{victim}", "4:memory:{ours}"), OURS),
        ("a named hierarchy called memory", ("9:name=memory:{victim}", "4:memory:{ours}"), OURS),
        ("a number that is not the unified one's", ("10::{victim}",), None),
        ("colons in a tenant's name", ("0::{ours}/0::{victim}",), OURS),
        ("a deleted cgroup", ("0::{ours} (deleted)",), None),
        ("no text at all", ("",), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hierarchies_are_asked_together(what: str, lines: tuple[str, ...], expected: ContainerRef | None) -> None:
    text = "\n".join(lines).format(ours=path_of(OURS), victim=path_of(VICTIM))
    assert container_of(text.encode()) == expected
