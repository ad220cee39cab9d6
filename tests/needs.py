"""What a test needs and a machine may lack."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.build import Missing


@contextmanager
def skipped_where_missing() -> Iterator[None]:
    """Skip the test, with what to build, when the block asks for a partner that was not built."""
    try:
        yield
    except Missing as missing:
        pytest.skip(str(missing))
