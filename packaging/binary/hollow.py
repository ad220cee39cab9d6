"""Stands in the frozen program for a module that a library imports and nobody here comes to use: HOLLOW in program.spec.

Any name can be imported from it, mentioned and derived from, so that the library loads. What is made of it says why not.
"""

from typing import NoReturn


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"{__name__}.{name} is not in the frozen program: {__name__} is hollow there, see program.spec")

    return type(name, (), {"__init__": refuse})
