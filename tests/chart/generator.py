"""packaging/chart.py as a module, loaded by its path: the folder has the name of a library."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

_PATH = Path(__file__).parents[2] / "packaging" / "chart.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("chart_generator", _PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generator = load()
