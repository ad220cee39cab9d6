"""Pods that come and go while the node is disturbed: a story whose disturbances come back to back, with admissions under way.

To what a story holds to, this adds: after each death of the daemon its files are readable and its keys the same, no socket of
the dead is left, what containers have mounted is there, and the next daemon is not held up.
"""

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.channel import ChannelError
from tests.e2e.daemon import EXAMPLE_COUNTS, Daemon
from tests.e2e.device_manager import Admission, DeviceManager
from tests.e2e.story import RESOURCES, Story
from tests.e2e.waiting import eventually

BOUND_SECONDS = 10.0
"""How long the counts may be wrong after a disturbance on a machine that is busy with other things; the aim is two seconds."""
ANSWER_SECONDS = 60.0
SECRETS = ("device-api.key",)


def pause(seconds: float) -> None:
    """Let a random moment come: the campaign's, not a wait for something."""
    time.sleep(seconds)


class Churn(Story):
    """A story with its own disturbances; `seconds` are the times from each to the right counts, `counts` what was met."""

    def __init__(self, manager: DeviceManager, daemon: Daemon, seed: int) -> None:
        super().__init__(manager, daemon, seed)
        self.seconds: list[float] = []
        self.keys = self._keys()
        self.mounted: dict[str, bytes] = {}
        """What each file that a container has mounted must hold, by its path."""

    def undisturbed(self, steps: int) -> None:
        """Take some steps in peace: every request that fits must be admitted."""
        for _ in range(steps):
            self.random.choices([self.admit, self.delete], [2, 1])[0]()
            self.check()

    def restart_kubelet_amid_admissions(self) -> None:
        """Restart kubelet while admissions are under way, now and then after a pause or with a swept directory."""
        before = {pod.uid for pod in self.manager.pods.values()}
        held = {(each.pod, each.container): each.ids for each in self.manager.holdings()}
        later = self.in_flight()
        pause(self.random.uniform(0, 0.03))
        self.manager.stop()
        self._note(later)
        if self.random.random() < 0.2:
            self.manager.wipe_sockets()
        if self.random.random() < 0.2:
            pause(self.random.uniform(0, 1.5))
        self._start_kubelet()
        began = time.monotonic()
        self.manager.wait_allocatable(EXAMPLE_COUNTS, BOUND_SECONDS)
        self.seconds.append(time.monotonic() - began)
        after = {(each.pod, each.container): each.ids for each in self.manager.holdings()}
        kept = {key: ids for key, ids in held.items() if key[0] in before & set(self.manager.pods)}
        assert {key: after[key] for key in kept} == kept, "a pod that kubelet knew has other ids than before"
        self.check()

    def kill_daemon_at(self, moment: str) -> None:
        """Kill the daemon at a random point of one of its moments, then start it and hold everything to what it was."""
        self.counts[moment] += 1
        getattr(self, f"_{moment}")()
        self.check_layout()
        began = time.monotonic()
        self.daemon.start()
        self.manager.wait_allocatable(EXAMPLE_COUNTS, BOUND_SECONDS)
        self.seconds.append(time.monotonic() - began)
        if self.manager.registrations.overlaps:
            # Where kubelet has not yet noticed the death that we dealt, its books overlap; the counts must not suffer by it.
            self.counts["kubelet had not noticed"] += 1
            self.manager.registrations.overlaps.clear()
            pause(1.0)
            self.manager.wait_allocatable(EXAMPLE_COUNTS, BOUND_SECONDS)
        self.check()
        self.check_files()

    MOMENTS = ("while_starting", "while_writing", "while_publishing", "while_registering", "while_allocating", "at_rest")

    def _while_starting(self) -> None:
        self.daemon.kill()
        self.daemon.start()
        later = self.in_flight()
        pause(self.random.uniform(0, 1.0))
        self._kill(later)

    def _while_writing(self) -> None:
        """With the layout to be written at the start: kill it when something of that is on the disk."""
        self.daemon.kill()
        self.layout_path.unlink()
        draft = self._started_until_new(self.layout_path.parent, "layout.json")
        self.counts["killed amid a write"] += draft is not None and draft.name.startswith(".") and draft.exists()

    def _while_publishing(self) -> None:
        """With another mgctl to be published at the start."""
        self.daemon.kill()
        source = Path(self.daemon.config["mgctl"]["sourcePath"])
        source.write_bytes(self.random.randbytes(200_000))
        draft = self._started_until_new(self.versions)
        self.counts["killed amid a publication"] += draft is not None and draft.name.startswith(".") and draft.exists()

    def _started_until_new(self, folder: Path, part: str = "") -> Path | None:
        """Start the daemon and kill it as soon as a folder has a new entry, which may lie there for a millisecond or so."""
        known = {path.name for path in folder.iterdir()}
        self.daemon.start()
        later, found, deadline = self.in_flight(), None, time.monotonic() + 3.0
        while found is None and time.monotonic() < deadline:
            found = next((path for path in folder.iterdir() if part in path.name and path.name not in known), None)
        self._kill(later)
        return found

    def _while_registering(self) -> None:
        seen = len(self.manager.events)
        self.daemon.kill()
        self.daemon.start()

        def requested() -> bool:
            return any(event.event == "registration_requested" for event in self.manager.events[seen:])

        eventually("a registration", requested, seconds=BOUND_SECONDS, every_seconds=0.001)
        pause(self.random.uniform(0, 0.02))
        self._kill(self.in_flight())

    def _while_allocating(self) -> None:
        later = self.in_flight()
        pause(self.random.uniform(0, 0.02))
        self._kill(later)

    def _at_rest(self) -> None:
        pause(self.random.uniform(0, 0.5))
        self._kill([])

    def _kill(self, later: Iterable["Future[Admission]"]) -> None:
        self.daemon.kill()
        self._note(later)

    def in_flight(self) -> list["Future[Admission]"]:
        """Ask for some pods, and do not wait for the answers."""
        return [self.manager.admit_later(self._some_pod()) for _ in range(self.random.randint(1, 3))]

    def _note(self, later: Iterable["Future[Admission]"]) -> None:
        for future in later:
            try:
                admission = future.result(ANSWER_SECONDS)
            except ChannelError:
                self.counts["unanswered"] += 1
                continue
            self.counts["admitted amid it" if admission.admitted else "refused amid it"] += 1

    @property
    def layout_path(self) -> Path:
        return Path(self.daemon.config["stateDir"]) / "layout.json"

    @property
    def versions(self) -> Path:
        return Path(self.daemon.config["mgctl"]["hostMount"]["hostPath"]) / "mgctl"

    def admit(self) -> None:
        """Admit a pod, and remember what its container has mounted."""
        super().admit()
        for holding in self.manager.holdings():
            for mount in holding.edits.mounts:
                path = mount["host_path"]
                if Path(path).is_file():
                    self.mounted.setdefault(path, Path(path).read_bytes())

    def delete(self) -> None:
        """Delete any pod but the oldest, whose container sees it all."""
        others = list(self.manager.pods.values())[1:]
        if others:
            self.manager.delete(self.random.choice(others))

    def check_layout(self) -> None:
        """Check that the layout, if there is one, can be read at this very moment."""
        if self.layout_path.exists():
            try:
                layout = json.loads(self.layout_path.read_text())
            except ValueError as error:
                raise AssertionError(f"half a layout: {error}") from None
            assert {entry["resource"] for entry in layout["devices"].values()} == set(RESOURCES)

    def check_files(self) -> None:
        """Check what the daemon keeps on the disk, and what the dead have left there."""
        assert self.layout_path.exists()
        self.check_layout()
        assert self._keys() == self.keys, "a key is not what it was"
        drafts = [path.name for path in self.layout_path.parent.iterdir() if path.name.startswith(".")]
        assert drafts == [], "drafts of the dead are left"
        owners = {path.name.split("-")[2] for path in self.manager.socket_dir.glob("mortalgpu-*.sock")}
        assert owners == {str(self.daemon.pid)}, "sockets of the dead are left"
        for path, content in self.mounted.items():
            assert Path(path).read_bytes() == content, f"{path}, which a container has mounted, is not what it was"
        current = (self.versions / "current").resolve(strict=True)
        assert (current / "mgctl").read_bytes() == Path(self.daemon.config["mgctl"]["sourcePath"]).read_bytes()

    def _keys(self) -> list[bytes]:
        return [(Path(self.daemon.config["stateDir"]) / name).read_bytes() for name in SECRETS]

    def report(self) -> str:
        """Return what happened, and how long the counts were wrong."""
        ordered = sorted(self.seconds)
        middle, worst = ordered[len(ordered) // 2], ordered[-1]
        return f"{dict(self.counts)}; counts right again after {middle:.2f} s (p50), {worst:.2f} s (worst)"


@contextmanager
def told(churn: Churn, number: int, daemon: Daemon) -> Iterator[None]:
    """Let a failure say where in the campaign it was, and what the daemon logged last."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"disturbance {number}, so far {dict(churn.counts)}: {error}\n{daemon.log()[-4000:]}") from error
