"""What a value is called that the text gives no name: by the array that it reads, or by what it
is."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr

_WORDS = {
    "add": "plus", "sub": "difference", "mul": "times", "div": "quotient", "pow": "power",
    "exp": "exponential", "log": "logarithm", "neg": "negative", "where": "choice",
    "to_real": "number", "mod": "rest", "floordiv": "share", "max": "larger", "min": "smaller",
    "sqrt": "root_of", "abs": "size", "random": "uniform",
}  # fmt: skip
_FOLDS = {"sum": "sum", "max": "maximum", "min": "minimum", "prod": "product"}


def title(node: Expr) -> str:
    """A word for a value: `k_read`, `sum_j`, `difference`, `holds`."""
    if node.op == "read":
        return f"{node.array.name.rpartition('.')[2]}_read"
    if node.op == "fold":
        bound = "_".join(index.name for index in node.bound)
        return f"{_FOLDS.get(node.monoid, node.monoid)}_{bound}"
    if node.kind == "bool":
        return "holds"
    return _WORDS.get(node.op, f"{node.op}_value")


def listed(dims: Iterable[Index]) -> str:
    """The names of dimensions, numbered where two are called the same."""
    found: list[str] = []
    for index in dims:
        same = sum(name.rstrip("'") == index.name for name in found)
        found.append(index.name + "'" * same)
    return ", ".join(found)
