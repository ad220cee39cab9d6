"""A program that takes memory of the first GPU, piece by piece, through the driver's own library: no toolkit is needed."""


def taking(*sizes_bytes: int) -> str:
    """Return a Python program that takes these amounts: after each it prints `taken`, and waits for a line before the next."""
    return f"""
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
def check(code):
    if code:
        sys.exit(f"CUDA error {{code}}")
check(cuda.cuInit(0))
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
for size in {sizes_bytes!r}:
    check(cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)))
    print("taken", flush=True)
    sys.stdin.readline()
sys.stdin.read()
"""
