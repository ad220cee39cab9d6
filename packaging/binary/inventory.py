"""Says what is in a frozen tree: a CycloneDX document, and the licence texts. Knows pip's and Debian's records, nothing of us.

A Python distribution counts when any of its modules or files is in the tree; a shared library through the Debian package that
owns the file of its name. Python itself and PyInstaller's bootloader are always in.
"""

import json
import subprocess
import uuid
from importlib import metadata
from pathlib import Path

FREEZER_ONLY = {"altgraph", "packaging", "pip", "setuptools", "pyinstaller-hooks-contrib"}
STATIC = ("libzstd-dev", "libc6-dev")
"""Linked into the loader."""


def of_tree(tree: Path, venv: Path, release: tuple[str, str]) -> tuple[str, dict[str, str]]:
    """Return the CycloneDX document's text, and licence texts by file name."""
    components, licences = [], {}
    for found in distributions(venv):
        components.append(python_component(found))
        for name, text in python_licences(found).items():
            licences[f"{found.metadata['Name'].lower()}-{name}"] = text
    for package, version in debian_packages(tree):
        components.append(debian_component(package, version))
        notice = Path("/usr/share/doc") / package / "copyright"
        licences[f"{package}-copyright"] = notice.read_text(errors="replace")
    return document(components, release), licences


def distributions(venv: Path) -> list[metadata.Distribution]:
    """Return what is installed there for freezing, by name."""
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    found = {dist.metadata["Name"].lower(): dist for dist in metadata.distributions(path=[str(site)])}
    return [dist for name, dist in sorted(found.items()) if name not in FREEZER_ONLY]


def python_component(dist: metadata.Distribution) -> dict[str, object]:
    name, version = dist.metadata["Name"].lower().replace("_", "-"), dist.version
    component = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
    said = dist.metadata.get("License-Expression") or dist.metadata.get("License") or ""
    if said and "\n" not in said:
        component["licenses"] = [{"license": {"name": said}}]
    return {"bom-ref": component["purl"], **component}


def python_licences(dist: metadata.Distribution) -> dict[str, str]:
    """Return the licence files that a distribution brought along."""
    words = ("license", "licence", "copying", "notice")
    files = [file for file in dist.files or [] if ".dist-info" in str(file) and file.name.lower().startswith(words)]
    return {file.name: Path(dist.locate_file(file)).read_text(errors="replace") for file in files}


def debian_packages(tree: Path) -> list[tuple[str, str]]:
    """Return the Debian packages, with versions, from which the tree's shared libraries and Python came."""
    names = {
        path.name for path in tree.rglob("*") if ".so" in path.name and path.is_file() and "site-packages" not in path.parts
    }
    owners = {owner for name in sorted(names) if (owner := owner_of(name))} | {"libpython3.11-stdlib", *STATIC}
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *sorted(owners)]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({(line.split()[0], line.split()[1]) for line in lines})


def owner_of(library: str) -> str:
    """Return the package that owns the system's library of this name; empty when none does."""
    for folder in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib/python3.11/lib-dynload"):
        done = subprocess.run(["dpkg-query", "-S", f"{folder}/{library}"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.split(":")[0]
    return ""


def debian_component(package: str, version: str) -> dict[str, object]:
    purl = f"pkg:deb/debian/{package}@{version}?arch=amd64"
    return {"bom-ref": purl, "type": "library", "name": package, "version": version, "purl": purl}


def document(components: list[dict[str, object]], release: tuple[str, str]) -> str:
    """Return a CycloneDX 1.5 document; its serial number is made from its content, so that it does not change by itself."""
    version, commit = release
    subject = {"bom-ref": "mortalgpu", "type": "application", "name": "mortalgpu", "version": version}
    if commit:
        subject["properties"] = [{"name": "commit", "value": commit}]
    body = {"components": components, "dependencies": [{"ref": "mortalgpu", "dependsOn": [c["bom-ref"] for c in components]}]}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([subject, body], sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return json.dumps({**head, "metadata": {"component": subject}, **body}, indent=1) + "\n"
