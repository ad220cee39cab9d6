"""The forms of the program that are measured side by side: this checkout's, and the frozen one where it was built."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build"
UNFROZEN, FROZEN, BEFORE = "unfrozen", "frozen", "before"
"""`before` is another binary, measured beside this one to show what a change has done."""
MGCTL = "from mortalgpu.__main__ import mgctl_main; mgctl_main()"


@dataclass(frozen=True, slots=True)
class Form:
    """How each face is started. `mgctl` is empty where this form has none that runs outside of a container."""

    name: str
    mortalgpu: tuple[str, ...]
    mgctl: tuple[str, ...]
    folder: Path
    """For compiled modules, and for what is unpacked."""

    @property
    def environment(self) -> dict[str, str]:
        """What it finds set: nothing of ours, nothing that would spare Python its compiled modules."""
        rest = {name: text for name, text in os.environ.items() if not name.startswith(("MORTALGPU_", "MG_CTL", "PYTHON"))}
        return {**rest, "PYTHONPYCACHEPREFIX": str(self.folder / "compiled"), "TMPDIR": str(self.folder)}


def unfrozen(folder: Path) -> Form:
    """Return the form of this checkout, on the Python that runs the bench; each module is compiled at its first import."""
    python = sys.executable
    return Form(UNFROZEN, (python, "-m", "mortalgpu"), (python, "-c", MGCTL), folder)


def frozen(folder: Path) -> Form | None:
    """Return the static binary that MORTALGPU_BIN names, or the one in build/; None where there is none."""
    binary = Path(os.environ.get("MORTALGPU_BIN") or BUILD / "mortalgpu")
    return built(FROZEN, binary, folder) if binary.is_file() else None


def built(name: str, binary: Path, folder: Path) -> Form:
    """Return the form of a static binary. `folder` takes a copy of the mgctl directory beside it, made to run on the host."""
    return Form(name, (str(binary.resolve()),), _mgctl_on_the_host(binary.with_name("mgctl"), folder / f"mgctl-{name}"), folder)


def _mgctl_on_the_host(source: Path, folder: Path) -> tuple[str, ...]:
    """It is built for the place where containers have it mounted."""
    if not (source / "mgctl").is_file() or shutil.which("patchelf") is None:
        return ()
    copy = shutil.copytree(source, folder, symlinks=True)
    subprocess.run(["patchelf", "--set-interpreter", copy / "ld-linux-x86-64.so.2", copy / "mgctl"], check=True)
    return (str(copy / "mgctl"),)
