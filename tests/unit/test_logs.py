"""Log lines: one object or one line a record, fields from the closed list only, and nothing from foreign libraries."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from mortalgpu import logs


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Put the logging of the test run back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("mortalgpu")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


def written(*, as_json: bool, verbose: bool = False, **fields: object) -> str:
    """Return what one record of ours becomes."""
    stream = io.StringIO()
    logs.set_up(verbose=verbose, as_json=as_json, stream=stream)
    logging.getLogger("mortalgpu.scan.discovery").info("device became unhealthy", extra=fields)
    return stream.getvalue()


def test_a_json_line_has_time_level_event_module_and_fields() -> None:
    line = json.loads(written(as_json=True, device="GPU-1", shares=3))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "device became unhealthy",
        "module": "scan.discovery",
        "device": "GPU-1",
        "shares": 3,
    }


ODD = {
    "line ends": "a\nb",
    "quotes": 'a"b',
    "no text": "\ud800",
    "an object": object(),
    "bytes": b"x",
    "a set": {1},
    "not a number": float("nan"),
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize("as_json", [True, False])
def test_odd_values_make_one_line_all_the_same(value: object, as_json: bool) -> None:
    text = written(as_json=as_json, error=value)
    assert text.count("\n") == 1
    assert text.endswith("\n")


def test_a_field_that_is_not_on_the_list_is_left_out() -> None:
    assert "secret" not in written(as_json=True, token="secret")
    assert "secret" not in written(as_json=False, token="secret")


def test_text_for_people_quotes_what_needs_it() -> None:
    text = written(as_json=False, reason="XID 79", device="GPU-1", error="")
    assert 'reason="XID 79"' in text
    assert "device=GPU-1" in text
    assert 'error=""' in text


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_is_shown(as_json: bool) -> None:
    stream = io.StringIO()
    logs.set_up(verbose=False, as_json=as_json, stream=stream)
    try:
        raise ValueError("of ours")
    except ValueError:
        logging.getLogger("mortalgpu").exception("service crashed")
    assert "ValueError: of ours" in stream.getvalue()
    if as_json:
        assert stream.getvalue().count("\n") == 1


def test_debug_lines_come_only_when_verbose() -> None:
    for verbose in (False, True):
        stream = io.StringIO()
        logs.set_up(verbose=verbose, as_json=True, stream=stream)
        logging.getLogger("mortalgpu.x").debug("detail")
        assert bool(stream.getvalue()) is verbose


@pytest.mark.parametrize("name", ["hpack", "hpack.hpack", "httpx", "purerpc.server"])
def test_foreign_libraries_say_nothing_below_a_warning_even_when_verbose(name: str) -> None:
    stream = io.StringIO()
    logs.set_up(verbose=True, as_json=True, stream=stream)
    logging.getLogger(name).info("authorization: Bearer secret")
    logging.getLogger(name).debug("authorization: Bearer secret")
    assert stream.getvalue() == ""
