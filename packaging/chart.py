"""Makes what in the chart follows from something else: values.schema.json, the table in README.md, the manifests in static/.

    python packaging/chart.py            # write them all; the manifests need Helm, which tests/chart/build.py builds
    python packaging/chart.py schema readme

The schema comes from the daemon's configuration types and from the defaults in values.yaml; the table from the comments there.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mortalgpu.config import Config  # noqa: E402

CHART = ROOT / "chart"
TABLE_BEGIN, TABLE_END = "<!-- values: made by packaging/chart.py -->", "<!-- end of values -->"

Tree = dict[str, Any]

_COUNT = {"type": "integer", "minimum": 0}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_SECURITY_CONTEXT = (
    *("allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount", "readOnlyRootFilesystem"),
    *("runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxOptions", "seccompProfile"),
)

NARROWER: dict[str, Tree] = {
    "affinity": {"type": "object"},
    "dashboard.labels": _TEXTS,
    "exporter.resources": {"$ref": "#/$defs/Resources"},
    "exporter.serviceMonitor.interval": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"},
    "exporter.serviceMonitor.labels": _TEXTS,
    "extraEnv": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "extraVolumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
    "extraVolumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.repository": {"type": "string", "minLength": 1},
    "imagePullSecrets": {"type": "array", "items": {"type": "object", "required": ["name"], "additionalProperties": False,
                                                    "properties": {"name": {"type": "string"}}}},
    "livenessProbe": {"$ref": "#/$defs/Probe"},
    "networkPolicy.apiFrom": _OBJECTS,
    "networkPolicy.metricsFrom": _OBJECTS,
    "nodeSelector": _TEXTS,
    "podAnnotations": _TEXTS,
    "podLabels": _TEXTS,
    "prometheusRule.labels": _TEXTS,
    "readinessProbe": {"$ref": "#/$defs/Probe"},
    "resources": {"$ref": "#/$defs/Resources"},
    "securityContext": {"type": "object", "additionalProperties": False,
                        "properties": {name: {} for name in _SECURITY_CONTEXT} | {"privileged": {"type": "boolean"}}},
    "service.ports.exporter": _PORT,
    "service.ports.grpc": _PORT,
    "service.ports.mgdpMetrics": _PORT,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "serviceAccount.annotations": _TEXTS,
    "tolerations": _OBJECTS,
    "updateStrategy.rollingUpdate.maxSurge": {"enum": [0]},
    "updateStrategy.rollingUpdate.maxUnavailable": {"type": ["integer", "string"]},
    "updateStrategy.type": {"enum": ["RollingUpdate", "OnDelete"]},
}  # fmt: skip
"""What a default alone does not tell of a key's type."""

DEFINITIONS: Tree = {
    "Probe": {
        "type": "object",
        "additionalProperties": False,
        "properties": dict.fromkeys(
            ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"), _COUNT
        ),
    },
    "Resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"limits": {"type": "object"}, "requests": {"type": "object"}, "claims": {"type": "array"}},
    },
}


def default_values() -> Tree:
    """Return what values.yaml holds."""
    values: Tree = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def schema() -> Tree:
    """Return the JSON schema of the values: unknown keys and wrong types are refused at every level."""
    (config,), definitions = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    values = default_values()
    properties = {key: _schema_of(key, value) for key, value in values.items() if key != "config"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart mortalgpu",
        "type": "object",
        "additionalProperties": False,
        "properties": {"config": config, "global": {"type": "object"}, **properties},
        "$defs": {name: _without_titles(definition) for name, definition in definitions.items()} | DEFINITIONS,
    }


def _schema_of(path: str, default: object) -> Tree:
    if path in NARROWER:
        return NARROWER[path]
    if isinstance(default, dict) and default:
        below = {key: _schema_of(f"{path}.{key}", value) for key, value in default.items()}
        return {"type": "object", "additionalProperties": False, "properties": below}
    names = {bool: "boolean", int: "integer", str: "string"}
    if type(default) not in names:
        raise SystemExit(f"chart/values.yaml: {path}: say its type in NARROWER of packaging/chart.py")
    return {"type": names[type(default)]}


def _without_titles(definition: Tree) -> Tree:
    return {key: value for key, value in definition.items() if key not in ("title", "description", "default")}


