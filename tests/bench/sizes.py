"""How large what people install is."""

from pathlib import Path

from tests.bench.forms import Form
from tests.bench.timing import Samples

MB = 1e6


def measure(form: Form) -> Samples:
    """Measure the frozen form: the binary, and what was built beside it."""
    binary = Path(form.mortalgpu[0])
    found = {"binary_size": [binary.stat().st_size / MB]}
    mgctl, image = binary.with_name("mgctl"), binary.with_name("image.tar")
    if mgctl.is_dir():
        files = (path for path in mgctl.rglob("*") if path.is_file() and not path.is_symlink())
        found["mgctl_size"] = [sum(path.stat().st_size for path in files) / MB]
    if image.is_file():
        found["image_size"] = [image.stat().st_size / MB]
    return found
