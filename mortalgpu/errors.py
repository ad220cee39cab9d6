"""Every error class of MortalGPU, on one page, grouped by whose move it is.

An error's text names the field, the value, the cause and the way out: it is read by an operator in a log line, or by a
user in `kubectl describe pod`. Adapters translate foreign errors into these at the wall; nothing above a port sees a
foreign exception. This module imports nothing.
"""

_LONGEST_TEXT = 1000
"""Characters of a message that quotes somebody's text."""


class MortalGpuError(Exception):
    """Root of all errors that MortalGPU raises on purpose."""


# The operator's move.


class ConfigError(MortalGpuError):
    """The configuration cannot be used.

    `field` is the full path of the key (`config.deviceSharing[1].migid[0]`), `problem` says what is wrong with its value
    and what would be right. The text is one line: control characters in it are shown escaped, and a text of pages is cut.
    """

    def __init__(self, field: str, problem: str) -> None:
        text = f"{field}: {problem}"
        if len(text) > _LONGEST_TEXT:
            text = f"{text[: _LONGEST_TEXT // 2]} ... {text[-_LONGEST_TEXT // 2 :]}"
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text))
        self.field = field
        self.problem = problem


# The machine's move.


class DriverError(MortalGpuError):
    """A call of the GPU driver failed; other calls and other devices may still work."""


class DriverLost(DriverError):
    """The driver, or the whole GPU, is gone: nothing is to be expected until it is opened again."""


class DriverTimeout(DriverError):
    """A call of the GPU driver did not return in time; its thread may still hang."""


class HostError(MortalGpuError):
    """This machine refused something we need (a socket, a directory, a process file)."""


# The neighbour's move; usually it passes.


class KubeletError(MortalGpuError):
    """kubelet does not answer, or refused us."""


class ClusterError(MortalGpuError):
    """The Kubernetes API or the container runtime does not answer, or refused us."""


# The request's fault.


class AllocationError(MortalGpuError):
    """An allocation cannot be granted. The text reaches the user through kubelet, so it is plain."""

    reason = "invalid"
    """A short fixed word for metrics; never the text."""


class NotEnoughShares(AllocationError):
    """Fewer shares are free than were asked for."""

    reason = "not_enough_shares"


class WouldSplit(AllocationError):
    """No single device can serve the request, and splitting is off."""

    reason = "would_split"


class UnknownMetaDevice(AllocationError):
    """An id names no share of this resource."""

    reason = "unknown_id"


class DeviceUnhealthy(AllocationError):
    """The shares asked for lie on a device that is sick at present."""

    reason = "unhealthy"


class ExternalAllocatorError(AllocationError):
    """The external allocator program refused, failed, hung, or answered against the rules."""

    reason = "external_allocator"


# The caller's fault.


class AccessError(MortalGpuError):
    """A caller of the device API may not do this."""


class Unauthenticated(AccessError):
    """The caller did not prove who it is. The text is for our log; the caller gets a fixed sentence."""


class Forbidden(AccessError):
    """The caller is known and may not do this."""


class NotFound(AccessError):
    """What the caller names does not exist, or not for this caller."""


class ServiceFailed(MortalGpuError):
    """A supervised service crashed more often than its restart budget allows."""


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors within a group, however nested (a nursery wraps what ends it); a lone error makes a list of one."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in leaves(each)]