@dataclass(frozen=True, slots=True)
class Row:
    """One key of values.yaml: its dotted path, its default as text, and the comment above it."""

    path: str
    default: str
    meaning: str


def rows() -> Iterator[Row]:
    """Yield the keys of values.yaml that have a comment or no keys below them, in their order."""
    text = (CHART / "values.yaml").read_text()
    comments = dict(_comments(text))
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    yield from _rows(node, (), comments)


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield for each line that holds a key the comment above it, by line number from 0."""
    waiting: list[str] = []
    for number, line in enumerate(text.splitlines()):
        stripped = line.strip()
        if stripped.startswith("# "):
            waiting.append(stripped[2:])
            continue
        if waiting and stripped:
            yield number, " ".join(waiting)
        waiting = []


def _rows(node: yaml.Node | None, path: tuple[str, ...], comments: dict[int, str]) -> Iterator[Row]:
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value[:1]:
            yield from _rows(entry, (*path[:-1], f"{path[-1]}[]"), comments)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        below = (*path, key.value)
        has_keys = isinstance(value, (yaml.MappingNode, yaml.SequenceNode)) and bool(value.value)
        meaning = comments.get(key.start_mark.line, "")
        if not has_keys or (meaning and below != ("config",)):
            yield Row(".".join(below), "" if has_keys else _default_text(value), meaning)
        yield from _rows(value, below, comments)


def _default_text(node: yaml.Node) -> str:
    value = yaml.SafeLoader("").construct_object(node, deep=True)
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def readme() -> str:
    """Return the chart's README with its table as values.yaml has it."""
    text = (CHART / "README.md").read_text()
    lines = [f"| `{row.path}` | {row.default} | {row.meaning.replace('|', chr(92) + '|')} |" for row in rows()]
    table = "\n".join([TABLE_BEGIN, "", "| value | default | meaning |", "|---|---|---|", *lines, "", TABLE_END])
    pattern = re.escape(TABLE_BEGIN) + ".*" + re.escape(TABLE_END)
    return re.sub(pattern, lambda _: table, text, flags=re.DOTALL)


STATIC = {
    "mortalgpu.yaml": ["--set", "keysSecret.create=false", "--set", "exporter.serviceMonitor.enabled=false"],
    "monitoring.yaml": [
        *("--show-only", "templates/monitoring.yaml", "--api-versions", "monitoring.coreos.com/v1"),
        *("--set", "prometheusRule.enabled=true", "--set", "dashboard.enabled=true"),
    ],
}
"""Files in static/ and the words by which Helm renders them. No key is in them: each daemon makes its own."""

_STATIC_HEAD = """\
# {name}: the chart's objects with its default values, for clusters without Helm. Made by `just chart`.
"""
_NAMESPACE = """\
---
apiVersion: v1
kind: Namespace
metadata:
  name: mortalgpu
  labels:
    # The daemon is privileged and sees the host's processes; many clusters refuse such pods elsewhere.
    pod-security.kubernetes.io/enforce: privileged
"""
_RELEASE_ONLY = re.compile(r"^ +(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n", re.MULTILINE)


def static(helm: Path, name: str) -> str:
    """Return one file of static/, rendered by Helm. Raises CalledProcessError with Helm's words on stderr."""
    command = [str(helm), "template", "mortalgpu", str(CHART), "--namespace", "mortalgpu", *STATIC[name]]
    rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    own = _RELEASE_ONLY.sub("", re.sub(r"^# Source: .*\n", "", rendered, flags=re.MULTILINE))
    return _STATIC_HEAD.format(name=name) + (_NAMESPACE if name == "mortalgpu.yaml" else "") + own


def write_schema() -> None:
    (CHART / "values.schema.json").write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")


def write_readme() -> None:
    (CHART / "README.md").write_text(readme())


def write_static() -> None:
    from tests.chart.build import ensure_helm

    (CHART / "static").mkdir(exist_ok=True)
    helm = ensure_helm()
    for name in STATIC:
        (CHART / "static" / name).write_text(static(helm, name))


PARTS: dict[str, Callable[[], None]] = {"schema": write_schema, "readme": write_readme, "static": write_static}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        if part not in PARTS:
            sys.exit(f"{part}: there is only {', '.join(PARTS)}")
        PARTS[part]()
