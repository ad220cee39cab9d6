"""The real kubelet, containerd and kubelet's device manager as test partners, and the daemon beside them.

Everything here is a real program started by the test, over Unix sockets and loopback only. Nothing here imports the daemon's
code but the generated messages in `mortalgpu.rpc.pb` and the worked example's devices.

- `build`: installs and builds what the tests run, into a cache; `gomod` writes the go.mod files when Kubernetes moves on.
- `device_manager`: kubelet's device manager alone, of a current and an old kubelet, for hundreds of restarts a minute.
- `node`, on `containerd` and `cgroups`: a whole kubelet with static pods; `pods` describes them for both.
- `daemon`: the daemon's process on the driver's stand-in. `plugin`: a small plugin in its place, to try the harness with.
- `story`: random steps and what must hold after each. `registrations`: the rule that no two overlap.
"""
