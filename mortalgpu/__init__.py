"""MortalGPU: shares the NVIDIA GPUs of one node between Kubernetes workloads and holds each container to its memory."""

__version__ = "0.1.0"
