"""The committed inputs: by target, one file an input. `found-*` once broke something; the others reach what seeds do not."""

import hashlib
from pathlib import Path

from tests.fuzz.target import Target

CORPUS = Path(__file__).parent / "corpus"
FOUND = "found-"


def known(target: Target) -> list[bytes]:
    """Return the seeds of a target and its committed inputs, always in the same order."""
    return [*target.seeds, *(path.read_bytes() for path in files(target))]


def files(target: Target) -> list[Path]:
    """Return the committed inputs' files."""
    return sorted((CORPUS / target.name).glob("*"))


def keep(target: Target, data: bytes, prefix: str = FOUND) -> Path:
    """Write an input into the corpus, to be committed, and return its path."""
    path = CORPUS / target.name / f"{prefix}{hashlib.sha256(data).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
