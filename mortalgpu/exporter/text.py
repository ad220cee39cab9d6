"""Families as text, in Prometheus' format and in OpenMetrics', by prometheus-client's own exposition: its only doorkeeper.

The exposition takes ten microseconds and more a line, so lines whose figure did not change since the last page of the same
format are used again; most of a page are such. Lines of what is gone are forgotten with the next page.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from mortalgpu.exporter.family import Distribution, Family
from mortalgpu.exporter.names import COUNTER, HISTOGRAM

OPENMETRICS = "application/openmetrics-text"
_END = b"# EOF\n"


class _One(Collector):
    """A registry of one metric, which is what the exposition takes."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


_Lines = dict[tuple[str, ...], tuple[float | Distribution, bytes]]
"""By the row's labels: the figure, and its lines."""


class Format:
    """One text format, and the lines made last. `end` closes a page."""

    def __init__(self, content_type: str, encode: Callable[[Collector], bytes], end: bytes) -> None:
        self.content_type = content_type
        self.end = end
        self._encode = encode
        self._made: dict[str, tuple[bytes, _Lines]] = {}

    def text(self, family: Family, node: str) -> bytes:
        """Return the lines of a metric, with what introduces them; nothing for one without rows."""
        name = family.metric.name
        head, known = self._made.pop(name, (b"", {}))
        if not family.rows:
            return b""
        fresh = [row for row in family.rows if (made := known.get(row[0])) is None or made[0] != row[1]]
        if fresh:
            head, lines = self._lines(Family(family.metric, tuple(fresh)), node)
            known |= {labels: (figure, text) for (labels, figure), text in zip(fresh, lines, strict=True)}
        kept = {labels: known[labels] for labels, _ in family.rows}
        self._made[name] = head, kept
        return b"".join([head, *(text for _, text in kept.values())])

    def _lines(self, family: Family, node: str) -> tuple[bytes, list[bytes]]:
        """Return the introduction, and the lines of each row."""
        text = self._encode(_One(_metric(family, node))).removesuffix(_END)
        lines = [line + b"\n" for line in text.removesuffix(b"\n").split(b"\n")]  # Not splitlines: a label may hold \r.
        introduction = [line for line in lines if line.startswith(b"#")]
        rest = lines[len(introduction) :]
        each = len(rest) // len(family.rows)
        return b"".join(introduction), [b"".join(rest[at : at + each]) for at in range(0, len(rest), each)]


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
