"""Which adapter a configuration means: the one place that knows them all, for the composition root."""

from collections.abc import Sequence
from pathlib import Path

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.api import ApiCluster
from mortalgpu.cluster.auto import AutoCluster
from mortalgpu.cluster.base import Cluster
from mortalgpu.cluster.cri import USUAL_SOCKETS, CriCluster
from mortalgpu.errors import ConfigError


def select_cluster(
    pod_source: str,
    access: ApiAccess | None,
    node: str,
    sockets: Sequence[Path] = USUAL_SOCKETS,
    *,
    field: str = "config.podSource",
) -> Cluster:
    """Return the cluster for `auto`, `kubernetes` or `cri`. Does no I/O.

    `access` is None outside of a cluster (see `access.in_cluster`): `auto` then means the runtime. Raises ConfigError, naming
    `field`, when the Kubernetes API is wanted and there is no access, or no name of this node to ask for.
    """
    if pod_source == "cri" or (pod_source == "auto" and access is None):
        return CriCluster(sockets)
    if access is None:
        raise ConfigError(field, "kubernetes needs a service account (run in a pod that has one), or choose auto or cri")
    if not node:
        raise ConfigError(field, f"{pod_source} needs the name of this node: set NODE_NAME from spec.nodeName, or choose cri")
    api = ApiCluster(access, node)
    return AutoCluster(api, CriCluster(sockets)) if pod_source == "auto" else api
