"""Which face am I? Chooses `mgctl` or a sub-command and turns the outcome into an exit code; the only file that exits.

Exit codes: 0 asked to stop, or done · 2 wrong words on the command line · 69 the driver, kubelet or this machine does not let
us work · 70 a fault of ours · 78 the configuration. Every face is imported only when it is chosen: mgctl must start fast.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from mortalgpu.config import Config

_RESERVE = [bytes(2**21)]
"""Given back before we say what stopped us, where that is want of memory. Never written to, so it takes no page."""

LAST_SECONDS = 30
"""How long the daemon may take to end, once it has begun to: twice what service managers grant it."""

EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CONFIG = 78


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `mortalgpu`; also of `mgctl` when the program goes by that name."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if os.path.basename(sys.argv[0]) == "mgctl":
        mgctl_main(words)
    from mortalgpu.arguments import parser

    chosen = parser().parse_args(words)
    faces = {"run": _run, "discover": _discover, "check-config": _check_config, "token": _token, "demo": _demo}
    sys.exit(_guarded(faces[chosen.command], chosen))


def mgctl_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `mgctl`."""
    from mortalgpu.mgctl.main import run

    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(chosen: "argparse.Namespace") -> int:
    import signal

    from mortalgpu.host import heap

    heap.return_freed_memory()
    import trio

    from mortalgpu import daemon, logs

    _occupy_standard_numbers()
    config = _configuration(chosen)
    logs.set_up(verbose=config.log.verbose, as_json=config.log.json)
    try:
        trio.run(daemon.run, config, chosen.config, lambda: _configuration(chosen), _end_soon)
    finally:
        signal.alarm(0)
    return 0


def _end_soon() -> None:
    """Let the kernel end us where we do not come to our end: a thread hangs, or its answer was lost for want of memory.

    A daemon that neither works nor ends would be the worst: nobody starts it again.
    """
    import signal

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LAST_SECONDS)


def _occupy_standard_numbers() -> None:
    """Open what of 0, 1 and 2 we were started without: else a file of ours would lie there, and get what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _discover(chosen: "argparse.Namespace") -> int:
    import trio

    from mortalgpu import discover

    findings = trio.run(discover.find, _configuration(chosen))
    print(discover.as_json(findings) if chosen.output == "json" else discover.as_table(findings))
    return 0


def _check_config(chosen: "argparse.Namespace") -> int:
    from mortalgpu import configfile, wiring

    config = configfile.load(chosen.file, {}, chosen.set)
    rules = wiring.share_rules(config)
    print(f"{chosen.file}: good; resources: {', '.join(dict.fromkeys(rule.resource for rule in rules))}")
    return 0


def _token(chosen: "argparse.Namespace") -> int:
    from mortalgpu import wiring
    from mortalgpu.deviceapi.keys import Keys
    from mortalgpu.deviceapi.mint import mint_for_operator

    keys = Keys(wiring.key_settings(_configuration(chosen)))
    minted = mint_for_operator(
        keys, chosen.level, email=chosen.email, meta_devices=chosen.meta_device, lifetime_seconds=chosen.lifetime
    )
    print(minted)
    return 0


def _demo(chosen: "argparse.Namespace") -> int:
    from functools import partial

    import trio

    from mortalgpu import demo, logs

    logs.set_up(verbose=False, as_json=False, level=logs.ERROR)
    trio.run(partial(demo.run, chosen.seconds, plain=chosen.plain))
    return 0


def _configuration(chosen: "argparse.Namespace") -> "Config":
    from mortalgpu import arguments, configfile

    return configfile.load(chosen.config, os.environ, arguments.overrides(chosen))


def _guarded(face: Callable[["argparse.Namespace"], int], chosen: "argparse.Namespace") -> int:
    """Run a face; say in one line what stopped it, except for a fault of ours, which shows its traceback."""
    from mortalgpu import errors

    try:
        return face(chosen)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return EX_SOFTWARE
    except Exception as error:
        _RESERVE.clear()
        cause = _only(error)
        code = _exit_code(cause)
        if code == EX_SOFTWARE or not isinstance(cause, errors.MortalGpuError):
            import logging

            logging.getLogger("mortalgpu").critical("a fault of ours", exc_info=error)
            return EX_SOFTWARE
        # Whoever started us goes by the code, also where nobody can be told the reason.
        with suppress(OSError):
            print(f"mortalgpu: {cause}", file=sys.stderr, flush=True)
        return code


def _only(error: BaseException) -> BaseException:
    """Return the one error in a group (a nursery wraps what ends it); of several with one exit code, none a bug, the first.

    What happens to a program without memory is no bug of its own, whatever else it then runs into.
    """
    from mortalgpu.errors import HostError, leaves

    found = leaves(error)
    if any(isinstance(each, MemoryError) or isinstance(each.__cause__, MemoryError) for each in found):
        return HostError(
            "no memory is left for this process; raise the limit of its unit or container, or of its address space"
        )
    codes = {_exit_code(each) for each in found}
    return found[0] if len(found) == 1 or (len(codes) == 1 and EX_SOFTWARE not in codes) else error


def _exit_code(error: BaseException) -> int:
    from mortalgpu import errors

    if isinstance(error, errors.ConfigError):
        return EX_CONFIG
    neighbours = (errors.DriverError, errors.HostError, errors.KubeletError, errors.ClusterError)
    return EX_UNAVAILABLE if isinstance(error, neighbours) else EX_SOFTWARE


if __name__ == "__main__":
    main()
