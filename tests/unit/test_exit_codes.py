"""The exit code is the error's, however many nurseries wrapped it, and however many services failed of it at once."""

import argparse

import pytest

from mortalgpu.__main__ import EX_CONFIG, EX_SOFTWARE, EX_UNAVAILABLE, _guarded
from mortalgpu.errors import ConfigError, DriverLost, HostError


def _because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


WRONG = ConfigError("config.log", "is odd")
FULL, GONE = HostError("no room"), DriverLost("no driver")
ENDINGS = {
    "one error": (WRONG, EX_CONFIG),
    "wrapped twice": (ExceptionGroup("", [ExceptionGroup("", [GONE])]), EX_UNAVAILABLE),
    "two services for one reason": (
        ExceptionGroup("", [FULL, ExceptionGroup("", [HostError("no room either")])]),
        EX_UNAVAILABLE,
    ),
    "machine and driver": (ExceptionGroup("", [FULL, GONE]), EX_UNAVAILABLE),
    "two kinds": (ExceptionGroup("", [FULL, WRONG]), EX_SOFTWARE),
    "a bug among them": (ExceptionGroup("", [FULL, KeyError("x")]), EX_SOFTWARE),
    "no memory, and what came of it": (ExceptionGroup("", [KeyError("x"), MemoryError()]), EX_UNAVAILABLE),
    "no memory for the loop itself": (_because(RuntimeError("internal error"), MemoryError()), EX_UNAVAILABLE),
    "two bugs": (ExceptionGroup("", [ValueError("y"), KeyError("x")]), EX_SOFTWARE),
}


@pytest.mark.parametrize(("error", "code"), ENDINGS.values(), ids=ENDINGS)
def test_a_face_that_fails_ends_with_the_code_of_its_error_and_at_most_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def face(_: argparse.Namespace) -> int:
        raise error

    assert _guarded(face, argparse.Namespace()) == code
    said = capsys.readouterr().err
    assert said.count("\n") == (0 if code == EX_SOFTWARE else 1)
