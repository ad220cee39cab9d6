"""The configuration's file is all that a bad deployment can make of it, while pods are admitted: nothing granted is lost."""

import copy
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mortalgpu.simulation.driver import partition_uuid
from tests.campaign import Tally
from tests.e2e.daemon import SHARED
from tests.e2e.device_manager import Capacity
from tests.e2e.faults.rig import MIB, Rig
from tests.e2e.pods import pod_asking
from tests.e2e.stage import quiet
from tests.e2e.story import device_of
from tests.e2e.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
BETWEEN_SECONDS = 0.05
OTHER_SHARES = 200
"""Of the partition, by the other configuration; 400 by the first one."""


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


ATTACKS: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a pipe": lambda path: os.mkfifo(path),
    "a loop": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "empty": _text(""),
    "half": _text('{"deviceSharing": [{"resourceName"'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe" * 1000),
    "two megabytes": _text("# \n" * 700_000),
    "what no device can have": _text('{"deviceSharing": [{"resourceName": "a/b", "metagpusPerGpu": 1000000000}]}'),
}


@contextmanager
def rewritten(rig: Rig, configs: list[dict[str, Any]], tally: Tally) -> Iterator[None]:
    """Replace the daemon's file all the time, by a rename as a ConfigMap does, and hang up each time."""
    path, over, chosen = rig.daemon.folder / "config.json", threading.Event(), random.Random(1)

    def attack() -> None:
        for number in iter(int, 1):
            if over.wait(BETWEEN_SECONDS):
                return
            draft = path.with_name(f"draft-{number}-{chosen.random()}")
            name, make = chosen.choice([*ATTACKS.items(), *(("good", _text(json.dumps(each))) for each in configs * 3)])
            make(draft)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif draft.is_dir() and not draft.is_symlink():
                path.unlink()
            draft.rename(path)
            os.kill(rig.daemon.pid, signal.SIGHUP)
            tally.add("faults of the environment", name != "good")

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_text(json.dumps(rig.daemon.config))


def test_whatever_becomes_of_the_file_grants_stay_true_and_the_daemon_stays_up(rig: Rig, long_form: bool, tally: Tally) -> None:
    pid, first, chosen = rig.daemon.pid, rig.daemon.config, random.Random(2)
    other = copy.deepcopy(first)
    other["deviceSharing"][1]["metagpusPerGpu"] = OTHER_SHARES
    told: set[tuple[str, int, int]] = set()
    with rewritten(rig, [first, other], tally):
        for number in range(400 if long_form else 10):
            shares = chosen.choice([10, 60, 350])
            pod = pod_asking(f"amid it {number}", main={SHARED: shares})
            admission = rig.manager.admit(pod)
            if admission.admitted:
                told.add((device_of(admission.ids(SHARED)[0]), shares, int(admission.edits().env["METAGPU_MAX_MEM"])))
                quiet(chosen.choice([0.0, 0.1]))
                rig.check()
                rig.manager.delete(pod)
            rig.check_tenants()
    assert rig.daemon.pid == pid
    assert told, "no pod was admitted"
    for device, shares, limit_mib in told:
        if device == partition_uuid(2):
            size_mib = memory_mib_of(rig, device)
            worth = [size_mib * shares // 400, size_mib * shares // OTHER_SHARES]
            assert limit_mib in worth, f"{shares} shares of {device} were told to be {limit_mib} MiB, and not one of {worth}"
    for config, count in ((other, 400 + OTHER_SHARES), (first, 800)):
        (rig.daemon.folder / "config.json").write_text(json.dumps(config))
        os.kill(pid, signal.SIGHUP)
        until("its counts", lambda: rig.manager.capacity(SHARED), Capacity(count, count).__eq__, seconds=20)
    rig.sound()


def memory_mib_of(rig: Rig, uuid: str) -> int:
    """The size of a partition, as the driver says."""
    return next(part.total // MIB for part in rig.daemon.driver.state.partitions if part.uuid == uuid)
