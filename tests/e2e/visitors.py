"""Callers of a real daemon's device API: processes in a container's cgroup, holders of tokens, and root of the node."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from tests.e2e.client import Reply, call
from tests.e2e.stage import Actor, Stage

CHECKOUT = Path(__file__).parents[2]
JOIN = 'for listing in $LISTINGS; do echo $$ > "$listing"; done; exec "$@"'


@dataclass(frozen=True, slots=True)
class Visitor:
    """A way of calling: through an address, with a token or none, as a process of a container or as ourselves."""

    stage: Stage
    address: str
    token: str = ""
    place: Actor | None = None

    def ask(self, method: str, request: bytes = b"") -> Reply:
        if self.place is None:
            return call(self.address, method, request, token=self.token)
        listings = " ".join(str(path) for path in self.stage.listings(self.place))
        command = ["/bin/sh", "-c", JOIN, "sh", sys.executable, "-m", "tests.e2e.client", self.address, method, request.hex()]
        environment = {**os.environ, "LISTINGS": listings, "TOKEN": self.token}
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True, timeout=60)
        told = json.loads(done.stdout)
        return Reply(told["code"], told["details"], bytes.fromhex(told["body"]))

    def sees(self, pod_id: str = "") -> list[str]:
        """Return `pod/container` of what it is shown, or the code of the refusal alone."""
        reply = self.ask("GetGpuContainers", pb.GetGpuContainersRequest(pod_id=pod_id).SerializeToString())
        if reply.code != "OK":
            return [reply.code]
        shown = pb.GetGpuContainersResponse.FromString(reply.body).gpu_containers
        return sorted(f"{each.pod_id}/{each.container_name}" for each in shown)

    def devices(self) -> list[str]:
        """Return the UUIDs that it is shown, or the code of the refusal alone."""
        reply = self.ask("GetDevices")
        return sorted(pb.GetDevicesResponse.FromString(reply.body).device) if reply.code == "OK" else [reply.code]

    def kill(self, pid: int) -> str:
        return self.ask("KillGpuProcess", pb.KillGpuProcessRequest(pid=pid).SerializeToString()).code


def in_container(stage: Stage, actor: Actor, *, token: str = "") -> Visitor:
    """A process in the container's cgroup, which connects to the socket as the container has it mounted."""
    return Visitor(stage, f"unix:/proc/{actor.pid}/root/run/mortalgpu/device.sock", token, actor)


def in_cgroup(stage: Stage, actor: Actor) -> Visitor:
    """A process in the cgroup of a container that has no socket, which found the node's."""
    return Visitor(stage, f"unix:{stage.daemon.folder}/state/socket/device.sock", place=actor)


def on_network(stage: Stage, token: str = "") -> Visitor:
    (serves,) = stage.daemon.events('"device API serves"')[-1:]
    return Visitor(stage, next(address for address in serves["address"] if not address.startswith("unix:")), token)


def on_host(stage: Stage) -> Visitor:
    """A process of the host at the door of the containers, without a token."""
    return Visitor(stage, f"unix:{stage.daemon.folder}/state/socket/device.sock")


def operator(stage: Stage) -> Visitor:
    """Root of the node, at its own door."""
    return Visitor(stage, f"unix:{stage.daemon.folder}/state/admin.sock")
