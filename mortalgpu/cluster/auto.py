"""ADAPTER both sources: the Kubernetes API while it answers, the container runtime's socket while it does not.

Rules:
1. The API is always followed; notes always go to it. What it says while in sync is the truth.
2. The runtime is followed only when needed: while the API is out of sync (after `patience_seconds`, once it had been in sync),
   and for `closer_look_seconds` after a container was seen that no view names: the API learns of new ones a second late.
3. While both answer, pods are the API's, and containers that only the runtime knows yet are added to them. While only the
   runtime answers, pods are the runtime's, with what the API last said of their annotations and uids.
4. While neither answers, the view with the more recent truth stands, marked stale.
"""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from mortalgpu.cluster.base import NO_PODS, Cluster, ClusterCounts, PodsView
from mortalgpu.latest import Latest
from mortalgpu.model.pod import Pod, PodNote

log = logging.getLogger(__name__)


class AutoCluster:
    """See `mortalgpu.cluster.base.Cluster`. `api` and `cri` are any two clusters; neither may be opened by anybody else."""

    def __init__(self, api: Cluster, cri: Cluster, *, patience_seconds: float = 5.0, closer_look_seconds: float = 10.0) -> None:
        self._api = api
        self._cri = cri
        self._patience_seconds = patience_seconds
        self._closer_look_seconds = closer_look_seconds
        self._api_view = NO_PODS
        self._cri_view = NO_PODS
        self._view = Latest(NO_PODS)
        self._look_until = -math.inf
        self._patient_until = -math.inf
        self._moved = trio.Event()

    @asynccontextmanager
    async def pods(self) -> AsyncIterator[AsyncIterator[PodsView]]:
        """Follow; see the port."""
        self._view.publish(replace(self._view.value, synced=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_api)
            nursery.start_soon(self._follow_cri_when_needed)
            yield self._view.changes()
            nursery.cancel_scope.cancel()

    def refresh(self) -> None:
        """Ask the runtime for a while, beside the API."""
        self._look_until = trio.current_time() + self._closer_look_seconds
        self._cri.refresh()
        self._wake()

    def note(self, pod: Pod, note: PodNote) -> None:
        """Queue an Event on the pod."""
        self._api.note(pod, note)

    def node_note(self, note: PodNote) -> None:
        """Queue an Event on this node."""
        self._api.node_note(note)

    def counts(self) -> ClusterCounts:
        """Return the figures of both sources together; notes are the API's."""
        api, cri = self._api.counts(), self._cri.counts()
        return replace(api, lists=api.lists + cri.lists, failures=api.failures + cri.failures)

    async def _follow_api(self) -> None:
        async with self._api.pods() as views:
            async for view in views:
                if self._api_view.synced and not view.synced:
                    self._patient_until = trio.current_time() + self._patience_seconds
                self._api_view = view
                self._wake()
                self._decide()

    async def _follow_cri(self) -> None:
        async with self._cri.pods() as views:
            async for view in views:
                self._cri_view = view
                self._decide()

    async def _follow_cri_when_needed(self) -> None:
        while True:
            await self._until(needed=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_cri)
                await self._until(needed=False)
                nursery.cancel_scope.cancel()
            self._cri_view = replace(self._cri_view, synced=False)

    def _needed(self) -> bool:
        """Rule 2, now."""
        now = trio.current_time()
        return now < self._look_until or (not self._api_view.synced and now >= self._patient_until)

    async def _until(self, needed: bool) -> None:
        """Return once rule 2 says so: it can change its mind with an event, or with time."""
        while self._needed() is not needed:
            moved, now = self._moved, trio.current_time()
            with trio.move_on_at(min((at for at in (self._look_until, self._patient_until) if at > now), default=math.inf)):
                await moved.wait()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def _decide(self) -> None:
        view = choose(self._api_view, self._cri_view)
        seen = self._view.value
        if view.source != seen.source and view.synced:
            log.info("source of pods chosen", extra={"source": view.source})
        if (view.pods, view.synced, view.source, view.trouble) != (seen.pods, seen.synced, seen.source, seen.trouble):
            self._view.publish(view)


def choose(api: PodsView, cri: PodsView) -> PodsView:
    """Decide which view stands (rules 3 and 4). Pure."""
    if api.synced:
        return replace(api, pods={uid: _with_containers(pod, cri.pods.get(uid)) for uid, pod in api.pods.items()})
    if cri.synced:
        pods = {uid: _with_api_knowledge(pod, api.pods.get(uid)) for uid, pod in cri.pods.items()}
        return replace(cri, pods=pods, trouble=api.trouble)
    older, newer = sorted((api, cri), key=lambda view: view.as_of)
    return replace(newer, trouble="; ".join(filter(None, (newer.trouble, older.trouble))))


def _with_containers(pod: Pod, seen: Pod | None) -> Pod:
    """Add the containers that the runtime has already made and the API does not name yet."""
    if seen is None or pod.finished:
        return pod
    known = {each.container_id for each in pod.containers}
    late = tuple(each for each in seen.containers if each.container_id not in known)
    return replace(pod, containers=pod.containers + late) if late else pod


def _with_api_knowledge(pod: Pod, known: Pod | None) -> Pod:
    return pod if known is None else replace(pod, annotations=known.annotations, api_uid=known.api_uid)
