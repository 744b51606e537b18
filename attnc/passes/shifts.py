"""Quotients of exponentials in recurrences, relative to their largest.

    sum(m: exp(y[m]) * v[m]) / sum(m: exp(y[m]))
        ->  sum(m: exp(y[m] - top) * v[m]) / sum(m: exp(y[m] - top)), top = max(m: y[m])

A stream kernel finds such a reference while it walks (`references`); a row of a recurrence has its
width at hand. The quotient does not depend on `top`, so derivatives stop at it. There may be
several sums on both sides, over several widths, and no sum above; every term has one exponential
as a factor, and what stands above the line is one of those below it.

    does      shifts what is divided by sums of its own exponentials
    needs     a simplified Graph
    does not  touch Graphs without states, or sums that may all be of nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, call, fold, position, rewrite, substitute
from attnc.graph import Graph


def shifted(graph: Graph) -> Graph:
    """The graph of a recurrence with such quotients shifted."""
    if not graph.recurrences:
        return graph
    return graph.mapped(lambda expr: canonical(rewrite(expr, _shifted)))


@dataclass(frozen=True)
class _Power:
    """The exponent of a term, and the folds around the term, outermost first."""

    exponent: Expr
    folds: tuple[Expr, ...] = ()

    def largest(self) -> Expr:
        """The maximum of the exponent over its folds."""
        value = self.exponent
        for each in reversed(self.folds):
            value = fold("max", each.bound, value, each.args[0])
        return value

    @property
    def bound(self) -> tuple[Index, ...]:
        return tuple(index for each in self.folds for index in each.bound)


def _shifted(node: Expr) -> Expr:
    if node.op != "div":
        return node
    above, below = (_powers(arg) for arg in node.args)
    if not above or not below or not any(_of_all(power) for power in below):
        return node
    if not all(any(_among(one, other) for other in below) for one in above):
        return node
    top = below[0].largest()
    for power in below[1:]:
        top = call("max", top, power.largest())
    return call("div", *(_lowered(arg, call("stop", top)) for arg in node.args))


def _of_all(power: _Power) -> bool:
    """Whether it has a largest one: it is folded under no condition."""
    return bool(power.folds) and all(each.args[0] == TRUE for each in power.folds)


def _among(one: _Power, other: _Power) -> bool:
    """Whether an exponent is one of those that the other goes over."""
    wanted = canonical(one.exponent)
    places = [[i for i in one.exponent.free if i.axis == b.axis] for b in other.bound]
    return any(
        _renamed(other.exponent, other.bound, chosen) == wanted
        and _conditions(one) == _conditions(other, chosen)
        for chosen in product(*places)
    )


def _renamed(expr: Expr, bound: tuple[Index, ...], chosen: tuple[Index, ...]) -> Expr:
    moves = {old: position(new) for old, new in zip(bound, chosen, strict=True) if old != new}
    return canonical(substitute(expr, moves))


def _conditions(power: _Power, chosen: tuple[Index, ...] = ()) -> set[Expr]:
    bound = power.bound if chosen else ()
    written = (each.args[0] for each in power.folds if each.args[0] != TRUE)
    return {_renamed(each, bound, chosen) for each in written}


def _powers(node: Expr, folds: tuple[Expr, ...] = ()) -> list[_Power] | None:
    """The exponents of a sum of terms that have one exponential each as a factor."""
    if node.op == "exp":
        return [_Power(node.args[0], folds)]
    if _is_sum(node):
        return _powers(node.args[1], (*folds, node))
    found = [_powers(arg, folds) for arg in node.args] if node.op in _LINEAR else []
    if node.op == "mul":
        carried = [one for one in found if one]
        return carried[0] if len(carried) == 1 else None
    if node.op == "div":
        return found[0] if not found[1] else None
    every = [one for one in found if one]
    if not every or len(every) < len(found):
        return None
    return [power for one in every for power in one]


_LINEAR = ("add", "sub", "neg", "mul", "div")


def _is_sum(node: Expr) -> bool:
    return node.op == "fold" and node.monoid == "sum"


def _lowered(node: Expr, top: Expr) -> Expr:
    """The same terms with every exponent relative to `top`."""
    if node.op == "exp":
        return call("exp", call("sub", node.args[0], top))
    if _is_sum(node):
        return node.with_args((node.args[0], _lowered(node.args[1], top)))
    return node.with_args(tuple(_lowered(a, top) if _powers(a) else a for a in node.args))


__all__ = ["shifted"]
