"""The real kubelet, containerd and kubelet's device manager as test partners, and the daemon beside them.

Everything here is a real program started by the test, over Unix sockets and loopback only. Nothing here imports the daemon's
code but the generated messages in `mortalgpu.rpc.pb`.
"""
