"""The support part of an emitted module: files of attnc/runtime, copied verbatim into one text.

Each runtime file imports only the standard library, torch, NumPy and other runtime files, so that
the files one after another are a program. Imports move to the top, once; everything else stays as
it is. The files share one namespace there, so no two may define the same name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from attnc.errors import InternalError

BANNER = "# " + "-" * 98


@cache
def bundle_runtime(names: tuple[str, ...]) -> str:
    """The text of the runtime files `names` (without `.py`), in this order, their imports merged on
    top."""
    imports: dict[str, set[str]] = {}
    plain: set[str] = set()
    bodies: list[str] = []
    owners: dict[str, str] = {}
    for name in names:
        text = files("attnc.runtime").joinpath(f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        _collect_imports(tree, imports, plain)
        for defined in (n for n in _defined(tree) if n != "__all__"):
            if owners.setdefault(defined, name) != name:
                raise InternalError(f"runtime files {owners[defined]} and {name}: both `{defined}`")
        bodies.append(f"{BANNER}\n# support: {name}\n{BANNER}\n\n{_without_imports(text, tree)}")
    lines = [f"import {name}" for name in sorted(plain)]
    for module, imported in sorted(imports.items()):
        lines.append(f"from {module} import {', '.join(sorted(imported))}")
    return "\n".join(lines) + "\n\n" + "\n\n".join(bodies)


def _collect_imports(tree: ast.Module, imports: dict[str, set[str]], plain: set[str]) -> None:
    for node in tree.body:
        if isinstance(node, ast.Import):
            plain.update(_spelled(alias) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not _inside(node):
            assert node.module is not None
            imports.setdefault(node.module, set()).update(_spelled(alias) for alias in node.names)


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a file defines at its top."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))


def _spelled(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _inside(node: ast.ImportFrom) -> bool:
    """Imports that the bundle itself answers (runtime files), or that stand first in the module."""
    return node.module == "__future__" or (node.module or "").startswith("attnc.runtime")


def _without_imports(text: str, tree: ast.Module) -> str:
    """The file without its top-level imports and `__all__`; its docstring becomes a comment."""
    lines = text.splitlines()
    drop: set[int] = set()
    for node in tree.body:
        names_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        if isinstance(node, (ast.Import, ast.ImportFrom)) or names_all:
            drop.update(range(node.lineno - 1, node.end_lineno or node.lineno))
    head: list[str] = []
    first = tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        drop.update(range(first.lineno - 1, first.end_lineno or first.lineno))
        head = [f"# {line}".rstrip() for line in str(first.value.value).strip().splitlines()]
    body = [line for number, line in enumerate(lines) if number not in drop]
    return "\n".join([*head, "", *body]).rstrip() + "\n"
