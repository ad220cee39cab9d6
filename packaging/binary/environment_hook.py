"""Runs first in the frozen program: gives back the environment it was started with, and ctypes as it is.

PyInstaller's bootloader points the loader at the frozen libraries by LD_LIBRARY_PATH. It was read when the process began; what
we start (an external allocator, say) must find the host's libraries, not ours. Its wrappers of ctypes look for libraries in the
frozen tree first and hide why one could not be loaded; the driver's library is the host's, and the reason is what its operator
needs.
"""

import os
import sys

_original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
if _original is None:
    os.environ.pop("LD_LIBRARY_PATH", None)
else:
    os.environ["LD_LIBRARY_PATH"] = _original
for _name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[_name]

if "ctypes" in sys.modules:
    import ctypes

    ctypes.CDLL, ctypes.PyDLL = ctypes.CDLL.__base__, ctypes.PyDLL.__base__
    ctypes.cdll, ctypes.pydll = ctypes.LibraryLoader(ctypes.CDLL), ctypes.LibraryLoader(ctypes.PyDLL)
