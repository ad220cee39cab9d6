"""One call of the device API by grpcio, as a process of its own: `python -m tests.e2e.client ADDRESS METHOD REQUEST`.

The request is in hexadecimal digits; the token, if any, is in the variable TOKEN. Prints one JSON object: the status code's
name, its details, and the answer in hexadecimal digits. Imports nothing of ours, so that it can run in a container's place.
"""

import json
import os
import sys
from dataclasses import dataclass

import grpc

SERVICE = "/device.v1.DeviceService/"


@dataclass(frozen=True, slots=True)
class Reply:
    """`code` is gRPC's name for it; `body` is empty unless that is OK."""

    code: str
    details: str
    body: bytes


def call(address: str, method: str, request: bytes, *, token: str = "") -> Reply:
    """Call once, with the token as metadata if there is one."""
    metadata = [("authorization", token)] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            return Reply("OK", "", channel.unary_unary(SERVICE + method)(request, timeout=10, metadata=metadata))
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details() or "", b"")


if __name__ == "__main__":
    answer = call(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]), token=os.environ.get("TOKEN", ""))
    print(json.dumps({"code": answer.code, "details": answer.details, "body": answer.body.hex()}))
