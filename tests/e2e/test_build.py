"""The parts of the build that need no Go: go.mod text, cache keys, images, and what is said when something lacks."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.e2e import build
from tests.e2e.gomod import Module, go_mod_text
from tests.e2e.images import BOX_FOLDERS, Entry, write_image

UPSTREAM = "module k8s.io/kubernetes\n\ngo 1.26.0\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n"


def test_every_staging_module_is_replaced_by_its_release() -> None:
    text = go_mod_text(UPSTREAM, Module("go.mod", "v1.36.3", with_kubelet=True))
    assert "\tk8s.io/api => k8s.io/api v0.36.3\n" in text
    assert "tool k8s.io/kubernetes/cmd/kubelet" in text
    assert "require k8s.io/kubernetes v1.36.3" in text


def test_a_go_mod_without_a_go_line_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"k8s.io/kubernetes v1.0.0 has no go line"):
        go_mod_text("module k8s.io/kubernetes\n", Module("go.mod", "v1.0.0", with_kubelet=False))


def test_what_is_not_built_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(build.Missing, match=r"not built: kubelet, pause; run `python -m tests.e2e.build`"):
        build.locate(build.KUBELET, build.PAUSE)


def test_a_user_without_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(build.Missing, match="need root"):
        build.locate_node()


def test_changed_sources_get_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("go.mod", "go.sum", "pause/main.go"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(build, "GO_DIR", tmp_path)
    before = build.source_key(build.PAUSE)
    assert build.source_key(build.PAUSE) == before
    (tmp_path / "pause/main.go").write_text("two")
    assert build.source_key(build.PAUSE) != before


def test_the_same_tree_makes_the_same_image(tmp_path: Path) -> None:
    tree = {"bin/a": Entry(b"program"), "bin/b": Entry(target="a"), "tmp": Entry(mode=0o1777)}
    write_image(tmp_path / "one.tar", "local.test/one:1", tree, {"Cmd": ["/bin/a"]})
    write_image(tmp_path / "two.tar", "local.test/one:1", dict(reversed(tree.items())), {"Cmd": ["/bin/a"]})
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_an_image_holds_its_tree_with_links_and_modes(tmp_path: Path) -> None:
    tree = {"bin/a": Entry(b"program"), "bin/b": Entry(target="a"), "tmp": Entry(mode=0o1777)}
    write_image(tmp_path / "one.tar", "local.test/one:1", tree, {})
    with tarfile.open(tmp_path / "one.tar") as archive:
        (manifest,) = json.loads(archive.extractfile("manifest.json").read())  # type: ignore[union-attr]
        layer = io.BytesIO(archive.extractfile(manifest["Layers"][0]).read())  # type: ignore[union-attr]
    assert manifest["RepoTags"] == ["local.test/one:1"]
    with tarfile.open(fileobj=layer) as files:
        members = {member.name: (member.mode, member.linkname) for member in files}
    assert members == {"bin/a": (0o755, ""), "bin/b": (0o755, "a"), "tmp": (0o1777, "")}
    assert "tmp" not in BOX_FOLDERS
