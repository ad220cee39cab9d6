"""The binary where there is no Python, no C library, another one, or an old one: each root is all that its commands see."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mortalgpu.simulation.driver import worked_example
from tests.frozen import built
from tests.standin.nvml import StateFile, state_of
from tests.standin.nvml import build as build_driver

pytestmark = [pytest.mark.frozen, pytest.mark.root]

MUSL = Path("/lib/ld-musl-x86_64.so.1")
CONFIG = "deviceSharing: [{resourceName: example.com/gpu, metagpusPerGpu: 10}]\n"
LIBRARY = "/driver/libnvidia-ml.so.1"


@pytest.fixture(params=["empty", "musl", "oldest Debian"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root with the binary and the stand-in for the driver in it."""
    built.need_root()
    root = tmp_path / "root"
    if request.param == "musl":
        make_musl_root(root)
    elif request.param == "oldest Debian":
        subprocess.run(["cp", "-a", built.old_debian(), root], check=True)
    built.make_folders(root, "tmp", "etc")
    built.place(root, {"/mortalgpu": built.binary(), LIBRARY: build_driver()})
    StateFile(root / "state", state_of(worked_example(1)))
    (root / "config.yaml").write_text(CONFIG)
    return root


def make_musl_root(root: Path) -> None:
    """A root with musl's C library and a shell, as small distributions have; no glibc."""
    busybox = shutil.which("busybox")
    if not MUSL.exists() or busybox is None:
        pytest.skip("no musl here; install the Debian packages musl and busybox-static")
    built.place(root, {str(MUSL): MUSL, "/bin/busybox": Path(busybox)})
    (root / "bin" / "sh").symlink_to("busybox")


def discover(folder: Path) -> "subprocess.CompletedProcess[str]":
    words = ["/mortalgpu", "discover", "--driver-library", LIBRARY, "--config", "/config.yaml"]
    return built.Root(folder).run(*words, env={"MORTALGPU_NVML_STATE": "/state"})


def test_it_starts_there(folder: Path) -> None:
    done = built.Root(folder).run("/mortalgpu", "--version")
    assert done.stdout.startswith("mortalgpu "), done.stderr


def test_it_loads_the_drivers_library_there(folder: Path) -> None:
    done = discover(folder)
    assert done.returncode == 0, done.stderr
    assert "example.com/gpu: 50 meta-devices" in done.stdout


def test_it_gives_the_drivers_library_its_own_c_library(folder: Path) -> None:
    """As NVIDIA's is linked: it names parts of the C library that glibc has since merged, and an older host still has apart."""
    for part in ("libdl.so.2", "libpthread.so.0", "libm.so.6", "librt.so.1"):
        subprocess.run(["patchelf", "--add-needed", part, folder / LIBRARY.lstrip("/")], check=True)
    done = discover(folder)
    assert done.returncode == 0, done.stderr
    assert "example.com/gpu: 50 meta-devices" in done.stdout


def test_without_a_driver_it_says_where_it_looked(folder: Path) -> None:
    done = built.Root(folder).run("/mortalgpu", "discover", "--config", "/config.yaml")
    assert done.returncode == 69
    assert "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1" in done.stderr


def test_a_library_that_needs_more_than_is_there_is_refused_with_its_name(folder: Path) -> None:
    subprocess.run(["patchelf", "--add-needed", "libmissing.so.9", folder / LIBRARY.lstrip("/")], check=True)
    done = discover(folder)
    assert done.returncode == 69
    assert "libmissing.so.9" in done.stderr


def test_the_demo_runs_there(folder: Path) -> None:
    done = built.Root(folder).run("/mortalgpu", "demo", "--plain", "--for", "2")
    assert done.returncode == 0, done.stderr
    assert "allocated" in done.stdout
