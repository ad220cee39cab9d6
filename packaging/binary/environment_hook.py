"""Runs first in the frozen program: gives back the environment it was started with.

PyInstaller's bootloader points the loader at the frozen libraries by LD_LIBRARY_PATH. It was read when the process began; what
we start (an external allocator, say) must find the host's libraries, not ours.
"""

import os

_original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
if _original is None:
    os.environ.pop("LD_LIBRARY_PATH", None)
else:
    os.environ["LD_LIBRARY_PATH"] = _original
for _name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[_name]
