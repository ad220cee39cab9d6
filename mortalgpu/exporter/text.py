"""Families as text, in Prometheus' format and in OpenMetrics', by prometheus-client's own exposition: its only doorkeeper.

The exposition takes ten microseconds and more a line, so the text of a metric whose rows did not change since the last page
of the same format is used again; most of a page is such.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from mortalgpu.exporter.family import Distribution, Family, Row
from mortalgpu.exporter.names import COUNTER, HISTOGRAM

OPENMETRICS = "application/openmetrics-text"
_END = b"# EOF\n"


class _One(Collector):
    """A registry of one metric, which is what the exposition takes."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class Format:
    """One text format, and the texts made last. `end` closes a page."""

    def __init__(self, content_type: str, encode: Callable[[Collector], bytes], end: bytes) -> None:
        self.content_type = content_type
        self.end = end
        self._encode = encode
        self._made: dict[str, tuple[tuple[Row, ...], bytes]] = {}

    def text(self, family: Family, node: str) -> bytes:
        """Return the lines of a metric; nothing for one without rows."""
        made = self._made.get(family.metric.name)
        if made is None or made[0] != family.rows:
            lines = self._encode(_One(_metric(family, node))).removesuffix(_END) if family.rows else b""
            made = (family.rows, lines)
            self._made[family.metric.name] = made
        return made[1]


def plain_format() -> Format:
    """Return Prometheus' own text format, 0.0.4."""
    # Our names are all of the old alphabet, so nothing needs escaping, and the exposition need not look.
    return Format(CONTENT_TYPE_PLAIN_0_0_4, partial(generate_latest, escaping=openmetrics.ALLOWUTF8), b"")


def openmetrics_format() -> Format:
    """Return OpenMetrics 1.0.0."""
    encode = partial(openmetrics.generate_latest, escaping=openmetrics.ALLOWUTF8, version="1.0.0")
    return Format(f"{OPENMETRICS}; version=1.0.0; charset=utf-8", encode, _END)


def prefers_openmetrics(accept: str) -> bool:
    """Whether a client that sends this Accept header would rather have OpenMetrics than plain text."""
    wanted = dict(map(_media_range, accept.split(",")))
    plain = max(wanted.get(kind, 0.0) for kind in ("text/plain", "text/*", "*/*"))
    return wanted.get(OPENMETRICS, 0.0) > 0 and wanted[OPENMETRICS] >= plain


def _media_range(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        return kind, float(quality)
    except ValueError:
        return kind, 0.0


def _metric(family: Family, node: str) -> Metric:
    """Return a family as prometheus-client has it."""
    spec = family.metric
    keys = (spec.node_label, *spec.labels) if spec.node_label else spec.labels
    first = (node,) if spec.node_label else ()
    if spec.kind == HISTOGRAM:
        histogram = HistogramMetricFamily(spec.name, spec.help, labels=keys)
        for values, distribution in family.rows:
            assert isinstance(distribution, Distribution)
            histogram.add_metric((*first, *values), _cumulative(distribution), distribution.sum)
        return histogram
    metric = CounterMetricFamily(spec.name, spec.help) if spec.kind == COUNTER else Metric(spec.name, spec.help, spec.kind)
    for values, figure in family.rows:
        assert not isinstance(figure, Distribution)
        metric.add_sample(spec.name, dict(zip(keys, (*first, *values), strict=True)), figure)
    return metric


def _cumulative(distribution: Distribution) -> list[tuple[str, float]]:
    names = (*map(repr, distribution.bounds), "+Inf")
    return list(zip(names, map(float, accumulate(distribution.counts)), strict=True))
