"""The Kubernetes API's JSON of pods, as far as it matters here, and its translation into the model. Pure.

Only the fields named below are built; a pod with a megabyte of specification costs its bytes once and no objects. `null`
stands for an absent list throughout the API, hence the optional types.
"""

import re
from collections.abc import Iterator

import msgspec

from mortalgpu.cluster.base import LIMIT_ANNOTATION_PREFIX
from mortalgpu.errors import ClusterError
from mortalgpu.model.pod import Container, Pod

CONFIG_HASH = "kubernetes.io/config.hash"
"""Annotation of a static pod: the UID that kubelet gave it, and so the one in its cgroup paths."""

MIRROR = "kubernetes.io/config.mirror"
"""Annotation that makes a pod the mirror of a static one. It can be given at creation only, and kubelet runs no such pod."""

_STATIC_UID = re.compile(r"[0-9a-f]{32}\Z")
"""kubelet's form. The API server's own UIDs have dashes, so that no annotation can name another pod of the API."""


_LONGEST_QUOTED = 500
"""Characters."""


class Unreadable(ClusterError):
    """What came is not what the API speaks, or too much of it."""


class Meta(msgspec.Struct, rename="camel"):
    """ObjectMeta."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class Running(msgspec.Struct):
    """ContainerStateRunning: that it is there says enough."""


class RunState(msgspec.Struct):
    """ContainerState."""

    running: Running | None = None


class ContainerStatus(msgspec.Struct, rename="camel"):
    """ContainerStatus."""

    name: str = ""
    container_id: str = msgspec.field(default="", name="containerID")
    state: RunState | None = None


class PodStatus(msgspec.Struct, rename="camel"):
    """PodStatus."""

    phase: str = ""
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None


class PodObject(msgspec.Struct):
    """Pod."""

    metadata: Meta
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class ListMeta(msgspec.Struct, rename="camel"):
    """ListMeta."""

    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class PodList(msgspec.Struct):
    """PodList. `kind` guards against an answer that is JSON but not a list of pods."""

    kind: str
    metadata: ListMeta
    items: list[PodObject] | None = None


class Status(msgspec.Struct):
    """Status: how the API says no, as a body or inside a watch."""

    message: str = ""
    reason: str = ""
    code: int = 0


class WatchLine(msgspec.Struct):
    """One line of a watch; what `object` is depends on `type`."""

    type: str
    object: msgspec.Raw


class Bookmark(msgspec.Struct):
    """The object of a BOOKMARK: only its resource version counts."""

    metadata: Meta


_lists = msgspec.json.Decoder(PodList)
_lines = msgspec.json.Decoder(WatchLine)
_pods = msgspec.json.Decoder(PodObject)
_bookmarks = msgspec.json.Decoder(Bookmark)
_statuses = msgspec.json.Decoder(Status)
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for what is no JSON, not of the form, or nested too deep."""


def read_list(body: bytes) -> PodList:
    """Decode a page of a list. Raises Unreadable when it is not one."""
    try:
        page = _lists.decode(body)
    except _BROKEN as broken:
        raise Unreadable(f"the API server's list of pods cannot be read: {broken}") from broken
    if page.kind != "PodList":
        raise Unreadable(f"the API server answered a {page.kind[:60]!r} where a PodList was asked for")
    return page


def read_line(line: bytes) -> tuple[str, PodObject | Bookmark | Status]:
    """Decode one line of a watch into its type and object. Raises Unreadable when it cannot be read."""
    try:
        event = _lines.decode(line)
        if event.type == "ERROR":
            return event.type, _statuses.decode(event.object)
        if event.type == "BOOKMARK":
            return event.type, _bookmarks.decode(event.object)
        return event.type, _pods.decode(event.object)
    except _BROKEN as broken:
        raise Unreadable(f"the API server's watch sent a line that cannot be read: {broken}") from broken


def one_line(text: str) -> str:
    """Return foreign text as a message may quote it: cut, and on one printable line."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:_LONGEST_QUOTED])


def read_status(body: bytes) -> Status:
    """Decode the body of a refusal; one that is no Status (a proxy's page, say) gives an empty one."""
    try:
        return _statuses.decode(body)
    except _BROKEN:
        return Status()


def to_pod(found: PodObject) -> Pod:
    """Translate an API pod. A static pod goes by its config hash, with the mirror's own uid kept for Events."""
    annotations = found.metadata.annotations or {}
    return Pod(
        uid=_static_uid(annotations) or found.metadata.uid,
        name=found.metadata.name,
        namespace=found.metadata.namespace,
        containers=tuple(_containers(found.status)),
        annotations=limit_annotations(annotations),
        api_uid=found.metadata.uid,
        finished=found.status.phase in ("Succeeded", "Failed"),
    )


def _static_uid(annotations: dict[str, str]) -> str:
    """Return the UID of the static pod that a pod with these annotations mirrors, or "" if it mirrors none.

    Anybody who makes pods can annotate them: a pod that runs, and so is no mirror, must go by the UID that the API server gave.
    """
    claimed = annotations.get(CONFIG_HASH, "")
    return claimed if MIRROR in annotations and _STATIC_UID.match(claimed) else ""


def limit_annotations(annotations: dict[str, str]) -> dict[str, str]:
    """Keep the annotations that say something about limits; the rest (often many kilobytes) is of no use here."""
    return {key: text for key, text in annotations.items() if key.startswith(LIMIT_ANNOTATION_PREFIX)}


def _containers(status: PodStatus) -> Iterator[Container]:
    """Yield the containers that the runtime has made; one without an id yet cannot be recognised by anything."""
    for statuses in (status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses):
        for each in statuses or ():
            container_id = each.container_id.rpartition("://")[2]
            if container_id:
                yield Container(each.name, container_id, running=each.state is not None and each.state.running is not None)
