"""Which module may import which: the table, and the test that holds the tree to it.

A module may import modules of the layers above its own line in LAYERS, and of its own line. Where
an import stands (at the top, in a function, for types only) makes no difference to that. OUTSIDE
says the same for other people's packages, where it does: `in functions` means that importing the
module must not load the package.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A package stands for all its modules. A line may name several: they are
# peers, and may import one another.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("attnc.source",),
    ("attnc.errors",),
    ("attnc.cache", "attnc.philox", "attnc.resources", "attnc.runtime"),
    ("attnc.syntax",),
    (
        "attnc.parser",
        "attnc.layout",
        "attnc.mistakes",
        "attnc.range_mistakes",
        "attnc.trouble",
        "attnc.treebuilder",
        "attnc.tree_expressions",
        "attnc.formatter",
    ),
    ("attnc.expressions",),
    ("attnc.spec", "attnc.spec_text"),
    ("attnc.check",),
    ("attnc.front",),
    ("attnc.signature",),
    ("attnc.graph", "attnc.graph_text"),
    ("attnc.schedule",),
    ("attnc.stages",),
    (
        "attnc.build",
        "attnc.continued",
        "attnc.divisors",
        "attnc.fallbacks",
        "attnc.lags",
        "attnc.signature_of",
        "attnc.verify",
    ),
    ("attnc.passes",),
    ("attnc.backends",),
    ("attnc.cases",),
    ("attnc.emission", "attnc.explanation", "attnc.family"),
    (
        "attnc.compiler",
        "attnc.infeasible",
        "attnc.operator",
        "attnc.reference",
    ),
    ("attnc.moderate",),
    ("attnc.verification", "attnc.verification_gradients"),
    ("attnc.tuning",),
    ("attnc.jit", "attnc.flex"),
    ("attnc.zoo",),
    ("attnc.draw", "attnc.pictures"),
    ("attnc",),  # the surface: attnc/__init__.py alone
    ("attnc.bench",),
    ("attnc.cli",),
    ("attnc.__main__",),
)

# (importer, imported): why it may, against the layers.
ALLOWED: dict[tuple[str, str], str] = {
    ("attnc.emission.module", "attnc"): "__version__, written into every module",
    ("attnc.emission.kernel_set", "attnc"): "__version__, part of a kernel set's digest",
}

# Narrower than its layer. The oracles share nothing with the passes that they judge. The shipped
# folders are data. The runtime is copied into every emitted module, so it runs without attnc: only
# attnc's classes of errors does it take from there, where they are.
ONLY: dict[str, tuple[str, ...]] = {
    "attnc.backends.numpy_oracle": (
        "attnc.source",
        "attnc.errors",
        "attnc.philox",
        "attnc.expressions",
        "attnc.spec",
        "attnc.philox",
        "attnc.backends.base",
    ),
    "attnc.backends.eager": (
        "attnc.source",
        "attnc.errors",
        "attnc.resources",
        "attnc.expressions",
        "attnc.spec",
        "attnc.signature",
        "attnc.backends.base",
        "attnc.backends.printer",
    ),
    "attnc.runtime": ("attnc.errors",),
    "attnc.grammar": (),
    "attnc.templates": (),
}

ANYWHERE, IN_FUNCTIONS = "anywhere", "in functions"

# Package -> the modules that may import it, and where in their text.
OUTSIDE: dict[str, dict[str, str]] = {
    "lark": {
        "attnc.treebuilder": ANYWHERE,
        "attnc.tree_expressions": ANYWHERE,
        "attnc.parser": IN_FUNCTIONS,
    },
    "tomli": {"attnc.mistakes": IN_FUNCTIONS},  # Python 3.10's tomllib
    "sympy": {"attnc.passes": IN_FUNCTIONS},
    "networkx": {"attnc.graph": IN_FUNCTIONS},
    "jinja2": {"attnc.resources": IN_FUNCTIONS},
    "numpy": {
        "attnc.philox": ANYWHERE,
        "attnc.expressions.evaluate": ANYWHERE,
        "attnc.backends.numpy_oracle": ANYWHERE,
        "attnc.check.demands": IN_FUNCTIONS,  # trials at some 100 000 points with the evaluator
        "attnc.passes": IN_FUNCTIONS,
        "attnc.runtime": ANYWHERE,
        "attnc.cases": ANYWHERE,
        "attnc.bench": ANYWHERE,
        "attnc.flex": ANYWHERE,
        "attnc.infeasible": ANYWHERE,
        "attnc.reference": ANYWHERE,
        "attnc.moderate": ANYWHERE,
        "attnc.verification": ANYWHERE,
        "attnc.verification_gradients": ANYWHERE,
        "attnc.draw": ANYWHERE,
        "attnc.pictures": ANYWHERE,
        "attnc.cli": IN_FUNCTIONS,
    },
    "torch": {
        "attnc.runtime": ANYWHERE,
        "attnc.operator": IN_FUNCTIONS,
        "attnc.infeasible": IN_FUNCTIONS,
        "attnc.reference": IN_FUNCTIONS,
        "attnc.flex": ANYWHERE,  # imported when from_flex is first asked for
        "attnc.verification": ANYWHERE,
        "attnc.verification_gradients": ANYWHERE,
        "attnc.tuning": IN_FUNCTIONS,
        "attnc.bench": ANYWHERE,
        "attnc.compiler": IN_FUNCTIONS,
        "attnc.cli": IN_FUNCTIONS,
    },
    "triton": {"attnc.backends": IN_FUNCTIONS, "attnc.runtime": IN_FUNCTIONS},
    "matplotlib": {"attnc.draw": IN_FUNCTIONS, "attnc.cli": IN_FUNCTIONS},
    "click": {"attnc.cli": ANYWHERE},
    "rich": {"attnc.cli": IN_FUNCTIONS, "attnc.draw": IN_FUNCTIONS, "attnc.pictures": IN_FUNCTIONS},
    "platformdirs": {"attnc.cache": ANYWHERE, "attnc.runtime": IN_FUNCTIONS},
}

# Folder of the tree -> the name it is installed under.
FOLDERS = {
    "attnc": "attnc",
    "backends": "attnc.backends",
    "grammar": "attnc.grammar",
    "templates": "attnc.templates",
}


@dataclass(frozen=True)
class Import:
    """One imported module, the line it stands on, and whether only a call or a type checker
    reaches it."""

    module: str
    line: int
    lazy: bool


def module_name(path: Path) -> str:
    """The installed name of a file of the tree."""
    folder, *inner = path.relative_to(ROOT).with_suffix("").parts
    parts = [FOLDERS[folder], *inner]
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def tree() -> dict[str, Path]:
    """Every module of the package: installed name -> file."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return {module_name(path): path for path in paths}


