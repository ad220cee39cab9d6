"""Write the go.mod files of tests/e2e/go: one requirement, k8s.io/kubernetes, and a replace line for each of its staging
modules.

For whoever moves to another Kubernetes version: `python -m tests.e2e.gomod`, then commit the four files. The test run never
calls this; it builds from the committed files.
"""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

GO_DIR = Path(__file__).parent / "go"


@dataclass(frozen=True, slots=True)
class Module:
    """One go.mod file: its name, the Kubernetes version, and whether kubelet itself is built from it."""

    file: str
    version: str
    with_kubelet: bool


MODULES = (
    Module("go.mod", "v1.36.3", with_kubelet=True),
    Module("old.mod", "v1.30.14", with_kubelet=False),
)


def go_mod_text(upstream: str, module: Module) -> str:
    """Turn Kubernetes' own go.mod into ours: same Go version, and each staging module at the version released with it."""
    language = re.search(r"^go (\S+)$", upstream, re.MULTILINE)
    if language is None:
        raise ValueError(f"the go.mod of k8s.io/kubernetes {module.version} has no go line")
    staging = re.findall(r"^\s*(k8s\.io/\S+) => \./staging/", upstream, re.MULTILINE)
    released = "v0" + module.version.removeprefix("v1")
    replaces = "".join(f"\t{name} => {name} {released}\n" for name in staging)
    tool = "tool k8s.io/kubernetes/cmd/kubelet\n\n" if module.with_kubelet else ""
    require = f"require k8s.io/kubernetes {module.version}\n\n"
    return f"module mortalgpu/e2e\n\ngo {language[1]}\n\n{tool}{require}replace (\n{replaces})\n"


def main() -> None:
    """Rewrite go.mod, go.sum, old.mod and old.sum. Needs Go and the module proxy."""
    environment = {**os.environ, "GOFLAGS": "-mod=mod"}
    for module in MODULES:
        download = subprocess.run(
            ["go", "mod", "download", "-json", f"k8s.io/kubernetes@{module.version}"],
            capture_output=True, text=True, check=True, cwd=GO_DIR.parent,
        )  # fmt: skip
        upstream = Path(json.loads(download.stdout)["GoMod"]).read_text()
        path = GO_DIR / module.file
        path.write_text(go_mod_text(upstream, module))
        path.with_suffix(".sum").unlink(missing_ok=True)
        subprocess.run(["go", "mod", "tidy", "-e", "-modfile", module.file], cwd=GO_DIR, env=environment, check=True)
        print(f"{module.file}: k8s.io/kubernetes {module.version}")


if __name__ == "__main__":
    main()
