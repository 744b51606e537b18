"""Quotients of exponentials in recurrences, relative to their largest.

    exp(y[n]) / sum(m: exp(y[m]))  ->  exp(y[n] - top) / sum(m: exp(y[m] - top)), top = max(m: y[m])

A stream kernel finds such a reference while it walks (`references`); a row of a recurrence has its
width at hand. The quotient does not depend on `top`, so derivatives stop at it.

    does      shifts what is divided by the sum of its own exponentials over an index
    needs     a simplified Graph
    does not  touch Graphs without states, or sums under a condition, which may be of nothing
"""

from __future__ import annotations

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, call, fold, position, rewrite, substitute
from attnc.graph import Graph


def shifted(graph: Graph) -> Graph:
    """The graph of a recurrence with such quotients shifted."""
    if not graph.recurrences:
        return graph
    return graph.mapped(lambda expr: canonical(rewrite(expr, _shifted)))


def _shifted(node: Expr) -> Expr:
    if node.op != "div" or node.args[0].op != "exp" or not _is_sum(node.args[1]):
        return node
    power, total = node.args
    (index,) = total.bound
    inner = total.args[1].args[0]
    if not any(_at(inner, index, other) == canonical(power.args[0]) for other in power.free):
        return node
    top = call("stop", fold("max", (index,), inner))
    below = fold("sum", (index,), call("exp", call("sub", inner, top)))
    return call("div", call("exp", call("sub", power.args[0], top)), below)


def _is_sum(node: Expr) -> bool:
    """A sum over one index of exponentials, of all of them."""
    if node.op != "fold" or node.monoid != "sum" or len(node.bound) != 1:
        return False
    return node.args[0] == TRUE and node.args[1].op == "exp"


def _at(inner: Expr, index: Index, other: Index) -> Expr:
    return canonical(substitute(inner, {index: position(other)}))


__all__ = ["shifted"]
