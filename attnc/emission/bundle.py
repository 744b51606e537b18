"""The support part of an emitted module: files of attnc/runtime, copied verbatim into one text.

Each runtime file imports only the standard library, torch, NumPy and other runtime files, so that
the files one after another are a program. Imports move to the top, once; everything else stays as
it is. The files share one namespace there, so no two may define the same name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from attnc.errors import InternalError

BANNER = "# " + "-" * 98


@dataclass(frozen=True)
class _Part:
    """A file of attnc/runtime: what stays of its text, the names that it imports plainly and from
    modules, and those that it defines at its top."""

    body: str
    plain: frozenset[str]
    imports: frozenset[tuple[str, str]]  # module, name (`x as y`)
    defined: tuple[str, ...]


@cache
def bundle_runtime(names: tuple[str, ...]) -> str:
    """The text of the runtime files `names` (without `.py`), in this order, their imports merged on
    top."""
    imports: dict[str, set[str]] = {}
    plain: set[str] = set()
    bodies: list[str] = []
    owners: dict[str, str] = {}
    for name in names:
        part = _read(name)
        plain |= part.plain
        for module, imported in part.imports:
            imports.setdefault(module, set()).add(imported)
        for defined in (n for n in part.defined if n != "__all__"):
            if owners.setdefault(defined, name) != name:
                raise InternalError(f"runtime files {owners[defined]} and {name}: both `{defined}`")
        bodies.append(f"{BANNER}\n# support: {name}\n{BANNER}\n\n{part.body}")
    lines = [f"import {name}" for name in sorted(plain)]
    for module, found in sorted(imports.items()):
        lines.append(f"from {module} import {', '.join(sorted(found))}")
    return "\n".join(lines) + "\n\n" + "\n\n".join(bodies)


@cache
def bundled_names(names: tuple[str, ...]) -> frozenset[str]:
    """What the bundle of these files defines or imports."""
    found: set[str] = set()
    for part in map(_read, names):
        found.update(part.defined)
        found.update(_bound(name).partition(".")[0] for name in part.plain)
        found.update(_bound(name) for _, name in part.imports)
    return frozenset(found)


@cache
def _read(name: str) -> _Part:
    """A runtime file, parsed once: a module of thousands of lines is made of them."""
    text = files("attnc.runtime").joinpath(f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    plain: set[str] = set()
    imports: set[tuple[str, str]] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            plain.update(_spelled(alias) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not _inside(node):
            assert node.module is not None
            imports.update((node.module, _spelled(alias)) for alias in node.names)
    defined = tuple(_defined(tree))
    return _Part(_without_imports(text, tree), frozenset(plain), frozenset(imports), defined)


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a file defines at its top."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))


def _bound(spelled: str) -> str:
    """The name that an import binds."""
    return spelled.rpartition(" as ")[2]


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
