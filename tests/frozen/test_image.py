"""The image: what is in it, and that a real container runtime runs it, every face as it may."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mortalgpu import __version__
from mortalgpu.isolation.mgctl_mount import BUILD_DIRECTORY, publish
from mortalgpu.simulation.driver import worked_example
from tests.e2e.build import locate_node
from tests.e2e.daemon import EXAMPLE_COUNTS, TWENTY, example_config
from tests.e2e.node import Node
from tests.e2e.pods import Container, Pod, pod_asking
from tests.e2e.waiting import eventually
from tests.frozen import built
from tests.needs import skipped_where_missing
from tests.standin.nvml import StateFile, state_of
from tests.standin.nvml import build as build_driver

pytestmark = pytest.mark.frozen

NAME = f"docker.io/library/mortalgpu:{__version__}"
SIZE_LIMIT_BYTES = 48_000_000


class Layout:
    """An OCI image layout in a tar file."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isreg()}
            self.files = {name: file.read() for name, file in files.items() if file is not None}
        (self.entry,) = json.loads(self.files["index.json"])["manifests"]
        self.manifest = self.blob(self.entry)
        self.config = self.blob(self.manifest["config"])

    def blob(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw(descriptor))
        return found

    def raw(self, descriptor: dict[str, Any]) -> bytes:
        algorithm, digest = descriptor["digest"].split(":")
        return self.files[f"blobs/{algorithm}/{digest}"]

    def rootfs(self) -> tarfile.TarFile:
        (layer,) = self.manifest["layers"]
        return tarfile.open(fileobj=io.BytesIO(self.raw(layer)))


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(built.output_of("image.tar"))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A real kubelet and containerd; containerd has the image."""
    with skipped_where_missing():
        locate_node()
    image = built.output_of("image.tar").resolve()
    with Node() as node:
        node.containerd.ctr("images", "import", str(image))
        yield node


@pytest.fixture
def as_nobody(layout: Layout, tmp_path: Path) -> built.Root:
    """The image's files as a read-only root with a /tmp, for a user without rights."""
    built.need_root()
    with layout.rootfs() as rootfs:
        rootfs.extractall(tmp_path / "rootfs", filter="fully_trusted")
    return built.Root(built.make_folders(tmp_path / "rootfs"), writable=["/tmp"], read_only=True, uid=65534)


