"""What is there and who uses it: discovery of devices, scans of processes, and the join that says whose they are."""
