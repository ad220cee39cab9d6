"""MortalGPU: shares the NVIDIA GPUs of one node between Kubernetes workloads and holds each container to its memory."""
