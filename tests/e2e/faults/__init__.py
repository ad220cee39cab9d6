"""The fault campaign on real things: the daemon as a process, kubelet's own code, the kernel, and what goes wrong with them.

- `census`: what a process holds (files, sockets, threads), and that it goes back to what it held.
- `rig`: the daemon with everything on, beside a device manager, with tenants whose processes are real where root is at hand.
- `churn`: pods that come and go while the node is disturbed, and what must hold after each disturbance.
- `preload`: a clock of its own for one process.

Every test ends with `Rig.sound`, or with the story's own end: nothing lost, nothing doubled, nobody killed who was within the
limit, the counts right, nothing leaked. Each takes a short form of seconds and, with `--campaign long`, a long one.
"""