def test_every_blob_is_what_its_name_says(layout: Layout) -> None:
    blobs = {name: content for name, content in layout.files.items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    for name, content in blobs.items():
        assert hashlib.sha256(content).hexdigest() == name.rpartition("/")[2]


def test_it_says_what_it_is(layout: Layout) -> None:
    labels = layout.config["config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert layout.config["config"]["Entrypoint"] == ["/usr/bin/mortalgpu"]
    assert (layout.config["architecture"], layout.config["os"]) == ("amd64", "linux")


def test_it_holds_the_binary_mgctl_and_the_documents_and_no_more(layout: Layout) -> None:
    with layout.rootfs() as rootfs:
        names = {name.strip("./") for name in rootfs.getnames()} - {""}
        members = {member.name.strip("./"): member for member in rootfs.getmembers()}
    outside = {name for name in names if not name.startswith(("usr/lib/mortalgpu/mgctl/", "usr/share/doc/mortalgpu/"))}
    programs = {"usr/bin/mortalgpu", "usr/bin/mgctl"}
    folders = {"usr", "usr/bin", "usr/lib", "usr/lib/mortalgpu", "usr/lib/mortalgpu/mgctl", "usr/share", "usr/share/doc", "tmp"}
    assert outside == programs | folders | {"usr/share/doc/mortalgpu"}
    assert {"usr/share/doc/mortalgpu/mortalgpu.cdx.json", "usr/share/doc/mortalgpu/LICENSE"} <= names
    assert members["usr/bin/mgctl"].linkname == "../lib/mortalgpu/mgctl/mgctl"
    assert {member.uid for member in members.values()} == {0}
    assert members["tmp"].mode & 0o7777 == 0o1777


def test_it_is_small(layout: Layout) -> None:
    assert sum(layer["size"] for layer in layout.manifest["layers"]) <= SIZE_LIMIT_BYTES


def test_the_daemon_finds_mgctl_where_the_image_has_it(layout: Layout, tmp_path: Path) -> None:
    with layout.rootfs() as rootfs:
        rootfs.extractall(tmp_path / "rootfs", filter="fully_trusted")
    published = publish(tmp_path / "rootfs/usr/bin/mgctl", tmp_path / "host", __version__)
    assert published.is_build
    assert BUILD_DIRECTORY == "/usr/lib/mortalgpu/mgctl"
    assert (published.directory / "mgctl").read_text() == f"#!{BUILD_DIRECTORY}/mgctl\n"


@pytest.mark.root
def test_the_faces_that_need_no_root_run_as_nobody_on_a_read_only_root(as_nobody: built.Root) -> None:
    (as_nobody.folder / "config.yaml").write_text("deviceSharing: [{resourceName: example.com/gpu, metagpusPerGpu: 10}]\n")
    assert as_nobody.run("/usr/bin/mortalgpu", "--version").stdout.startswith(f"mortalgpu {__version__}")
    assert as_nobody.run("/usr/bin/mgctl", "version").stdout == f"mgctl {__version__}\n"
    assert as_nobody.run("/usr/bin/mortalgpu", "check-config", "/config.yaml").returncode == 0
    done = as_nobody.run("/usr/bin/mortalgpu", "demo", "--plain", "--for", "2")
    assert "allocated" in done.stdout, done.stderr


@pytest.mark.root
def test_the_daemon_without_rights_says_so_and_ends_with_69(as_nobody: built.Root) -> None:
    (as_nobody.folder / "plugins").mkdir()
    done = as_nobody.run("/usr/bin/mortalgpu", "run", "--kubelet-dir", "/plugins", "--state-dir", "/tmp/state")
    assert done.returncode == 69
    assert "/plugins: no permission" in done.stderr


@pytest.mark.root
def test_containerd_runs_it_and_passes_its_exit_code_on(node: Node) -> None:
    assert node.containerd.ctr("run", "--rm", NAME, "version", "/usr/bin/mortalgpu", "--version").startswith("mortalgpu ")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        node.containerd.ctr("run", "--rm", NAME, "discover", "/usr/bin/mortalgpu", "discover")
    assert caught.value.returncode == 69
    assert "libnvidia-ml.so.1" in caught.value.stderr


@pytest.mark.root
def test_a_read_only_container_without_a_tmp_still_starts(node: Node) -> None:
    """Runtimes give containers a /dev/shm, or a /run, of their own."""
    said = node.containerd.ctr("run", "--rm", "--read-only", NAME, "read-only", "/usr/bin/mortalgpu", "--version")
    assert said.startswith(f"mortalgpu {__version__}")


@pytest.mark.root
def test_as_a_static_pod_it_shares_the_nodes_devices(node: Node) -> None:
    folder = node.folder / "daemon"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(example_config(folder, criSocket=str(node.containerd.socket))))
    StateFile(folder / "nvml.state", state_of(worked_example(1)))
    shutil.copy(build_driver(), folder / "libnvidia-ml.so.1")
    words = ("run", "--config", str(folder / "config.json"), "--driver-library", str(folder / "libnvidia-ml.so.1"))
    container = Container(
        image=NAME,
        command=("/usr/bin/mortalgpu", *words),
        env={"MORTALGPU_NVML_STATE": str(folder / "nvml.state")},
        mounts={str(folder): folder, "/var/lib/kubelet": Path("/var/lib/kubelet")},
        security={"privileged": True},
    )
    node.put(Pod("mortalgpu", (container,)))
    node.wait_running("mortalgpu")
    eventually("the resources", lambda: node.allocatable() == EXAMPLE_COUNTS, seconds=30)
    node.put(pod_asking("asks", main={TWENTY: 2}))
    status = node.wait_running("asks")
    assert node.environment(status.container().id)["METAGPU_MAX_MEM"] == str(2 * 19968 // 200)
    node.remove("asks")
    node.remove("mortalgpu")
