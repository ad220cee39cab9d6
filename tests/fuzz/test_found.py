"""What fuzzing found and is too long for the corpus; and that the fuzzer finds what is planted: faults, hangs, floods."""

import logging
from pathlib import Path

import pytest
from hyperframe.frame import ContinuationFrame, HeadersFrame

from mortalgpu import configfile
from mortalgpu.errors import ConfigError, KubeletError
from mortalgpu.rpc.wire import Wire, WireError
from tests.fuzz import guided, target
from tests.fuzz.frames import PREFACE, SETTINGS
from tests.fuzz.mutation import inputs
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Target, TooMuchMemory, TooSlow, no_fault_logged, only, probe
from tests.fuzz.targets import kubernetes, neighbours, rpc

pytestmark = pytest.mark.fuzz


# Found.


def _take_number_without_end(size: bytes) -> None:
    wire = Wire(client_side=False, max_message_bytes=65536)
    wire.initiate_connection()
    wire.receive(PREFACE + SETTINGS)
    block = b"\x7f" + b"\xff" * int(size)
    parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
    frames: list[HeadersFrame | ContinuationFrame] = [HeadersFrame(1), *(ContinuationFrame(1) for _ in parts[1:])]
    frames[-1].flags.add("END_HEADERS")
    for each, part in zip(frames, parts, strict=True):
        each.data = part
    with only(WireError):
        wire.receive(b"".join(each.serialize() for each in frames))
        raise AssertionError("taken for a header block")


def test_a_number_without_end_in_a_header_block_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MOST_CPU_SECONDS", 0.1)
    probe(Target("header-block", _take_number_without_end, ()), b"65000")


@pytest.mark.parametrize(
    "text",
    [
        "graceSeconds: 1" + ":1" * 200_000,
        "graceSeconds: 0x" + "f" * 100_000,
        "graceSeconds: 1." + "1" * 100_000,
        "graceSeconds: " + "[" * 100_000,
        "graceSeconds: &a [" + "*a," * 5_000 + "]",
        "a: &a {k: v}\n<<: [" + "*a," * 20_000 + "]",
    ],
    ids=["base 60", "base 16", "fraction", "nested", "aliases", "merges"],
)
def test_a_long_configuration_is_refused_in_a_time_that_grows_with_its_length(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "MOST_CPU_SECONDS", 2.0)
    path = tmp_path / "c.yaml"
    path.write_text(text)

    def load(_data: bytes) -> None:
        with only(ConfigError):
            configfile.load(str(path), {})
            raise AssertionError("taken for a configuration")

    probe(Target("long-configuration", load, ()), b"")


# Good inputs get to where the target looks: else it would be looking at nothing.


def test_good_answers_of_neighbours_are_read() -> None:
    resources, runtime = TARGETS["pod-resources"].seeds[0], TARGETS["container-runtime"].seeds[0]
    held = [found.meta_devices for found in neighbours.assignments(resources)]
    assert {neighbours.RESOURCE: ("GPU-0::0", "GPU-0::1")} in held
    assert [len(pod.containers) for pod in neighbours.pods(runtime).values()] == [1]
    neighbours.register(b"\0")
    with pytest.raises(KubeletError):
        neighbours.register(b"\3")


def test_good_answers_of_a_server_are_received() -> None:
    assert [len(rpc.answers(seed)) for seed in TARGETS["grpc-client"].seeds] == [4, 0, 0, 0, 0]


def test_good_answers_of_an_api_server_are_read() -> None:
    whole, chunked, *_ = TARGETS["api-http"].seeds
    assert kubernetes.asked(whole) == (1, 0)
    assert kubernetes.asked(chunked) == (None, 5)


# Planted.


def _has_a_fault(data: bytes) -> None:
    with only(ValueError):
        if data.count(b"{") > 3 and data.endswith(b'"'):
            raise KeyError("planted")
        raise ValueError("refused")


def test_a_planted_fault_is_found() -> None:
    planted = Target("planted", _has_a_fault, (b'{"a": {"b": 1}}',))

    def search() -> None:
        for data in inputs(planted.seeds, (), 20_000, "planted"):
            probe(planted, data)

    with pytest.raises(KeyError, match="planted"):
        search()


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "\x9b", "x" * 5000])
def test_an_error_whose_text_is_not_fit_for_a_log_is_found(text: str) -> None:
    def check(_data: bytes) -> None:
        with only(ValueError):
            raise ValueError(text)

    with pytest.raises(AssertionError):
        probe(Target("planted", check, ()), b"")


def test_a_planted_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MOST_CPU_SECONDS", 0.5)

    def check(_data: bytes) -> None:
        while True:
            pass

    with pytest.raises(TooSlow):
        probe(Target("planted", check, ()), b"")


def test_a_planted_flood_of_memory_is_found() -> None:
    def check(_data: bytes) -> None:
        bytearray(200 * 1024 * 1024)

    with pytest.raises(TooMuchMemory):
        probe(Target("planted", check, ()), b"")


def test_a_fault_that_a_wall_has_logged_is_found() -> None:
    fault = ZeroDivisionError("planted")
    with pytest.raises(ZeroDivisionError, match="planted"), no_fault_logged():
        logging.getLogger("mortalgpu.rpc.server").error("connection failed", exc_info=fault)


def test_the_same_seed_makes_the_same_inputs() -> None:
    seeds, words = (b"abc", b'{"a": 12}'), (b"xyz",)
    assert list(inputs(seeds, words, 300, "s")) == list(inputs(seeds, words, 300, "s"))
    assert list(inputs(seeds, words, 300, "s")) != list(inputs(seeds, words, 300, "t"))


def test_a_search_counts_its_inputs_and_finds_nothing_where_nothing_is() -> None:
    result = guided.search(TARGETS["metrics-accept"], 4.0)
    assert result.found == []
    assert result.inputs > 100
