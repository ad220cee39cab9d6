"""Telling owners: notes become Kubernetes Events, posted one after the other by a task that nobody waits for.

Only `create` on events is needed, so repeats are folded here (see throttle) and never patched on the server. The name of
an Event is chosen before the first attempt: a retry of one that had arrived after all is a conflict, not a second Event.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import getrandbits
from random import random as system_random

import msgspec
import trio

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.backoff import Backoff
from mortalgpu.cluster.base import ClusterCounts
from mortalgpu.cluster.session import ApiPace, ApiRefusal, open_session
from mortalgpu.cluster.throttle import Throttle
from mortalgpu.errors import ClusterError
from mortalgpu.model.pod import Pod, PodNote

log = logging.getLogger(__name__)

COMPONENT = "mortalgpu"
NODE_EVENT_NAMESPACE = "default"
"""Nodes have no namespace; `kubectl describe node` looks here."""

_QUEUE = 256
_ANSWERED_ATTEMPTS = 5
_OLDEST_SECONDS = 600.0
_LONGEST_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Letter:
    """An Event on its way: its path, its JSON, and the monotonic time at which it was written."""

    path: str
    body: bytes
    written_at: float


class Postbox:
    """Takes notes at any time, delivers them while `deliver` runs."""

    def __init__(
        self,
        access: ApiAccess,
        node: str,
        pace: ApiPace,
        *,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = system_random,
        throttle: Throttle | None = None,
    ) -> None:
        self._access = access
        self._node = node
        self._pace = pace
        self._now = now
        self._ticks = ticks
        self._random = random
        self._throttle = throttle or Throttle()
        self._put, self._take = trio.open_memory_channel[Letter](_QUEUE)
        self.counts = ClusterCounts()

    def note(self, pod: Pod, note: PodNote) -> None:
        """Queue an Event on a pod. Never blocks, never raises."""
        involved = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.api_uid or pod.uid,
        }
        self._queue(pod.uid, pod.namespace, involved, note)

    def node_note(self, note: PodNote) -> None:
        """Queue an Event on the node, whose uid is by kubelet's custom its name. Never blocks, never raises."""
        involved = {"kind": "Node", "apiVersion": "v1", "name": self._node, "uid": self._node}
        self._queue("", NODE_EVENT_NAMESPACE, involved, note)

    async def deliver(self) -> None:
        """Post what is queued, for ever. Events are rare, so each attempt has a connection of its own."""
        while True:
            await self._post(await self._take.receive())

    async def _attempt(self, letter: Letter) -> None:
        async with open_session(self._access, self._pace) as session:
            await session.post(letter.path, letter.body)

    def _queue(self, about: str, namespace: str, involved: dict[str, str], note: PodNote) -> None:
        times = self._throttle.admit(about, note.reason, note.message, self._ticks())
        if times is None:
            self.counts = replace(self.counts, notes_dropped=self.counts.notes_dropped + 1)
            return
        body = event_body(namespace, involved, note, self._node, times, self._now(), f"{getrandbits(64):016x}")
        try:
            self._put.send_nowait(Letter(f"/api/v1/namespaces/{namespace}/events", body, self._ticks()))
        except trio.WouldBlock:
            self.counts = replace(self.counts, notes_dropped=self.counts.notes_dropped + 1)
            log.debug("event dropped: the queue is full", extra={"reason": note.reason})

    async def _post(self, letter: Letter) -> None:
        """Post one Event, again and again while that can help."""
        backoff = Backoff(self._random, self._pace.first_retry_seconds, self._pace.last_retry_seconds)
        answers = 0
        while True:
            try:
                await self._attempt(letter)
            except ApiRefusal as refusal:
                if refusal.status == 409:
                    break
                answers += 1
                if answers >= _ANSWERED_ATTEMPTS or not may_pass(refusal.status):
                    self._given_up(refusal)
                    return
                await trio.sleep(backoff.failed(refusal.retry_after_seconds))
            except ClusterError as trouble:
                if self._ticks() - letter.written_at > _OLDEST_SECONDS:
                    self._given_up(trouble)
                    return
                await trio.sleep(backoff.failed())
            else:
                break
        self.counts = replace(self.counts, notes_sent=self.counts.notes_sent + 1)

    def _given_up(self, trouble: ClusterError) -> None:
        self.counts = replace(self.counts, notes_failed=self.counts.notes_failed + 1)
        log.warning("event not delivered", extra={"error": str(trouble)})


def may_pass(status: int) -> bool:
    """True for refusals that another attempt may overcome: a token being replaced, too many requests, a server in trouble.

    Forbidden is one of them: an API server that has just started refuses what it has not yet read the roles for.
    """
    return status in (401, 403, 429) or status >= 500


def event_body(
    namespace: str, involved: dict[str, str], note: PodNote, node: str, times: int, at_seconds: float, token: str
) -> bytes:
    """Return the JSON of a core/v1 Event. `token` makes its name unique; `times` says how often it happened."""
    at = datetime.fromtimestamp(at_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{involved['name'][:230].rstrip('.-')}.{token}", "namespace": namespace},
            "involvedObject": involved,
            "reason": note.reason,
            "message": note.message[:_LONGEST_MESSAGE],
            "type": "Warning" if note.warning else "Normal",
            "count": times,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "source": {"component": COMPONENT, "host": node},
            "reportingComponent": COMPONENT,
            "reportingInstance": node,
        }
    )
