"""Other versions of the stand-in: another build, for a driver that is upgraded, and an old one that lacks a function.

Made from the compiled library by writing over a few bytes of a copy, so that hundreds of them take no compiler.
"""

import re
from pathlib import Path

from tests.standin.nvml.build import LIBRARY_NAME, SOURCES, build

_MARK = b"stand-in build "


def another_build(folder: Path, number: int) -> Path:
    """Put build `number` (the compiled one is 1) into a folder, in place of what is there, as a package manager does."""
    library = build().read_bytes()
    assert library.count(_MARK) == 1
    at = library.index(_MARK) + len(_MARK)
    return _placed(folder, library[:at] + b"%04d" % number + library[at + 4 :])


def without(folder: Path, function: str) -> Path:
    """Put a library into a folder that does not export a function."""
    name = b"\0" + function.encode() + b"\0"
    library = build().read_bytes()
    assert name in library, f"{function} is not exported"
    return _placed(folder, library.replace(name, b"\0_" + name[2:]))


def exported() -> tuple[str, ...]:
    """Return the names of all functions of the stand-in, which are those that the adapter may call."""
    text = "".join(path.read_text() for path in SOURCES.glob("*.c"))
    made = re.findall(r"^LISTING\((\w+)", text, re.MULTILINE)
    plain = re.findall(r"^EXPORT [\w ]+?\**(nvml\w+)\(", text, re.MULTILINE)
    return tuple(sorted({*plain, *made}))


def _placed(folder: Path, content: bytes) -> Path:
    draft = folder / f".{LIBRARY_NAME}"
    draft.write_bytes(content)
    return draft.rename(folder / LIBRARY_NAME)