def imports(text: str, package: str, known: frozenset[str]) -> Iterator[Import]:
    """The imports of a module's text. `from p import n` counts as p.n where that is a module."""
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(text), False)]
    while todo:
        node, lazy = todo.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -node.level + 1 or None] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield Import(inner if inner in known else source, node.lineno, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += [(child, True) for child in node.body]
            todo += [(child, inside) for child in node.orelse]
            continue
        todo += [(child, inside) for child in ast.iter_child_nodes(node)]


def within(module: str, package: str) -> bool:
    """Whether a module is a package or lies in it. Everything lies in attnc: that is the surface,
    and stands for itself alone."""
    return module == package or (package != "attnc" and module.startswith(package + "."))


def layer(module: str) -> int | None:
    """The line of LAYERS a module stands on, None if on none."""
    lines = (n for n, names in enumerate(LAYERS) if any(within(module, name) for name in names))
    return next(lines, None)


def rule(table: dict[str, str], module: str) -> str | None:
    """What the nearest enclosing entry of a table says of a module."""
    entries = [name for name in table if within(module, name)]
    return table[max(entries, key=len)] if entries else None


def fault_inside(importer: str, imported: str) -> str | None:
    """What is wrong with one module of attnc importing another, None if nothing."""
    if (importer, imported) in ALLOWED:
        return None
    narrow = next((names for name, names in ONLY.items() if within(importer, name)), None)
    if narrow is not None:
        family = next(name for name in ONLY if within(importer, name))
        if any(within(imported, name) for name in (*narrow, family)):
            return None
        return f"may import {', '.join(narrow) or 'nothing of attnc'} only"
    data = next(
        (name for name in ("attnc.grammar", "attnc.templates") if within(imported, name)), None
    )
    if data is not None:
        return f"is read through attnc.resources: {data} is data"
    above, below = layer(importer), layer(imported)
    if above is None:
        return "has no place in LAYERS (tests/test_layers.py): give it one"
    if below is None:
        return f"{imported} has no place in LAYERS (tests/test_layers.py)"
    return None if below <= above else "is above it"


def fault_outside(importer: str, found: Import) -> str | None:
    """What is wrong with a module of attnc importing another package, None if nothing."""
    top = found.module.split(".")[0]
    if top in sys.stdlib_module_names:
        return None
    if top in FOLDERS:
        return f"is installed as {FOLDERS[top]}"
    if top not in OUTSIDE:
        return "is not in OUTSIDE (tests/test_layers.py)"
    where = rule(OUTSIDE[top], importer)
    if where is None:
        return f"belongs to {', '.join(OUTSIDE[top])}"
    if where == IN_FUNCTIONS and not found.lazy:
        return "belongs inside the functions that use it here: importing attnc stays light"
    return None


def faults(module: str, package: str, text: str, known: frozenset[str]) -> list[str]:
    """Every import of a module's text that the tables forbid, as lines for a reader."""
    found = []
    for each in imports(text, package, known):
        ours = each.module.split(".")[0] == "attnc"
        fault = fault_inside(module, each.module) if ours else fault_outside(module, each)
        if fault:
            found.append(f"{module}:{each.line} imports {each.module}, which {fault}")
    return found


TREE = tree()


@pytest.mark.parametrize("module", TREE)
def test_imports_follow_the_layers(module: str) -> None:
    path = TREE[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert faults(module, package, path.read_text(), frozenset(TREE)) == []


@pytest.mark.parametrize(
    "module, text",
    [
        ("attnc.source", "from attnc.errors import AttncError"),
        ("attnc.source", "def f():\n    import attnc.cli"),
        ("attnc.spec", "from attnc import graph"),
        ("attnc.spec", "from . import graph"),
        ("attnc.spec", "if TYPE_CHECKING:\n    from attnc.graph import Node"),
        ("attnc.spec", "import attnc"),
        ("attnc.graph", "import sympy"),
        ("attnc.passes.fold", "import sympy"),
        ("attnc.passes.fold", "import torch.nn"),
        ("attnc.backends.cpu", "from jinja2 import Environment"),
        ("attnc.backends.cpu", "import attnc.templates"),
        ("attnc.backends.cpu", "from backends.base import Backend"),
        ("attnc.backends.numpy_oracle", "from attnc.graph import Graph"),
        ("attnc.compiler", "import torch"),
        ("attnc.templates.module.support", "from attnc.errors import AttncError"),
        ("attnc.unheard_of", "from attnc.source import Source"),
        ("attnc.source", "import pandas"),
    ],
)
def test_the_rule_catches(module: str, text: str) -> None:
    known = frozenset({*TREE, "attnc.graph"})
    assert len(faults(module, module.rpartition(".")[0], text, known)) == 1


@pytest.mark.parametrize(
    "module, text",
    [
        ("attnc.spec", "from attnc.expressions.tree import Expr\nimport math"),
        ("attnc.passes.fold", "def f():\n    import sympy"),
        ("attnc.backends.cpu", "from attnc.backends.base import Backend"),
        ("attnc.cli.show", "import click\nfrom attnc.compiler import compile"),
        ("attnc.compiler", "if TYPE_CHECKING:\n    import torch"),
    ],
)
def test_the_rule_lets_pass(module: str, text: str) -> None:
    assert faults(module, module.rpartition(".")[0], text, frozenset(TREE)) == []
