"""Which container a process runs in, from the text of /proc/<pid>/cgroup: pure functions, no file is opened here.

Rules, in order:

1. A path is read from its start. What the container runtime put there comes first; what follows the container belongs to
   the tenant, who may nest cgroups and name them after somebody else's pod.
2. The first element named after a pod decides. If nothing in it or before it says `kubepods`, the process is nobody's:
   looking further down could only find names that a tenant chose.
3. The container is in the same element, or is the next one, and only under a name that a runtime gives to a container.
   A runtime's own monitor (CRI-O's conmon) sits in the pod and is not a container.
4. The v1 hierarchies of memory and pids are asked. One that knows no pod (a half-moved process) is outvoted; two that name
   different containers make the process nobody's. Attribution is never a guess, since it decides who is charged and who is
   killed.
5. The unified hierarchy is asked only where those name nobody. Beside them (a hybrid host) containers are left at its root,
   and a tenant with a user namespace of its own may mount it and go where it likes: what it says there is the tenant's word.

The shapes are those of the kubelet's and the runtimes' own name code (cgroupfs and systemd drivers, dockershim,
cri-dockerd, containerd, CRI-O with runc and crun), also nested in a node that is itself a container.
"""

import re
from collections.abc import Iterable, Iterator

from mortalgpu.model.pod import ContainerRef

_POD = re.compile(
    rb"(?:^|-)pod"
    rb"(?P<uid>[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    rb"(?:\.slice)?(?::[a-z-]+:(?P<container>[0-9a-f]{64}))?\Z"
)
_CONTAINER = re.compile(rb"(?:cri-containerd-|crio-|docker-|libpod-)?(?P<container>[0-9a-f]{64})(?:\.scope)?\Z")
_ASKED = (b"memory", b"pids")


def container_of(text: bytes) -> ContainerRef | None:
    """Return the container that /proc/<pid>/cgroup names, or None when it names none, or more than one.

    Never raises, whatever the text. The pod UID is in its API form (dashes), a static pod's as its 32 hex digits.
    """
    found = _named(path for unified, path in _paths(text) if not unified)
    found = found or _named(path for unified, path in _paths(text) if unified)
    return found.pop() if len(found) == 1 else None


def is_hearsay(text: bytes) -> bool:
    """Whether a hybrid host's unified hierarchy alone may have named the container (rule 5).

    That is how a process looks whose first thread is dead: v1 shows such a one at the root, whatever its container.
    """
    controllers = [path for unified, path in _paths(text) if not unified]
    return bool(controllers) and not _named(controllers)


def container_in_path(path: bytes) -> ContainerRef | None:
    """Return the container that one cgroup path leads to or through, or None.

    A leading `/..` is what a reader in another cgroup namespace sees.
    """
    elements = [element for element in path.split(b"/") if element not in (b"", b"..")]
    kubepods = False
    for position, element in enumerate(elements):
        kubepods = kubepods or b"kubepods" in element
        if pod := _POD.search(element):
            following = elements[position + 1] if position + 1 < len(elements) else b""
            return _below_pod(pod, following) if kubepods else None
    return None


def _below_pod(pod: re.Match[bytes], following: bytes) -> ContainerRef | None:
    container_id = pod["container"]
    if container_id is None:
        container = _CONTAINER.match(following)
        if container is None:
            return None
        container_id = container["container"]
    return ContainerRef(pod["uid"].decode("ascii").replace("_", "-"), container_id.decode("ascii"))


def _named(paths: Iterable[bytes]) -> set[ContainerRef]:
    return {ref for path in paths if (ref := container_in_path(path)) is not None}


def _paths(text: bytes) -> Iterator[tuple[bool, bytes]]:
    """Paths of the hierarchies that are asked, with whether it is the unified one.

    The kernel refuses newlines in cgroup names, so a line is a line.
    """
    for line in text.split(b"\n"):
        fields = line.split(b":", 2)
        if len(fields) != 3:
            continue
        number, controllers, path = fields
        unified = (number, controllers) == (b"0", b"")
        if unified or any(name in _ASKED for name in controllers.split(b",")):
            yield unified, path
