"""The packages in the oldest Debian: installed, upgraded, removed, purged; and the unit that they bring."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from mortalgpu import __version__
from tests.frozen import built

pytestmark = [pytest.mark.frozen, pytest.mark.root]

NEWER = "99.0.0"
UNIT = "usr/lib/systemd/system/mortalgpu.service"
SCORE_LIMIT = 5.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh Debian."""
    built.need_root()
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", built.old_debian(), root], check=True)
    return root


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both packages under a later version."""
    built.output_of(f"mortalgpu_{__version__}_amd64.deb")
    output = tmp_path_factory.mktemp("newer")
    script = built.BUILD.parent / "packaging" / "packages" / "build.sh"
    subprocess.run(["sh", script], env={**os.environ, "OUTPUT": str(output), "VERSION": NEWER}, check=True, capture_output=True)
    return output


class Debian:
    """The .deb's side of a root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, package: Path) -> str:
        built.place(self.folder, {"/package.deb": package})
        return self.dpkg("-i", "/package.deb")

    def dpkg(self, *words: str) -> str:
        done = built.Root(self.folder).run("/usr/bin/dpkg", *words, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, seconds=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def version(self) -> str:
        return self.dpkg("-s", "mortalgpu").split("Version: ")[1].split("\n")[0]


class Rpm:
    """The .rpm's side of a root; the database is the root's own, the tool this machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str | Path) -> str:
        # Its database is empty: that Debian has /bin/sh is not known to it.
        changes = ["--nodeps", "--force-debian"] if words[0] != "-q" else []
        done = subprocess.run(
            ["rpm", "--root", self.folder, *words, *changes], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_the_deb_installs_and_its_programs_run(folder: Path) -> None:
    said = Debian(folder).install(built.output_of(f"mortalgpu_{__version__}_amd64.deb"))
    assert "systemctl enable --now mortalgpu" in said
    root = built.Root(folder)
    assert root.run("/usr/bin/mortalgpu", "--version").stdout.startswith(f"mortalgpu {__version__}")
    assert root.run("/usr/bin/mgctl", "version").stdout == f"mgctl {__version__}\n"
    done = root.run("/usr/bin/mortalgpu", "check-config", "/etc/mortalgpu/config.yaml")
    assert done.returncode == 0, done.stderr
    assert not (folder / "etc/systemd/system/multi-user.target.wants/mortalgpu.service").exists(), "nothing starts by itself"


def test_an_upgrade_keeps_the_operators_settings(folder: Path, newer: Path) -> None:
    debian = Debian(folder)
    debian.install(built.output_of(f"mortalgpu_{__version__}_amd64.deb"))
    settings = folder / "etc/mortalgpu/config.yaml"
    settings.write_text("memoryEnforcer: false\n")
    said = debian.install(newer / f"mortalgpu_{NEWER}_amd64.deb")
    assert debian.version() == NEWER
    assert settings.read_text() == "memoryEnforcer: false\n"
    assert "enable --now" not in said, "an upgrade needs no advice for beginners"


def test_removal_leaves_settings_and_state_and_a_purge_takes_them(folder: Path) -> None:
    debian = Debian(folder)
    debian.install(built.output_of(f"mortalgpu_{__version__}_amd64.deb"))
    state = folder / "var/lib/mortalgpu"
    state.mkdir()
    debian.dpkg("-r", "mortalgpu")
    assert not (folder / "usr/bin/mortalgpu").exists()
    assert not (folder / UNIT).exists()
    assert (folder / "etc/mortalgpu/config.yaml").exists()
    assert state.exists(), "containers may still have mgctl mounted from there"
    debian.dpkg("-P", "mortalgpu")
    assert not state.exists()
    assert not (folder / "etc/mortalgpu").exists()
    assert not list((folder / "usr").rglob("*mortalgpu*"))


def test_the_rpm_installs_upgrades_and_goes(folder: Path, newer: Path) -> None:
    rpm = Rpm(folder)
    said = rpm("-i", built.output_of(f"mortalgpu-{__version__}-1.x86_64.rpm"))
    assert "systemctl enable --now mortalgpu" in said
    assert built.Root(folder).run("/usr/bin/mgctl", "version").stdout == f"mgctl {__version__}\n"
    settings = folder / "etc/mortalgpu/config.yaml"
    settings.write_text("memoryEnforcer: false\n")
    rpm("-U", newer / f"mortalgpu-{NEWER}-1.x86_64.rpm")
    assert rpm("-q", "mortalgpu").startswith(f"mortalgpu-{NEWER}-1")
    assert settings.read_text() == "memoryEnforcer: false\n"
    rpm("-e", "mortalgpu")
    assert not (folder / "usr/bin/mortalgpu").exists()
    assert not (folder / "usr/lib/mortalgpu").exists()
    assert (folder / "etc/mortalgpu/config.yaml.rpmsave").read_text() == "memoryEnforcer: false\n"


def test_a_damaged_package_changes_nothing(folder: Path, tmp_path: Path) -> None:
    whole = built.output_of(f"mortalgpu_{__version__}_amd64.deb").read_bytes()
    half = tmp_path / "half.deb"
    half.write_bytes(whole[: len(whole) // 2])
    built.place(folder, {"/package.deb": half})
    done = built.Root(folder).run("/usr/bin/dpkg", "-i", "/package.deb", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    assert done.returncode != 0
    assert not (folder / "usr/bin/mortalgpu").exists()


def test_what_is_secret_or_shared_has_the_right_modes(folder: Path) -> None:
    Debian(folder).install(built.output_of(f"mortalgpu_{__version__}_amd64.deb"))
    modes = {name: oct((folder / name).stat().st_mode & 0o777) for name in ("etc/mortalgpu/mortalgpu.env", "usr/bin/mortalgpu")}
    assert modes == {"etc/mortalgpu/mortalgpu.env": "0o600", "usr/bin/mortalgpu": "0o755"}
    assert {path.stat().st_uid for path in (folder / "usr/lib/mortalgpu").rglob("*")} == {0}


def test_systemd_finds_no_fault_in_the_unit(folder: Path) -> None:
    Debian(folder).install(built.output_of(f"mortalgpu_{__version__}_amd64.deb"))
    done = analyze("verify", "--man=no", f"--root={folder}", "mortalgpu.service")
    ours = [line for line in done.stderr.splitlines() if "mortalgpu" in line]
    assert ours == []


def test_the_unit_is_locked_down() -> None:
    unit = built.BUILD.parent / "systemd" / "mortalgpu.service"
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for mortalgpu.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    print(f"\nsystemd-analyze security: {found[1]}")
    assert float(found[1]) <= SCORE_LIMIT


def analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        pytest.skip("no systemd-analyze here; install the Debian package systemd")
