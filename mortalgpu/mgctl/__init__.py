"""The command for people and scripts: who uses which GPU, how much of it is theirs, and why their process was killed.

Thin and quick to start: it knows the device API's messages and nothing of the daemon. What a command does not need it must
not import; `main` and `arguments` import next to nothing, so that `mgctl version` and wrong words cost no more than Python.
"""
