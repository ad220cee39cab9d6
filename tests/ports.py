"""Ports for programs that must be told theirs before they start."""

import itertools
import random
import socket


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on now, below the range from which the kernel gives ports to others."""
    free = (port for port in random.SystemRandom().sample(range(20000, 30000), 1000) if _is_free(port))
    return list(itertools.islice(free, count))


def free_port() -> int:
    """Return one of them."""
    return free_ports(1)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
