"""kubelet's registration socket: announcing a plugin, and seeing that kubelet was started anew."""

import logging
import os
from pathlib import Path

import trio

from mortalgpu.errors import KubeletError
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.rpc.status import RpcError

log = logging.getLogger(__name__)

SOCKET_NAME = "kubelet.sock"
API_VERSION = "v1beta1"
POLL_SECONDS = 0.1
REGISTER_SECONDS = 20.0
"""kubelet dials our socket inside the call and gives itself 10 s for that: ours must be longer to hear its own reason."""


class KubeletRegistrar:
    """Registers with the kubelet that owns a device-plugin directory. See kubelet.base.Registrar."""

    def __init__(self, device_plugin_dir: Path, options: pb.DevicePluginOptions) -> None:
        self._socket = device_plugin_dir / SOCKET_NAME
        self._options = options

    async def wait_for_kubelet(self) -> tuple[int, ...]:
        """See Registrar.wait_for_kubelet. Looks every POLL_SECONDS; says once in the log that it waits."""
        told = False
        while True:
            identity = self.socket_identity()
            if identity is not None and await self._answers() and identity == self.socket_identity():
                return identity
            if not told:
                told = True
                log.warning("waiting for kubelet", extra={"path": str(self._socket)})
            await trio.sleep(POLL_SECONDS)

    async def _answers(self) -> bool:
        with trio.move_on_after(1):
            try:
                stream = await trio.open_unix_socket(self._socket)
            except OSError:
                return False
            await stream.aclose()
            return True
        return False

    async def register(self, resource: str, endpoint: str) -> None:
        """See Registrar.register. Bounded by REGISTER_SECONDS."""
        request = pb.RegisterRequest(version=API_VERSION, endpoint=endpoint, resource_name=resource, options=self._options)
        try:
            with trio.fail_after(REGISTER_SECONDS + 1):
                async with open_channel(f"unix://{self._socket}") as channel:
                    await channel.unary("/v1beta1.Registration/Register", request, pb.Empty, deadline_seconds=REGISTER_SECONDS)
        except RpcError as error:
            raise KubeletError(f"kubelet at {self._socket} did not register {resource}: {error}") from None
        except trio.TooSlowError:
            raise KubeletError(f"kubelet at {self._socket} did not answer within {REGISTER_SECONDS:.0f} s") from None

    def socket_identity(self) -> tuple[int, ...] | None:
        """See Registrar.socket_identity. Device, inode and change time: an inode number alone is soon used again."""
        try:
            found = os.stat(self._socket)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_ctime_ns
