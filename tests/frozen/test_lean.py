"""What freezing does to modules, tried on a few lines: docstrings go, all else stays; a hollow module can only be mentioned."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

LEAN = Path(__file__).parents[2] / "packaging" / "binary" / "lean.py"

SAMPLE = '''"""About the module."""

from __future__ import annotations


class Thing:
    """About things."""

    def name(self) -> str:
        """About names."""
        return "no docstring"

    async def nothing(self) -> None:
        """All there is."""


def checked(figure: int) -> int:
    """About checks."""
    assert figure > 0
    return figure
'''


@pytest.fixture
def lean() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lean", LEAN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(lean: ModuleType, path: Path, *, hollow: bool) -> ModuleType:
    module = ModuleType("library.part")
    exec(lean.code(str(path), hollow=hollow), module.__dict__)
    return module


def test_docstrings_go_and_asserts_stay(lean: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    module = made(lean, path, hollow=False)
    documented = (module, module.Thing, module.Thing.name, module.Thing.nothing, module.checked)
    assert [each.__doc__ for each in documented] == [None] * len(documented)
    assert module.Thing().name() == "no docstring"
    assert module.checked(1) == 1
    with pytest.raises(AssertionError):
        module.checked(0)


def test_what_a_hollow_module_has_can_be_derived_from_and_not_made(lean: ModuleType, tmp_path: Path) -> None:
    module = made(lean, tmp_path / "never-read.py", hollow=True)

    class Derived(module.Server, module.Mixin):  # type: ignore[misc,name-defined]
        pass

    for kind in (module.Server, Derived):
        with pytest.raises(RuntimeError, match=r"library\.part\.Server is not in the frozen program"):
            kind("any", words="at all")
    assert not hasattr(module, "__path__")
