"""The port to the GPU driver, and its adapter over NVML."""
