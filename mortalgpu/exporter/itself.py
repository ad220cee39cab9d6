"""Collector: the daemon's own process, build, readiness and restarts of its services."""

import platform
from collections.abc import Iterator, Mapping

import trio
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.process_collector import ProcessCollector

import mortalgpu
from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, single

_BY_SAMPLE = {metric.name: metric for metric in names.OWN_PROCESS_METRICS}


def collect(restarts: Mapping[str, int], *, ready: bool) -> Iterator[Family]:
    """Yield build, tasks, readiness, and restarts by service. To be called from a task."""
    yield family(names.BUILD_INFO, [((mortalgpu.__version__, platform.python_version()), 1)])
    yield single(names.TASKS, trio.lowlevel.current_statistics().tasks_living)
    yield single(names.READY, float(ready))
    yield family(names.SERVICE_RESTARTS, (((service,), count) for service, count in sorted(restarts.items())))


class OwnProcess:
    """CPU, memory and file descriptors of this process, read from /proc by prometheus-client; some tenths of a millisecond."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Family]:
        """Yield what /proc says; less where it cannot be read."""
        found: list[PrometheusMetric] = list(self._collector.collect())
        for sample in (sample for metric in found for sample in metric.samples):
            if sample.name in _BY_SAMPLE:
                yield single(_BY_SAMPLE[sample.name], sample.value)
