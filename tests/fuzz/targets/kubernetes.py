"""Targets: the Kubernetes API's JSON, its HTTP, and where it is said to be."""

import json
from functools import partial

import trio

from mortalgpu.cluster.access import ApiAccess, in_cluster
from mortalgpu.cluster.base import PodsView
from mortalgpu.cluster.podwire import Unreadable, read_line, read_list, read_status
from mortalgpu.cluster.session import ApiPace, ApiSession, open_session
from mortalgpu.cluster.watch import PodTable
from mortalgpu.errors import ClusterError
from mortalgpu.model.pod import Pod
from tests.fuzz.target import Target, no_fault_logged, only, scratch

PACE = ApiPace(request_seconds=20, idle_seconds=20, answer_bytes=2**20, line_bytes=2**16)

_UID = "a9f875c6-f5b7-4ad4-a890-c3b2c81cf9fa"
_POD = {
    "metadata": {
        "name": "job",
        "namespace": "team",
        "uid": _UID,
        "resourceVersion": "7",
        "annotations": {"kubernetes.io/config.hash": "7" * 32, "gpu-mem-limit.mortalgpu/v100": "8", "other": "x"},
    },
    "spec": {"containers": [{"name": "train", "image": "i"}]},
    "status": {
        "phase": "Running",
        "containerStatuses": [{"name": "train", "containerID": "containerd://" + "c" * 64, "state": {"running": {}}}],
        "initContainerStatuses": None,
    },
}
_LIST = {"kind": "PodList", "metadata": {"resourceVersion": "9", "continue": ""}, "items": [_POD]}
_LINES = b"\n".join(
    json.dumps({"type": kind, "object": found}).encode()
    for kind, found in (
        ("ADDED", _POD),
        ("MODIFIED", _POD),
        ("BOOKMARK", {"metadata": {"resourceVersion": "11"}}),
        ("DELETED", _POD),
        ("ERROR", {"message": "too old resource version", "reason": "Expired", "code": 410}),
    )
)
_JSON = (
    *(b"null", b"{}", b"[]", b'"\\ud800"', b'"\xff"', b'"\\u001b[2J"', b"1e400", b"[" * 2000, b'{"a":' * 1500, b'"type"'),
    *(b'"DELETED"', b'"uid"', b'"containerID"', b"\n", b'"object":', b"-0", b"9" * 5000, b"\\"),
)


def check_list(data: bytes) -> None:
    """A page of a list is pods as it names them, or Unreadable; the body of a refusal is always something."""
    with only(Unreadable):
        table = PodTable()
        table.replace(read_list(data).items or (), "1")
        _as_named(table, data)
    assert isinstance(read_status(data).code, int)


def check_lines(data: bytes) -> None:
    """Lines of a watch change the pods that they name, or end it with a ClusterError."""
    table = PodTable()
    with only(ClusterError):
        for line in data.split(b"\n"):
            if line:
                table.apply(*read_line(line))
    _as_named(table, data)


def _as_named(table: PodTable, data: bytes) -> None:
    for uid, pod in PodsView(table.pods()).pods.items():
        assert uid == pod.uid
        assert _named(data, pod)


def _named(data: bytes, pod: Pod) -> bool:
    """Whether a pod's identity stands in the JSON; texts with escapes are taken on trust."""
    texts = [pod.uid, pod.name, pod.namespace, *(each.container_id for each in pod.containers), *pod.annotations.values()]
    return b"\\" in data or all(text.encode() in data for text in texts)


