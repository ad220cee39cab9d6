"""`python -m tests.bench.imports MODULE`: what importing it keeps of memory, by package and by module, in KiB."""

import importlib
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

LINES = 40


class Accountant(MetaPathFinder):
    """Finds modules as Python does, and notes what running each one allocated, less what it imported in turn."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self._inner = [0]

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See importlib: the usual module, with a loader that counts."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            self._count(spec.loader, name)
        return spec

    def _count(self, loader: Loader, name: str) -> None:
        run = loader.exec_module

        def counted(module: ModuleType) -> None:
            before = tracemalloc.get_traced_memory()[0]
            self._inner.append(0)
            try:
                run(module)
            finally:
                whole = tracemalloc.get_traced_memory()[0] - before
                self.kept[name] += whole - self._inner.pop()
                self._inner[-1] += whole

        loader.exec_module = counted  # type: ignore[method-assign]


def main(name: str) -> None:
    """Import, and print what that kept."""
    accountant = Accountant()
    sys.meta_path.insert(0, accountant)
    tracemalloc.start(1)
    importlib.import_module(name)
    packages: Counter[str] = Counter()
    for module, size in accountant.kept.items():
        packages[module.partition(".")[0]] += size
    for title, counts in (("by package", packages), ("by module", accountant.kept)):
        print(f"{title}, KiB")
        for each, size in counts.most_common(LINES):
            print(f"  {each:<45} {size / 1024:8.0f}")


if __name__ == "__main__":
    main(sys.argv[1])
