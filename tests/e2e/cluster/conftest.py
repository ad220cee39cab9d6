"""A cluster for each file of tests, and what the chart is installed with there."""

from collections.abc import Iterator

import pytest

from tests.e2e import build
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.release import Release, image_path
from tests.needs import skipped_where_missing


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with skipped_where_missing():
        build.locate_node()
        image_path()
        made = Cluster()
    with made:
        yield made


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Release:
    return Release(cluster)
