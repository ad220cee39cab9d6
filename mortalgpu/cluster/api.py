"""ADAPTER the Kubernetes API: the pods of this node by list and watch, notes as Events.

Reads with a service account that may get, list and watch pods and create events, and nothing else.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import random as system_random

import trio

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.backoff import Backoff
from mortalgpu.cluster.base import SOURCE_KUBERNETES, ClusterCounts, PodsView
from mortalgpu.cluster.events import Postbox
from mortalgpu.cluster.lastview import LastView
from mortalgpu.cluster.session import ApiPace, ApiRefusal, ApiSession, open_session
from mortalgpu.cluster.watch import PodWatch
from mortalgpu.errors import ClusterError
from mortalgpu.model.pod import Pod, PodNote


class ApiCluster:
    """See `mortalgpu.cluster.base.Cluster`. `node` is the node's name in the API."""

    def __init__(
        self,
        access: ApiAccess,
        node: str,
        *,
        pace: ApiPace | None = None,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = system_random,
    ) -> None:
        self._access = access
        self._pace = pace or ApiPace()
        self._backoff = Backoff(random, self._pace.first_retry_seconds, self._pace.longest_unseen_seconds)
        self._watch = PodWatch(node, self._pace, random)
        self._view = LastView(SOURCE_KUBERNETES, now)
        self._postbox = Postbox(access, node, self._pace, now=now, random=random)
        self._lists = 0

    @asynccontextmanager
    async def pods(self) -> AsyncIterator[AsyncIterator[PodsView]]:
        """Watch; see the port. Every wait of the watch has a deadline of its own."""
        views = self._view.opened()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._postbox.deliver)
            yield views
            nursery.cancel_scope.cancel()

    def refresh(self) -> None:
        """Do nothing: a watch is told of every change as soon as the API server knows it."""

    def note(self, pod: Pod, note: PodNote) -> None:
        """Queue an Event on the pod."""
        self._postbox.note(pod, note)

    def node_note(self, note: PodNote) -> None:
        """Queue an Event on this node."""
        self._postbox.node_note(note)

    def counts(self) -> ClusterCounts:
        """Return the figures so far."""
        return replace(self._postbox.counts, lists=self._lists, failures=self._view.failures)

    async def _follow(self) -> None:
        """Session after session: a new one after every failure, so that a new CA, address or token is picked up."""
        while True:
            try:
                async with open_session(self._access, self._pace) as session:
                    await self._turns(session)
            except ClusterError as trouble:
                self._view.lost(trouble)
                if self._watch.stood:
                    self._backoff.succeeded()
                asked = trouble.retry_after_seconds if isinstance(trouble, ApiRefusal) else 0.0
                await trio.sleep(self._backoff.failed(asked))

    async def _turns(self, session: ApiSession) -> None:
        while True:
            await self._watch.turn(session, self._changed, self._listed)
            self._backoff.succeeded()

    def _listed(self) -> None:
        self._lists += 1

    def _changed(self) -> None:
        self._view.known(self._watch.table.pods())
