"""gRPC over Trio: the tool behind kubelet's sockets, the device API and mgctl. Knows nothing of GPUs, pods or kubelet's rules.

Serving (`server`, `listener`, `status`):

    from mortalgpu.rpc.listener import UnixListener
    from mortalgpu.rpc.server import KUBELET_LIMITS, Call, Send, Server, Service, streaming, unary

    async def allocate(request: AllocateRequest, call: Call) -> AllocateResponse: ...

    async def list_and_watch(request: Empty, call: Call, send: Send) -> None:
        async for inventory in cell.changes():
            await send(response_of(inventory))      # waits for the peer: at most one message is in flight

    plugin = Service("v1beta1.DevicePlugin", {
        "Allocate": unary(AllocateRequest, allocate),
        "ListAndWatch": streaming(Empty, list_and_watch),
    })
    server = Server([plugin], KUBELET_LIMITS)       # or Limits(...): sizes, counts and times, strict by default
    listener = await UnixListener.bind("/run/x.sock", mode=0o600)
    await nursery.start(server.serve, [listener])   # ends by cancellation; the socket file goes with it

A handler is cancelled when its client cancels, resets, runs out of time or goes away. What it raises becomes a status by the
table in `status`; what the table does not know becomes INTERNAL with a fixed text, and a traceback in our log.
`raise Refusal(Code.UNIMPLEMENTED, "text")` names a status outright. `call` has `method`, `deadline`, `metadata` (lower-case
names), `peer` (pid, uid, gid, pidfd on a Unix socket), `connection_id`.

Calling (`channel`): one channel is one connection, and reconnecting is the caller's business.

    async with open_channel("unix:///var/lib/kubelet/device-plugins/kubelet.sock") as channel:
        await channel.unary("/v1beta1.Registration/Register", request, Empty, deadline_seconds=20)
        async with channel.stream("/v1beta1.DevicePlugin/ListAndWatch", Empty(), ListAndWatchResponse) as answers:
            async for answer in answers: ...

raises `RpcError` (code, details) for a status that is not OK, and its subclass `Unavailable` (address) when there is no
connection or it is lost. Tests may use `Server.serve_connection` and `channel_over` on `trio.testing` memory streams.

What is purerpc's here and what is not: `wire` builds on `purerpc.grpclib.connection.GRPCConnection` (header rules, statuses,
the event vocabulary); its docstring says which parts had to be replaced. purerpc's server, client and socket layers are not
used: they know no Unix sockets, swallow `Cancelled`, tell the client our tracebacks, ignore resets and deadlines, and queue
without bound.
"""
