"""What processes call themselves, from the real /proc to the log, the Event, mgctl's table and the metrics.

The processes are real, and named as nastily as a kernel allows. Whatever they are called, everything shown has the same lines
as with harmless names, and nothing in it moves a terminal.
"""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_page

from mortalgpu.cluster.events import event_body
from mortalgpu.enforcer.decide import Verdict
from mortalgpu.enforcer.wording import message
from mortalgpu.exporter.http import Request
from mortalgpu.exporter.service import Switches, gpu_routes
from mortalgpu.host.base import ProcessDetails
from mortalgpu.host.table import ProcfsTable
from mortalgpu.latest import Latest
from mortalgpu.logs import HumanText, JsonLines
from mortalgpu.mgctl import render
from mortalgpu.mgctl.text import PLAIN
from mortalgpu.model.pod import PodNote
from tests.campaign import Tally
from tests.unit.deviceapi import node
from tests.unit.exporter import facts
from tests.unit.mgctl import pages

pytestmark = pytest.mark.hostile

NAMES = (
    b"python train.py",
    b"a\nlevel=error event=\"forged\" pod=other",
    b"a\r\x1b[2K\x1b[1A" + b"gone",
    b"\x1b]0;title\x07\x1b[31;5mred\x1b[0m\x9b31m",
    b'"},{"pod":"victim","x":"',
    b'"} 1\nmortalgpu_up{node="forged"} 1 #',
    b"\\\\\" \\n \\x1b",
    b"%s %d %n {0} {pod} $(reboot) `reboot`",
    b"\xff\xfe\xf0\x28\x8c\x28 broken \xc3\x28 \xed\xa0\x80 \xc0\xaf",
    "\u202eexe.yrassecen\u2066 \u200b\u200d\ufeff \u2028 \u2029 \x85".encode(),
    "\u0301" .encode() * 3000,
    "\U0001f600\uff21".encode() * 2000,
    b"\x01\x02\x03\x04\x05\x06\x07\x08\t\x0b\x0c\x0e\x7f",
    b"x" * 120_000,
    b" ",
    b"",
)  # fmt: skip
SLEEPS = "import ctypes, os, sys; ctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[1])); print(flush=True); sys.stdin.read()"


@contextmanager
def process_called(name: bytes) -> Iterator[int]:
    """A process with this name as its command line's first word, as an argument, and as its short name."""
    command: list[str | bytes] = [name, "-c", SLEEPS, name]
    pipe = subprocess.PIPE
    # `cwd` keeps Python 3.13 from posix_spawn, which takes no empty first word.
    with subprocess.Popen(command, executable=sys.executable, env={}, stdin=pipe, stdout=pipe, cwd=".") as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


async def described(name: bytes) -> ProcessDetails:
    """What the daemon reads of such a process."""
    with process_called(name) as pid, ProcfsTable() as table:
        found = await table.inspect([pid])
        return (await table.describe(list(found.values())))[pid]


def lines_of(texts: ProcessDetails) -> dict[str, list[str]]:
    """Everything that is shown of a process, by where it is shown, as lines."""
    usage = node.usage()
    called = {"command": texts.command, "user": texts.user}
    claims = [
        replace(claim, processes=tuple(replace(each, **called) for each in claim.processes))  # type: ignore[arg-type]
        for claim in usage.containers[1].devices
    ]
    holder = replace(usage.containers[1], devices=tuple(claims))
    told = message(Verdict(holder, claims[0], claims[0].processes[0], 1.0), "killed", node.SHARED[node.GPU_A])
    response = pages.containers(found=pages.facts(replace(usage, containers=(holder,))))
    event = event_body("ns", {"name": "p"}, PodNote("Reason", told), "node", 1, 0.0, "token")
    logged = {}
    for formatter in (JsonLines(), HumanText()):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        record = logging.LogRecord("mortalgpu.x", logging.WARNING, "", 0, "container over its limit", None, None)
        record.__dict__.update(reason=told, cause=texts.command, user=texts.user)
        handler.emit(record)
        logged[type(formatter).__name__] = stream.getvalue().split("\n")
    return {
        **logged,
        "event": [json.loads(event)["message"]],
        "mgctl": render.processes(response, PLAIN, width=120),
        "mgctl, narrow": render.processes(response, PLAIN, width=40),
        "mgctl, unbounded": render.processes(response, PLAIN),
    }


async def page_of(texts: ProcessDetails) -> list[str]:
    """The metrics page with such a process on it."""
    made = facts.Facts()
    process = facts.running(1, 1000, command=texts.command, user=texts.user)
    made.usage.publish(facts.usage(facts.holder(1, facts.claim(facts.V100_ID, process))))
    switches = Latest(Switches(metagpu_names=True, per_process=True))
    page = (await gpu_routes(made.sources(), switches)["/metrics"](Request("/metrics", ""))).body.decode()
    series = {sample.name for family in parse_page(page) for sample in family.samples}
    assert "mortalgpu_up" not in series
    return page.split("\n")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_whatever_a_process_calls_itself_what_is_shown_keeps_its_lines(tally: Tally, name: bytes) -> None:
    hostile = await described(name)
    harmless = replace(hostile, command="python train.py")
    assert hostile.command.isprintable()
    assert len(hostile.command) <= 256
    expected, shown = lines_of(harmless), lines_of(hostile)
    for where, lines in shown.items():
        assert len(lines) == len(expected[where]), where
        assert [line for line in lines if not line.isprintable()] == [], where
        assert sum(map(len, lines)) < sum(map(len, expected[where])) + 2000, where
    assert len(await page_of(hostile)) == len(await page_of(harmless))
    tally.add("attacks")
