"""A kubepods tree of real cgroups, and the real process table."""

from collections.abc import Iterator

import pytest

from mortalgpu.host.table import ProcfsTable
from tests.standin.cgroups import KubepodsTree


@pytest.fixture
def tree() -> Iterator[KubepodsTree]:
    with KubepodsTree.unified() as tree:
        yield tree


@pytest.fixture
def table() -> Iterator[ProcfsTable]:
    with ProcfsTable() as table:
        yield table
