"""The policy that asks a program of the operator's, once for each request.

The program gets one JSON object on standard input and answers with one on standard output:

    {"version": 1, "resource": "…", "size": 4, "available": [ids], "mustInclude": [ids],
     "devices": [{"uuid", "model", "memoryBytes", "shares", "free", "parentUuid", "migGpuInstance"}]}
    {"deviceIDs": [ids]}

1. A non-zero exit is a refusal; the last line it wrote to standard error is the reason that the user reads.
2. An answer is used only if it keeps what base.py promises.
3. Whatever the program does, the request ends: there is a time limit, and a limit to what it may write. Its whole process
   group is killed when it is done, late or given up, so nothing that it started stays behind or holds its pipes open.
4. A request that no answer could serve is refused without asking.
"""

import errno
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from mortalgpu.allocator.base import Request, Terms
from mortalgpu.allocator.check import answer_problem
from mortalgpu.allocator.program import MAX_OUTPUT_BYTES, Outcome, run_program
from mortalgpu.allocator.room import survey
from mortalgpu.errors import ExternalAllocatorError
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.metaid import numbers_by_device
from mortalgpu.texts import one_line

_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class ExternalAllocator:
    """An external program as an Allocator.

    `argv` is the program's absolute path and its arguments; `extra_env` is added to the daemon's environment.
    """

    argv: Sequence[str]
    terms: Terms
    timeout_seconds: float
    extra_env: Mapping[str, str] = field(default_factory=dict)

    async def prefer(self, request: Request, devices: Sequence[SharedDevice]) -> tuple[str, ...]:
        """See Allocator.prefer. Takes at most the time limit and a moment to end the program."""
        survey(request, devices, self.terms)
        output = await self._ask(request, question(request, devices))
        answer = self._read_answer(request, output)
        problem = answer_problem(answer, request, devices, self.terms)
        if problem:
            raise self._error(request, f"answered against the rules: {problem}")
        return answer

    async def _ask(self, request: Request, text: bytes) -> bytes:
        """Run the program once; return what it wrote to standard output."""
        with trio.move_on_after(self.timeout_seconds):
            try:
                outcome = await run_program(self.argv, text, self.extra_env)
            except (OSError, ValueError) as error:
                raise self._error(request, f"cannot be started: {_cause(error)}") from error
            if outcome.overflowed:
                raise self._error(request, f"wrote more than {MAX_OUTPUT_BYTES} bytes")
            if outcome.status:
                raise self._error(request, _ending(outcome))
            return outcome.output
        raise self._error(request, f"gave no answer within {self.timeout_seconds:g} s and was stopped")

    def _read_answer(self, request: Request, output: bytes) -> tuple[str, ...]:
        try:
            answer = json.loads(output)
        except (ValueError, RecursionError) as error:
            begin = one_line(output[:80].decode(errors="replace").strip(), _LONGEST_REASON) or "nothing"
            raise self._error(request, f"did not answer with a JSON object; it wrote: {begin}") from error
        ids = answer.get("deviceIDs") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(isinstance(text, str) for text in ids):
            raise self._error(request, 'did not answer with {"deviceIDs": [ids]}')
        return tuple(ids)

    def _error(self, request: Request, problem: str) -> ExternalAllocatorError:
        name = self.argv[0] if self.argv else ""
        return ExternalAllocatorError(f"{request.resource}: the allocator program {name} {problem}")


def question(request: Request, devices: Sequence[SharedDevice]) -> bytes:
    """Return what the program reads: one JSON object on one line. `free` counts a device's available ids."""
    free = {uuid: len(numbers) for uuid, numbers in numbers_by_device(request.available).items()}
    document = {
        "version": 1,
        "resource": request.resource,
        "size": request.size,
        "available": sorted(request.available),
        "mustInclude": sorted(request.must_include),
        "devices": [_described(shared, free.get(shared.uuid, 0)) for shared in devices],
    }
    return json.dumps(document).encode() + b"\n"


def _described(shared: SharedDevice, free: int) -> dict[str, object]:
    mig = shared.device.mig
    return {
        "uuid": shared.uuid,
        "model": shared.device.model,
        "memoryBytes": shared.device.memory_bytes,
        "shares": shared.shares,
        "free": free,
        "parentUuid": mig.parent_uuid if mig else None,
        "migGpuInstance": mig.gi_id if mig else None,
    }


def _cause(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        hint = " (it needs a first line such as #!/bin/sh)" if error.errno == errno.ENOEXEC else ""
        return f"{error.strerror or error}{hint}"
    return str(error)


def _ending(outcome: Outcome) -> str:
    if outcome.status < 0:
        number = -outcome.status
        return f"was ended by signal {number} ({signal.strsignal(number) or 'without a name'})"
    lines = [line for line in outcome.errors.decode(errors="replace").splitlines() if line.strip()]
    reason = one_line(lines[-1].strip(), _LONGEST_REASON) if lines else ""
    return f"refused: {reason}" if reason else f"refused with exit status {outcome.status} and no reason"
