"""mgctl's front: reads the words, runs one command, returns the exit code.

Exit codes: 0 done · 1 refused or failed · 2 wrong words · 69 the daemon is not reachable · 130 interrupted. Results go to
standard output, messages to standard error. Each command's code is imported when it is chosen.
"""

import os
import sys

from mortalgpu import __version__
from mortalgpu.mgctl.arguments import Options, UsageError, parse
from mortalgpu.mgctl.codes import DONE, FAILED, INTERRUPTED, USAGE


def run(words: list[str]) -> int:
    """Run mgctl with these words (without the program's name) and return its exit code. Writes to the standard streams."""
    try:
        options = parse(_without_script(words), dict(os.environ))
    except UsageError as error:
        print(f"mgctl: {error}\nTry `mgctl help`.", file=sys.stderr)
        return USAGE
    if sys.stdout is None:
        return _complain("standard output is closed")
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # Names of tenants may hold what the terminal's encoding cannot show.
        stream.reconfigure(errors="replace")
    try:
        code = _carry_out(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # What Python still holds for standard output must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # A reader that has gone has seen enough.
        return FAILED if isinstance(error, BrokenPipeError) else _complain(error.strerror or str(error))
    return code


def _complain(text: str) -> int:
    print(f"mgctl: cannot write the result: {text}", file=sys.stderr)
    return FAILED


def _without_script(words: list[str]) -> list[str]:
    """Drop the path of a one-line script that names mgctl as its interpreter: the kernel puts it before the words."""
    return words[1:] if words and words[0].startswith("/") and words[0].rpartition("/")[2] == "mgctl" else words


def _carry_out(options: Options) -> int:
    match options.command:
        case "version":
            return _version(options)
        case "help":
            from mortalgpu.mgctl.help import text

            print(text(options.topic))
            return DONE
        case "completion":
            from mortalgpu.mgctl.completion import script

            print(script(options.shell), end="")
            return DONE
        case _:
            from mortalgpu.mgctl.client import carry_out

            return carry_out(options)


def _version(options: Options) -> int:
    shown = {
        "table": f"mgctl {__version__}",
        "json": f'{{"version": "{__version__}"}}',
        "yaml": f'version: "{__version__}"',
    }
    print(shown[options.output])
    return DONE
