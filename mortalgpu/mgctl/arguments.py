"""The words of a command line and the environment, as options. Pure; imports nothing, so that wrong words fail at once.

Flags may stand anywhere; `--flag value`, `--flag=value`, `-f value` and `-fvalue` are the same. What is not on the command
line comes from the environment.
"""

COMMANDS = ("get", "top", "kill", "ping", "version", "completion", "help")
KINDS = {
    "processes": "processes",
    "process": "processes",
    "p": "processes",
    "devices": "devices",
    "device": "devices",
    "d": "devices",
}
OUTPUTS = ("table", "json", "yaml")
SHELLS = ("bash", "zsh")

VALUES = {
    "--addr": "addr", "-s": "addr",
    "--token": "token", "-t": "token",
    "--output": "output", "-o": "output",
    "--ca-file": "ca_file",
    "--pod": "pod",
    "--count": "count", "-n": "count",
}  # fmt: skip
SWITCHES = {
    "--pretty": "pretty",
    "--watch": "watch", "-w": "watch",
    "--help": "help", "-h": "help",
    "--version": "version",
}  # fmt: skip
_FROM_ENVIRONMENT = {
    "addr": "MG_CTL_ADDR",
    "token": "MG_CTL_TOKEN",
    "output": "MG_CTL_OUTPUT",
    "ca_file": "MG_CTL_CA_FILE",
    "pod": "MG_CTL_POD",
}


class UsageError(Exception):
    """The words make no sense; the text says which, and what would."""


class Options:
    """What was asked for. `command` is one of COMMANDS, `words` what follows it."""

    __slots__ = (
        "addr",
        "ca_file",
        "command",
        "count",
        "kind",
        "output",
        "pids",
        "pod",
        "pretty",
        "shell",
        "token",
        "topic",
        "watch",
    )

    def __init__(self, command: str) -> None:
        self.command = command
        self.addr = ""
        """Where the daemon is; empty: wherever it is found."""
        self.token = ""
        self.output = "table"
        self.ca_file = ""
        self.pod = ""
        """The own pod's name, for the shared token; empty: the daemon knows who calls."""
        self.pretty = False
        self.watch = False
        self.count = 0
        """How many snapshots to show before ending; 0: no end."""
        self.kind = ""
        """Of `get`: processes or devices."""
        self.pids: list[int] = []
        self.shell = ""
        self.topic = ""
        """Of `help`: the command to explain."""


def parse(words: list[str], environment: dict[str, str]) -> Options:
    """Return what the words ask for. Raises UsageError."""
    plain, flags = _split(words)
    command = _command(plain, flags)
    options = Options(command)
    _fill_in(options, flags, environment)
    rest = plain[1:] if plain and plain[0] == command else plain
    {"get": _get, "kill": _kill, "completion": _completion, "help": _help}.get(command, _nothing)(options, rest)
    if options.watch and (command, options.kind) != ("get", "processes"):
        raise UsageError("--watch goes with `get processes` only; `top` is live by itself")
    return options


def _split(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Part flags and their values from the other words."""
    plain: list[str] = []
    flags: dict[str, str] = {}
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            plain += list(waiting)
        elif word.startswith("-") and len(word) > 1:
            _take_flag(word, waiting, flags)
        else:
            plain.append(word)
    return plain, flags


def _take_flag(word, waiting, flags: dict[str, str]) -> None:  # type: ignore[no-untyped-def]  # collections.abc costs time
    name, equals, value = word.partition("=")
    if not word.startswith("--") and len(name) > 2:
        name, equals, value = word[:2], "=", word[2:].removeprefix("=")
    if name in SWITCHES:
        if equals:
            raise UsageError(f"{name} takes no value")
        flags[SWITCHES[name]] = "yes"
    elif name in VALUES:
        found = value if equals else next(waiting, None)
        if found is None:
            raise UsageError(f"{name} needs a value")
        flags[VALUES[name]] = found
    else:
        raise UsageError(f"there is no flag {name!a}")


def _command(plain: list[str], flags: dict[str, str]) -> str:
    if "version" in flags:
        return "version"
    if "help" in flags:
        return "help"
    if not plain:
        raise UsageError("a command is missing")
    if plain[0] not in COMMANDS:
        raise UsageError(f"there is no command {plain[0]!a}; the commands are {', '.join(COMMANDS)}")
    return plain[0]


def _fill_in(options: Options, flags: dict[str, str], environment: dict[str, str]) -> None:
    for name, variable in _FROM_ENVIRONMENT.items():
        setattr(options, name, flags.get(name) or environment.get(variable, "") or getattr(options, name))
    for name in ("pod", "token"):
        if not _is_text(getattr(options, name)):
            raise UsageError(f"the {name} given is not UTF-8 text")
    options.pretty = "pretty" in flags
    options.watch = "watch" in flags
    if options.output not in OUTPUTS:
        raise UsageError(f"output {options.output!a} is none of {', '.join(OUTPUTS)}")
    if "count" in flags:
        options.count = _number(flags["count"], "--count")


def _is_text(given: str) -> bool:
    """Whether a word can be sent; bytes that are no text come in as half characters. A token's file may have any name."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return given.startswith("@")
    return True


def _get(options: Options, rest: list[str]) -> None:
    if len(rest) != 1 or rest[0] not in KINDS:
        raise UsageError("say what to get: `mgctl get processes` (or p) or `mgctl get devices` (or d)")
    options.kind = KINDS[rest[0]]


def _kill(options: Options, rest: list[str]) -> None:
    if not rest:
        raise UsageError("say which process: `mgctl kill PID`, with the host's number as `mgctl get processes` shows it first")
    options.pids = [_number(word, "a PID") for word in rest]


def _completion(options: Options, rest: list[str]) -> None:
    if len(rest) != 1 or rest[0] not in SHELLS:
        raise UsageError("say for which shell: `mgctl completion bash` or `mgctl completion zsh`")
    options.shell = rest[0]


def _help(options: Options, rest: list[str]) -> None:
    options.topic = rest[0] if rest else ""
    if options.topic and options.topic not in COMMANDS:
        raise UsageError(f"there is no command {options.topic!a}")


def _nothing(options: Options, rest: list[str]) -> None:
    if rest:
        raise UsageError(f"{options.command} takes no further words, and {rest[0]!a} is one")


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < len(text) < 10 or not int(text):
        raise UsageError(f"{what} is a number above 0, and {text!a} is none")
    return int(text)
