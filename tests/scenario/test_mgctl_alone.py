"""What mgctl does without a daemon: it starts fast, imports little, completes words."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mortalgpu import __version__
from mortalgpu.mgctl import client
from mortalgpu.mgctl.completion import script
from tests.scenario.mgctl import mgctl

DEAR_MODULES = ("trio", "google", "dataclasses", "typing", "asyncio", "argparse", "json", "re", "h2", "ssl", "inspect")


@pytest.mark.parametrize("words", [["version"], ["help"], ["frob"], ["completion", "bash"], ["get", "-o", "x"]])
def test_what_needs_no_daemon_imports_nothing_dear(words: list[str]) -> None:
    program = f"""
import sys
from mortalgpu.mgctl.main import run
before = set(sys.modules)
run({words!r})
print([name for name in {DEAR_MODULES!r} if name in sys.modules], file=sys.stderr)
"""
    # -S and -I: what an editable installation imports at the start is none of mgctl's.
    root = str(Path(client.__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {root!r})\n{program}"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_reading_processes_imports_no_more_than_it_must() -> None:
    heavy = ("asyncio", "jwt", "msgspec", "yaml", "httpx", "google.protobuf.json_format", "argparse")
    program = f"import sys, mortalgpu.mgctl.get; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_one_line_script_may_start_it() -> None:
    program = "from mortalgpu.mgctl.main import run; import sys; sys.exit(run(['/usr/bin/mgctl', 'version']))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == f"mgctl {__version__}\n"


# Completion.


def complete(line: str) -> list[str]:
    """What bash offers for a line."""
    words = line.split(" ")
    program = f"""
{script("bash")}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_mgctl; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("mgctl ", ["get", "top", "kill", "ping", "version", "completion", "help"]),
        ("mgctl g", ["get"]),
        ("mgctl get ", ["processes", "devices"]),
        ("mgctl -o json get d", ["devices"]),
        ("mgctl get p -o ", ["table", "json", "yaml"]),
        ("mgctl --pr", ["--pretty"]),
        ("mgctl completion ", ["bash", "zsh"]),
        ("mgctl frob ", []),
    ],
)
def test_bash_completes(line: str, offers: list[str]) -> None:
    assert complete(line) == offers


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_zsh_accepts_its_script(tmp_path: Path) -> None:
    (tmp_path / "_mgctl").write_text(script("zsh"))
    subprocess.run(["zsh", "-n", str(tmp_path / "_mgctl")], check=True)


async def test_the_scripts_are_printed(tmp_path: Path) -> None:
    for shell in ("bash", "zsh"):
        code, output, _ = await mgctl("completion", shell)
        assert (code, output) == (0, script(shell))
        assert "@" not in output.replace("COMPREPLY[@]", "").replace("a token, or @file", "")
