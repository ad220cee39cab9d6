"""List, then watch, the pods of one node: the API's protocol for staying up to date, and what to do when it breaks.

Rules:
1. The server selects: `spec.nodeName=<node>` on every request; never a list of the whole cluster.
2. The first list may come from the server's cache (resourceVersion 0). A later one must be no older than what was seen. Only
   after the server has disowned our version (410, or a version it cannot reach) is the newest state asked of its store.
3. A watch resumes at the last version seen, bookmarks included. Any ERROR in it, a line that
   cannot be read, and those refusals mean: something was missed, list again.
"""

from collections.abc import Callable, Iterable
from random import random as system_random

import trio

from mortalgpu.cluster.podwire import Bookmark, PodObject, Status, Unreadable, one_line, read_line, read_list, to_pod
from mortalgpu.cluster.session import ApiPace, ApiRefusal, ApiSession
from mortalgpu.errors import ClusterError
from mortalgpu.model.pod import Pod

PODS_PATH = "/api/v1/pods"

FROM_CACHE = "0"
FROM_STORE = ""

_DISOWNED = (400, 410, 504)
"""Refusals that mean "not with this version": malformed to a restored etcd, compacted away, or from its future."""

_SHORT_LIFE_SECONDS = 5.0


class PodTable:
    """The pods by API uid, and the version up to which they are known. Pure: fed by lists and watch lines."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self.version = FROM_CACHE
        self.listed = False
        """False until a list has come, and again when only a new list can help."""

    def pods(self) -> dict[str, Pod]:
        """Return the pods by the UID that their cgroups carry.

        Of two that claim one UID, of which one only pretends to mirror a static pod, the one with containers is true: kubelet
        alone writes a pod's status.
        """
        found: dict[str, Pod] = {}
        for pod in self._pods.values():
            rival = found.get(pod.uid)
            if rival is None or not rival.containers:
                found[pod.uid] = pod
        return found

    def replace(self, found: Iterable[PodObject], version: str) -> None:
        """Take over a complete list."""
        self._pods = {each.metadata.uid: to_pod(each) for each in found}
        self.version = version
        self.listed = True

    def disown(self) -> None:
        """Forget the version: the server does not know it any more. The pods stay as the last known truth."""
        self.version = FROM_STORE
        self.listed = False

    def apply(self, kind: str, found: PodObject | Bookmark | Status) -> None:
        """Take over one line of a watch. Raises ApiRefusal for an ERROR, Unreadable for a type that does not exist."""
        if isinstance(found, Status):
            self.listed = False
            raise ApiRefusal(f"the Kubernetes API ended the watch with {found.code}: {one_line(found.message)}", found.code)
        if isinstance(found, PodObject):
            if kind == "DELETED":
                self._pods.pop(found.metadata.uid, None)
            elif kind in ("ADDED", "MODIFIED"):
                self._pods[found.metadata.uid] = to_pod(found)
            else:
                raise Unreadable(f"the Kubernetes API's watch sent a {kind[:40]!r}, which is no known kind of event")
        self.version = found.metadata.resource_version or self.version


class PodWatch:
    """Keeps a PodTable true over one session after another."""

    def __init__(self, node: str, pace: ApiPace, random: Callable[[], float] = system_random) -> None:
        self.table = PodTable()
        self.stood = False
        """Whether the latest watch lasted long enough to say that the server is well."""
        self._node = node
        self._pace = pace
        self._random = random

    async def turn(self, session: ApiSession, changed: Callable[[], None], listed: Callable[[], None]) -> None:
        """List if need be, then watch until the server ends it in good order.

        `listed` is called after each list, `changed` whenever the table is known to be true: once the watch stands, and after
        every batch of lines. Raises ClusterError (ApiRefusal) for anything else; the table then already knows how to go on.
        """
        self.stood = False
        try:
            if not self.table.listed:
                await self._list(session)
                listed()
                changed()
            await self._watch(session, changed)
        except ApiRefusal as refusal:
            if refusal.status in _DISOWNED:
                self.table.disown()
            raise
        except Unreadable:
            self.table.listed = False
            raise

    async def _list(self, session: ApiSession) -> None:
        found: list[PodObject] = []
        params = self._selection() | self._list_version() | {"limit": str(self._pace.page_pods)}
        while True:
            page = read_list(await session.get(PODS_PATH, params))
            found += page.items or ()
            if len(found) > self._pace.most_pods:
                raise ClusterError(f"the Kubernetes API lists more than {self._pace.most_pods} pods on node {self._node}")
            if not page.metadata.continue_token:
                break
            params = self._selection() | {"limit": str(self._pace.page_pods), "continue": page.metadata.continue_token}
        self.table.replace(found, page.metadata.resource_version)

    async def _watch(self, session: ApiSession, changed: Callable[[], None]) -> None:
        began = trio.current_time()
        params = self._selection() | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self.table.version,
            "timeoutSeconds": str(int(self._pace.watch_seconds * (1 + self._random()))),
        }
        try:
            async with session.lines(PODS_PATH, params) as batches:
                changed()
                async for lines in batches:
                    for line in lines:
                        self.table.apply(*read_line(line))
                    changed()
        finally:
            self.stood = trio.current_time() - began >= _SHORT_LIFE_SECONDS
        if not self.stood:
            raise ClusterError("the Kubernetes API ended a watch as soon as it had begun")

    def _selection(self) -> dict[str, str]:
        return {"fieldSelector": f"spec.nodeName={self._node}"}

    def _list_version(self) -> dict[str, str]:
        version = self.table.version
        if version in (FROM_CACHE, FROM_STORE):
            return {"resourceVersion": version} if version else {}
        return {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"}
