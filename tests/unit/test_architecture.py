"""What the house promises of its own source: one list of log fields, short files, no mocks, keys and documents in step."""

import ast
import logging
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from mortalgpu import logs
from mortalgpu.config import Config

ROOT = Path(__file__).parents[2]
OURS = sorted(path for path in (ROOT / "mortalgpu").rglob("*.py") if "pb" not in path.parts)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
LONGEST_FILE = 400
DATA = {
    ".json": "figures, schemas and dashboards, which programs write",
    ".sum": "checksums, which Go writes",
    "requirements.txt": "versions and hashes, which pip writes",
    "LICENSE": "not ours to shorten",
    "chart/static/": "manifests that packaging/chart.py renders from the chart",
    "mortalgpu/rpc/pb/": "made from proto/ by packaging/proto.sh",
    "proto/": "the interfaces of others, as they publish them",
    "tests/fixtures/": "texts recorded on real machines",
    "tests/fuzz/corpus": "inputs that the fuzzing campaign has found",
    "tests/golden/": "pages that tests compare with",
}
"""What may be long, by the beginning or end of its path, and why: a program or somebody else has written it."""


def name_of(path: Path) -> str:
    """Return a path as a test's name."""
    return str(path.relative_to(ROOT))


def log_calls(path: Path) -> Iterator[ast.Call]:
    """Yield the calls of a module's logger."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "logger"), attr=method)) if method in LOG_METHODS:
                yield node


def field_names(call: ast.Call) -> Iterator[str]:
    """Yield the names in a log call's `extra`, as far as they are written there."""
    for keyword in call.keywords:
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            yield from (str(key.value) for key in keyword.value.keys if isinstance(key, ast.Constant))


def test_every_log_field_is_on_the_closed_list() -> None:
    used = [(name_of(path), call.lineno, name) for path in OURS for call in log_calls(path) for name in field_names(call)]
    assert len(used) > 50
    assert [entry for entry in used if entry[2] not in logs.FIELDS] == []


def test_every_field_of_the_list_is_used_somewhere() -> None:
    """Fields may also be gathered before the call: their names are looked for as texts."""
    texts = {
        node.value
        for path in OURS
        if path.name != "logs.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert logs.FIELDS - texts == set()


def test_no_log_field_hides_one_of_the_record() -> None:
    assert logs.FIELDS & set(logging.makeLogRecord({}).__dict__) == set()


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_threads_are_wanted_in_one_way(path: Path) -> None:
    """One that cannot be started is no bug: `mortalgpu/threads.py` waits for it. trio.Path works in threads of its own."""
    used = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    allowed = {"trio.to_thread"} if path.name == "threads.py" else set()
    assert used & {"trio.to_thread", "trio.Path", "anyio.to_thread"} <= allowed


def test_log_events_are_fixed_phrases() -> None:
    loose = [
        (name_of(path), call.lineno)
        for path in OURS
        for call in log_calls(path)
        if call.args and isinstance(call.args[0], (ast.JoinedStr, ast.BinOp))
    ]
    assert loose == []


def tracked() -> list[Path]:
    """Return the files of the project, as git knows them; all that are there where no git is."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False, text=True)
    names = listed.stdout.split("\0") if listed.returncode == 0 else (name_of(path) for path in [*OURS, *TESTS])
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_source_file_is_too_long_to_read() -> None:
    data = tuple(DATA)
    source = [path for path in tracked() if not name_of(path).startswith(data) and not name_of(path).endswith(data)]
    assert len(source) > 300
    assert {name_of(path): length for path in source if (length := path.read_bytes().count(b"\n")) > LONGEST_FILE} == {}


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_every_module_says_what_lives_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())) or not path.read_text().strip()


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_test_mocks_anything() -> None:
    assert [name_of(path) for path in TESTS if "unittest.mock" in imported(path) or "mock" in imported(path)] == []


def test_the_program_never_imports_its_tests() -> None:
    assert [name_of(path) for path in OURS if any(name.partition(".")[0] == "tests" for name in imported(path))] == []


# The import contracts.


def contract(name: str) -> dict[str, Any]:
    """Return an import contract of pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(found for found in contracts if found["name"] == name)


def test_services_are_kept_from_every_adapter() -> None:
    ports = [ROOT / "mortalgpu" / name for name in ("driver", "host", "kubelet", "cluster")]
    adapters = {path for port in ports for path in port.glob("*.py") if path.stem not in ("__init__", "base")}
    named = {name_of(path).removesuffix(".py").replace("/", ".") for path in adapters}
    assert set(contract("Services see ports, never adapters")["forbidden_modules"]) == named


def test_the_architectures_floors_are_those_of_the_contract() -> None:
    """The contract itself is exhaustive: a new package or module must be given its floor."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    floors = re.findall(r"^    __main__ .*(?:\n    .*)*$", text, re.MULTILINE)[0].splitlines()
    shown = [set(re.split(r"  +", line.strip())[0].split(" | ")) for line in floors]
    assert shown == [{name.strip() for name in layer.split("|")} for layer in contract("Floors: imports go down")["layers"]]


# README.


def keys_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key's path and its default as README writes it; an entry of a list of sections is `name[].key`."""
    for info in msgspec.structs.fields(kind):
        path = f"{prefix}{info.encode_name}"
        inner = get_args(info.type)[0] if get_origin(info.type) is tuple else info.type
        if inner is info.type and is_section(inner):
            yield from keys_of(inner, f"{path}.")
        elif is_section(inner):
            yield f"{path}[]", as_written(info)
            yield from keys_of(inner, f"{path}[].")
        else:
            yield path, as_written(info)


def is_section(kind: Any) -> bool:
    """Say whether a type is a section of keys."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def as_written(info: msgspec.structs.FieldInfo) -> str:
    """Return a default as README writes it."""
    default = info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default
    if default is msgspec.NODEFAULT:
        return "required"
    if isinstance(default, tuple) and default:
        return f"one entry: `{default[0].resource_name}`, {default[0].metagpus_per_gpu} shares"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{default}`" if isinstance(default, str) and default else f"`{msgspec.json.encode(default).decode()}`"


def readme_rows() -> list[tuple[str, str]]:
    """Return each key of README's table and its default, in their order."""
    return re.findall(r"^\| `([^`|]+)` \| ([^|]*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_readme_has_a_row_for_every_key_with_the_default_in_force() -> None:
    assert len(readme_rows()) == len(dict(readme_rows()))
    assert dict(readme_rows()) == dict(keys_of(Config))
