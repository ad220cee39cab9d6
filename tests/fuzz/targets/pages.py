"""Targets: what asks for metrics, what tenants' texts become on a page and in the log."""

import json
import logging
from functools import partial

import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from trio.testing import MockClock, memory_stream_pair

from mortalgpu.exporter import names
from mortalgpu.exporter.family import family
from mortalgpu.exporter.http import Answer, HttpServer, Request
from mortalgpu.exporter.text import openmetrics_format, plain_format, prefers_openmetrics
from mortalgpu.logs import HumanText, JsonLines
from tests.fuzz.target import Target, no_fault_logged

_PAGE = b"figure 1.0\n" * 1000


async def _page(_request: Request) -> Answer:
    return Answer(_PAGE)


async def _serve(data: bytes) -> bytes:
    ours, theirs = memory_stream_pair()
    said = bytearray()

    async def read() -> None:
        while part := await ours.receive_some(65536):
            said.extend(part)

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(_serve_and_close, theirs)
            await ours.send_all(data)
            await ours.send_eof()
    return bytes(said)


async def _serve_and_close(stream: trio.StapledStream) -> None:  # type: ignore[type-arg]
    await HttpServer({"/metrics": _page, "/healthz": _page}).serve_connection(stream)
    await stream.aclose()


def check_scrape(data: bytes) -> None:
    """Whatever a client sends is answered with a status that it can cause, or with silence."""
    with no_fault_logged():
        said = trio.run(partial(_serve, data), clock=MockClock(autojump_threshold=0))
    assert not said or said[:12] in (
        b"HTTP/1.1 200",
        *(b"HTTP/1.1 4%02d" % code for code in (0, 4, 5, 8, 13, 31)),
        b"HTTP/1.1 501",
    )


def check_accept(data: bytes) -> None:
    """An Accept header is a wish for one of the two formats."""
    assert prefers_openmetrics(data.decode("latin-1")) in (True, False)


def check_labels(data: bytes) -> None:
    """Texts in labels read back as they are, in both formats, and make no line of their own."""
    text = data.decode("utf-8", "replace")
    metric = next(each for each in vars(names).values() if isinstance(each, names.Metric) and len(each.labels) >= 2)
    labels = tuple(text[at:] for at in range(len(metric.labels)))
    for made, families in ((plain_format(), plain_families), (openmetrics_format(), openmetrics_families)):
        page = (made.text(family(metric, [(labels, 1.0), (labels[::-1], 2.0)]), text) + made.end).decode()
        samples = [sample for found in families(page) for sample in found.samples]
        assert len(samples) == len({labels, labels[::-1]})
        assert tuple(samples[0].labels[name] for name in metric.labels) == labels


def check_log(data: bytes) -> None:
    """A foreign text in a log record stays in its field, on one line, and is printable."""
    text = data.decode("utf-8", "surrogateescape" if data[:1] == b"\xff" else "replace")
    record = logging.LogRecord("mortalgpu.x", logging.INFO, "", 0, "shares granted", (), None)
    record.error = text
    record.devices = [text]
    line = JsonLines().format(record)
    assert line.isprintable()
    assert json.loads(line)["error"] == text
    shown = HumanText().format(record)
    assert shown.isprintable()


_GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\nAccept: text/plain\r\nAccept-Encoding: gzip;q=1.0, br\r\n\r\n"

TARGETS = (
    Target(
        "metrics-http",
        check_scrape,
        (
            _GET,
            _GET * 2,
            _GET.replace(b"GET", b"HEAD").replace(b"1.1", b"1.0"),
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde",
            b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\r\n",
        ),
        (
            *(
                b"\r\n",
                b"\n",
                b"\r\n\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Length: 0\r\n",
                b"Content-Length: +1\r\n",
            ),
            *(
                b"Content-Length: 0, 0\r\n",
                b"Host: y\r\n",
                b" HTTP/9.9",
                b"\0",
                b"\xff",
                b": ",
                b"q=0",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
            ),
        ),
        inputs=600,
    ),
    Target(
        "metrics-accept",
        check_accept,
        (b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1",),
        (b";q=nan", b";q=inf", b"q=", b",", b";", b"\xa0"),
        inputs=1500,
    ),
    Target(
        "metrics-labels",
        check_labels,
        (b"train", b'a"b\\c\nd', b"x} 1\n# HELP"),
        (b"\\", b'"', b"\n", b"\r", b"}", b"{", b"#", b"\xe2\x80\xa8", b"\x85", b"\x0b", b"\x1c", b"\0"),
        inputs=400,
    ),
    Target(
        "log-text",
        check_log,
        (b"all is well", b"a=b", b'say "hello"\n'),
        (
            b"\x1b[2J",
            b"\xc2\x9b2J",
            b"\r",
            b"\n",
            b"\xe2\x80\xae",
            b"\xe2\x80\xa8",
            b"\xff",
            b"\xf3\xa0\x80\x81",
            b"\0",
            b"\x7f",
        ),
        inputs=2000,
    ),
)
