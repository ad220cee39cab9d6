"""A control plane of two processes, etcd and kube-apiserver, on loopback; and what an administrator does to it over HTTP."""

import base64
import json
import secrets
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.apiserver.build import locate
from tests.e2e.process import Process
from tests.e2e.waiting import eventually
from tests.ports import free_port
from tests.standin.apiserver.tls import self_signed

ACCOUNT = "mortalgpu"
ROLE_RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]
"""All that the daemon may do."""


class ControlPlane:
    """Started by `start`, ended by `stop`; the API server alone may be killed and started again at the same address."""

    flags: tuple[str, ...] = ("--disable-admission-plugins=ServiceAccount",)
    """More flags of the API server: by default pods need no service account, which a controller would have to make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.apiserver_binary, self.etcd_binary = locate()
        self.certificate, _ = self_signed(folder, "apiserver")
        self.port = free_port()
        self.etcd_port = free_port()
        self.admin_token = secrets.token_hex(16)
        self.etcd: Process | None = None
        self.apiserver: Process | None = None
        context = ssl.create_default_context(cafile=str(self.certificate))
        headers = {"authorization": f"Bearer {self.admin_token}"}
        self.admin = httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=10)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        (self.folder / "tokens.csv").write_text(f'{self.admin_token},admin,admin,"system:masters"\n')
        key = [
            "openssl",
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            str(self.folder / "sa.key"),
        ]
        subprocess.run(key, check=True, capture_output=True)
        self._start_etcd()
        self.start_apiserver()

    def _start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{free_port()}"
        argv: list[str | Path] = [
            self.etcd_binary,
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        ]
        self.etcd = Process("etcd", argv, self.folder / "etcd.log")

    def start_apiserver(self) -> None:
        """Start it and wait until it is ready."""
        argv: list[str | Path] = [
            self.apiserver_binary,
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.certificate}",
            f"--tls-private-key-file={self.certificate.with_suffix('.key')}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'sa.key'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            *self.flags,
        ]
        self.apiserver = Process("kube-apiserver", argv, self.folder / "apiserver.log")
        eventually("kube-apiserver to be ready", self._ready, seconds=90, every_seconds=0.1)

    def kill_apiserver(self) -> None:
        if self.apiserver is not None:
            self.apiserver.kill()

    def stop(self) -> None:
        self.admin.close()
        for process in (self.apiserver, self.etcd):
            if process is not None:
                process.kill()

    def _ready(self) -> bool:
        assert self.apiserver is not None
        assert self.apiserver.running, f"kube-apiserver ended:\n{self.apiserver.log()[-3000:]}"
        try:
            return self.admin.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Do something as administrator; raises AssertionError with the server's words unless it succeeds."""
        content = None if body is None else json.dumps(body)
        answer = self.admin.request(method, path, content=content, headers={"content-type": content_type})
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def make_account(self) -> None:
        """Create the daemon's service account, without any right."""
        self.call("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": ACCOUNT}})

    def grant(self) -> None:
        """Give the account its role: least privilege."""
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        self.call("POST", f"{rbac}/clusterroles", {"metadata": {"name": ACCOUNT}, "rules": ROLE_RULES})
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT}
        self.call(
            "POST", f"{rbac}/clusterrolebindings", {"metadata": {"name": ACCOUNT}, "roleRef": role, "subjects": [subject]}
        )

    def token(self) -> str:
        """Have the server mint a token of the account, as kubelet does for a pod."""
        path = f"/api/v1/namespaces/default/serviceaccounts/{ACCOUNT}/token"
        return str(self.call("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"])

    def run_pod(self, name: str, node: str, *, container_id: str = "", annotations: dict[str, str] | None = None) -> str:
        """Create a pod bound to a node, say as kubelet would that its container runs, and return its uid."""
        spec = {"nodeName": node, "containers": [{"name": "main", "image": "box"}]}
        metadata = {"name": name, "annotations": annotations or {}}
        made = self.call("POST", "/api/v1/namespaces/default/pods", {"metadata": metadata, "spec": spec})
        if container_id:
            running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
            status = {
                "name": "main",
                "containerID": f"containerd://{container_id}",
                "state": running,
                "image": "box",
                "imageID": "",
            }
            self.set_status(name, {"phase": "Running", "containerStatuses": [status | {"ready": True, "restartCount": 0}]})
        return str(made["metadata"]["uid"])

    def set_status(self, name: str, status: dict[str, Any]) -> None:
        path = f"/api/v1/namespaces/default/pods/{name}/status"
        self.call("PATCH", path, {"status": status}, "application/merge-patch+json")

    def delete_pod(self, name: str) -> None:
        self.call("DELETE", f"/api/v1/namespaces/default/pods/{name}", {"gracePeriodSeconds": 0})

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/api/v1/namespaces/default/events")["items"]
        return found

    def compact(self) -> None:
        """Throw away etcd's history up to now, as it happens every five minutes."""
        key = base64.b64encode(b"none").decode()
        with httpx.Client(base_url=f"http://127.0.0.1:{self.etcd_port}", timeout=10) as etcd:
            revision = etcd.post("/v3/kv/range", json={"key": key}).json()["header"]["revision"]
            etcd.post("/v3/kv/compaction", json={"revision": revision, "physical": True}).raise_for_status()
