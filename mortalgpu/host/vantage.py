"""From where we look: whether this process stands where it can see every process of the host, and name its place.

The GPU driver counts processes as the host does. In a pid namespace of our own those numbers mean nothing or, worse,
somebody else; in a cgroup namespace of our own, paths lack what stands above us, and pods of our own class cannot be told.
The kernel gives its first namespaces fixed numbers (include/linux/proc_ns.h), by which they are known.
"""

import os

_FIRST = {
    "pid": (
        "pid:[4026531836]",
        "not in the host's pid namespace: the driver's pids cannot be matched to processes; set hostPID: true",
    ),
    "cgroup": (
        "cgroup:[4026531835]",
        "not in the host's cgroup namespace: containers next to ours cannot be told; run privileged, or as a host service",
    ),
}


def blind_spots(root: str = "/proc") -> tuple[str, ...]:
    """Return one sentence for each thing that cannot be seen from here, with the way out; empty when all can.

    A node that is itself a container (kind) has namespaces of its own, and is well served by them: these are warnings.
    """
    return tuple(problem for kind, (first, problem) in _FIRST.items() if _namespace(root, kind) not in (first, None))


def _namespace(root: str, kind: str) -> str | None:
    """The namespace we are in; None on a kernel that has no such kind."""
    try:
        return os.readlink(f"{root}/self/ns/{kind}")
    except OSError:
        return None
