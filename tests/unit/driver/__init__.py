"""The adapter over NVML, against the driver stand-in; and its parts."""
