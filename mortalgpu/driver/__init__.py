"""The port to the GPU driver, and its adapter over NVML.

`base` is the port. The adapter is `nvml` (the driver as a whole) over `library` (finding and loading it), `translate` (NVML's
errors in our words), `enumeration`, `readings` and `events` (what is asked of it, blocking), and `worker` (from Trio into
threads, with deadlines). `lasting` opens any driver anew when it was lost. Nothing outside this package imports ctypes or
the NVML binding.
"""