async def _ask(said: bytes) -> tuple[int | None, int | None]:
    """List, then watch, as the adapter does, at an HTTP server that says these bytes to whoever connects, and hangs up.

    Return how many pods were listed and lines read; None for what ended in a ClusterError.
    """

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await stream.receive_some(65536)
            await stream.send_all(said)
            await stream.send_eof()
        except trio.BrokenResourceError:
            return

    listed: int | None = None
    watched: int | None = None
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            access = ApiAccess(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
            async with open_session(access, PACE) as session:
                with only(ClusterError):
                    listed = len(read_list(await session.get("/api/v1/pods", {"limit": "1"})).items or ())
            # Another session: the first one's connection may be at its end, or not know it yet.
            async with open_session(access, PACE) as session:
                with only(ClusterError):
                    watched = await _watch(session)
            nursery.cancel_scope.cancel()
    return listed, watched


async def _watch(session: ApiSession) -> int:
    count = 0
    async with session.lines("/api/v1/pods", {"watch": "1"}) as batches:
        async for lines in batches:
            assert all(line and b"\n" not in line for line in lines)
            count += len(lines)
    return count


def asked(data: bytes) -> tuple[int | None, int | None]:
    """Return how many pods and lines an API server that says these bytes is good for."""
    return trio.run(_ask, data)


def check_http(data: bytes) -> None:
    """Whatever an API server says on its connections is read, or is a ClusterError."""
    with no_fault_logged():
        asked(data)


def check_access(data: bytes) -> None:
    """Where the API is said to be, in the configuration or by the environment: somewhere, or a ClusterError."""
    host, _, port = data.decode("utf-8", "surrogateescape").partition("\0")
    account = scratch() / "account"
    account.mkdir(exist_ok=True)
    (account / "token").write_text("a.b.c")
    (account / "ca.crt").write_text("no certificate")
    given = in_cluster({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}, account)
    accesses = [ApiAccess(host, token_file=account / "token"), *([given] if given else [])]

    async def reach(access: ApiAccess) -> None:
        with trio.move_on_after(0.2):
            async with open_session(access, PACE) as session:
                await session.get("/api/v1/pods", {})

    for access in accesses:
        if "." not in access.url or "127.0.0.1" in access.url:
            with no_fault_logged(), only(ClusterError):
                trio.run(partial(reach, access))


def _http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", "content-type: application/json", *headers, "", "")).encode() + body


_CHUNKED = "transfer-encoding: chunked"

TARGETS = (
    Target("api-list", check_list, (json.dumps(_LIST).encode(), b'{"message": "no", "code": 403}'), _JSON, inputs=3000),
    Target("api-watch", check_lines, (_LINES, _LINES.split(b"\n")[0]), _JSON, inputs=3000),
    Target(
        "api-http",
        check_http,
        (
            _http(json.dumps(_LIST).encode(), f"content-length: {len(json.dumps(_LIST))}"),
            _http(b"%x\r\n%s\n\r\n0\r\n\r\n" % (len(_LINES) + 1, _LINES), _CHUNKED),
            _http(b'{"message": "slow down", "code": 429}', "retry-after: 7", status="429 Too Many Requests"),
            _http(b"\x1f\x8b\x08\x00rubbish", "content-encoding: gzip"),
            _http(b"", "location: http://127.0.0.1:1/", status="301 Moved"),
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + _http(b"{}", "content-length: 2"),
        ),
        (
            *(
                b"\r\n",
                b"\r\n\r\n",
                b"HTTP/1.0 ",
                b"content-length: 99999999999999999999\r\n",
                b"content-encoding: deflate\r\n",
            ),
            *(
                b"content-encoding: br, gzip, zstd\r\n",
                b"transfer-encoding: gzip, chunked\r\n",
                b"ffffffffffffffff\r\n",
                b"\x00",
            ),
            *(b"retry-after: " + b"9" * 400 + b"\r\n", b"content-type: a/b; charset=none\r\n", b"set-cookie: a=b\r\n", b"\xff"),
        ),
        inputs=80,
    ),
    Target(
        "api-access",
        check_access,
        (b"127.0.0.1\x001", b"::1\x001", b"http://127.0.0.1:1", b"https://[::1]:1", b"localhost"),
        (b"[", b"]", b"http://", b"https://", b":99999", b"%", b"@", b"\xff", b"/", b"?", b"\0", b" ", b"\xe2\x84\xa1"),
        inputs=60,
    ),
)
