"""Every target, by what it concerns; `TARGETS` has them all by name."""

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    access,
    allocation,
    configuration,
    host,
    kubernetes,
    machine,
    neighbours,
    pages,
    rpc,
    services,
    terminal,
)

_GROUPS = (configuration, host, rpc, access, allocation, neighbours, kubernetes, machine, pages, terminal, services)

TARGETS: dict[str, Target] = {target.name: target for group in _GROUPS for target in group.TARGETS}
