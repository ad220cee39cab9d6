"""What an error means on the wire: the status codes, the table from our errors to them, and the errors of a call.

Rules:
1. STATUS names every error that a caller may learn of. A text of None means the error's own, which was written for readers.
2. Everything else is INTERNAL with INTERNAL_TEXT: a caller never reads our internals; our log has the traceback.
"""

from enum import IntEnum

import trio

from mortalgpu import errors
from mortalgpu.texts import one_line

_LONGEST_DETAILS = 1000
"""Characters."""


class Code(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Refusal(errors.MortalGpuError):
    """Raised by a handler to answer with exactly this status; the text is for the caller."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class RpcError(errors.MortalGpuError):
    """A call of ours ended with a status other than OK. `details` is the server's text and not to be trusted.

    In the error's own text, which ends in logs, they are cut, and on one printable line.
    """

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(f"{code.name}: {one_line(details, _LONGEST_DETAILS)}" if details else code.name)
        self.code = code
        self.details = details


class Unavailable(RpcError):
    """There is no connection to `address`, or it was lost during the call."""

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(Code.UNAVAILABLE, f"{address}: {cause}")
        self.address = address


INTERNAL_TEXT = "internal error; the log of the node's MortalGPU daemon says what happened"

STATUS: dict[type[Exception], tuple[Code, str | None]] = {
    errors.AllocationError: (Code.FAILED_PRECONDITION, None),
    errors.NotEnoughShares: (Code.RESOURCE_EXHAUSTED, None),
    errors.UnknownMetaDevice: (Code.INVALID_ARGUMENT, None),
    errors.Unauthenticated: (Code.UNAUTHENTICATED, "a valid token is needed"),
    errors.Forbidden: (Code.PERMISSION_DENIED, None),
    errors.NotFound: (Code.NOT_FOUND, None),
    errors.DriverError: (Code.UNAVAILABLE, "the GPU driver does not answer"),
    errors.KubeletError: (Code.UNAVAILABLE, "kubelet does not answer"),
    errors.ClusterError: (Code.UNAVAILABLE, "the cluster does not answer"),
    trio.TooSlowError: (Code.DEADLINE_EXCEEDED, "not done in time"),
}
"""Error class to status code and public text (None: the error's own). A subclass without a row has its base's."""


def status_of(error: Exception) -> tuple[Code, str] | None:
    """Return the code and the public text for `error`; None when the table does not know it.

    A group of one error (a handler's own nursery makes them) counts as that error.
    """
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, Refusal):
        return error.code, str(error)
    row = next((STATUS[base] for base in type(error).__mro__ if base in STATUS), None)
    return row and (row[0], str(error) if row[1] is None else row[1])
