"""The words of a command line: what they mean, and what is wrong with them."""

import pytest

from mortalgpu.mgctl.arguments import UsageError, parse

ENVIRONMENT = {"MG_CTL_ADDR": "unix:///e", "MG_CTL_TOKEN": "te", "MG_CTL_OUTPUT": "yaml", "MG_CTL_CA_FILE": "/ca"}


@pytest.mark.parametrize("words", ["get processes", "get process", "get p", "-w get p", "get -w p", "get p --watch -n 3"])
def test_processes_have_several_names(words: str) -> None:
    options = parse(words.split(), {})
    assert (options.command, options.kind, options.output) == ("get", "processes", "table")
    assert options.watch == ("-w" in words)


@pytest.mark.parametrize("words", ["get devices", "get device", "get d"])
def test_devices_have_several_names(words: str) -> None:
    assert parse(words.split(), {}).kind == "devices"


@pytest.mark.parametrize("words", ["-s a:1 ping", "ping -s=a:1", "ping -sa:1", "ping --addr a:1", "--addr=a:1 ping"])
def test_a_flag_is_given_in_every_way(words: str) -> None:
    assert parse(words.split(), ENVIRONMENT).addr == "a:1"


def test_the_environment_fills_in_what_the_words_leave_out() -> None:
    options = parse(["ping"], ENVIRONMENT)
    assert (options.addr, options.token, options.output, options.ca_file) == ("unix:///e", "te", "yaml", "/ca")
    options = parse(["ping", "-s", "a:1", "-t", "x", "-o", "json", "--ca-file", "/b"], ENVIRONMENT)
    assert (options.addr, options.token, options.output, options.ca_file) == ("a:1", "x", "json", "/b")


def test_a_token_may_begin_with_dashes_and_hold_equal_signs() -> None:
    assert parse(["ping", "--token=--x=="], {}).token == "--x=="
    assert parse(["ping", "-t", "a=b"], {}).token == "a=b"


@pytest.mark.parametrize(
    ("words", "command"), [("--version", "version"), ("version", "version"), ("-h", "help"), ("get p -h", "help")]
)
def test_help_and_version_come_first(words: str, command: str) -> None:
    assert parse(words.split(), {}).command == command


def test_several_processes_may_be_killed() -> None:
    assert parse(["kill", "7", "--", "8"], {}).pids == [7, 8]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "a command is missing"),
        ("frobnicate", "no command 'frobnicate'"),
        ("get", "say what to get"),
        ("get pods", "say what to get"),
        ("get p d", "say what to get"),
        ("kill", "say which process"),
        ("kill x", "a PID is a number"),
        ("kill 0", "a PID is a number"),
        ("kill 99999999999", "a PID is a number"),
        ("kill ٣", "a PID is a number"),
        ("kill -1", "no flag '-1'"),
        ("ping -o xml", "none of table, json, yaml"),
        ("ping --token", "--token needs a value"),
        ("ping --pretty=yes", "takes no value"),
        ("ping --frob", "no flag '--frob'"),
        ("ping pong", "takes no further words"),
        ("get d -w", "--watch goes with"),
        ("top -w", "--watch goes with"),
        ("top -n 0", "--count is a number"),
        ("completion", "for which shell"),
        ("completion fish", "for which shell"),
        ("help frob", "no command 'frob'"),
    ],
)
def test_wrong_words_are_named(words: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(words.split(), {})
    assert says in str(raised.value)


def test_a_bad_output_of_the_environment_is_named() -> None:
    with pytest.raises(UsageError, match="output 'x' is none of"):
        parse(["ping"], {"MG_CTL_OUTPUT": "x"})


def test_wrong_words_are_shown_harmlessly() -> None:
    with pytest.raises(UsageError) as raised:
        parse(["\x1b[2J"], {})
    assert str(raised.value).isprintable()
