"""No wall inside the container: it is told its limit, and the enforcer holds it from outside, where no tenant can reach."""

from collections.abc import Mapping

from mortalgpu.isolation.base import EditSettings, environment
from mortalgpu.model.grant import ContainerEdits, Grant
from mortalgpu.model.share import SharedDevice

TOKEN_VARIABLE = "MG_CTL_TOKEN"


class NoIsolation:
    """Tells the container what it has and leaves the holding to the enforcer."""

    def __init__(self, settings: EditSettings) -> None:
        self._settings = settings

    def edits(self, grant: Grant, devices: Mapping[str, SharedDevice]) -> ContainerEdits:
        """Return environment, mounts and device nodes for a grant."""
        envs = environment(grant, devices)
        if self._settings.mgctl_address:
            envs["MG_CTL_ADDR"] = self._settings.mgctl_address
        token = self._settings.mint_token(grant.meta_devices)
        if token:
            envs[TOKEN_VARIABLE] = token
        nodes = (node for uuid in grant.shares for node in self._settings.device_nodes(devices[uuid].device))
        return ContainerEdits(envs, self._settings.mounts(), tuple(dict.fromkeys(nodes)))
