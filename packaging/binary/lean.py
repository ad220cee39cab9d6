"""Compiles the modules of the frozen program lean: none with its docstrings, some of them hollow. program.spec says which.

What a daemon imports stays in its memory for as long as it runs. Asserts stay too, since some of h2's check what a peer has
sent: hence not PyInstaller's `optimize`, which takes both.
"""

import ast
from pathlib import Path
from types import CodeType

HOLLOW = Path(__file__).with_name("hollow.py")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code(path: str, *, hollow: bool) -> CodeType:
    """Compile the module at `path`, or a hollow one in its place."""
    tree = ast.parse((HOLLOW if hollow else Path(path)).read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None:
            line = node.body[0].lineno
            node.body = node.body[1:] or [ast.Pass(lineno=line, end_lineno=line, col_offset=0, end_col_offset=0)]
    return compile(tree, path, "exec", dont_inherit=True)
