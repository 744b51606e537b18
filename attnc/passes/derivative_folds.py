"""The local derivatives of folds: a part of the table of derivative_rules.

does      the edges of sums, products, maxima and minima to their bodies; takes out of sums over
          rows and keys what is the same for all of them
needs     open indices (contexts.py)
does not  look below the body
"""

from __future__ import annotations

from collections.abc import Callable

from attnc.expressions.index import Axis, Index
from attnc.expressions.signs import is_positive, never_negative
from attnc.expressions.tree import Expr, call, is_number, number, postorder
from attnc.passes.adjoints import finite
from attnc.passes.contexts import Opened, close, excluded, opened
from attnc.passes.edges import Edge, Edges
from attnc.passes.factors import ZERO, Factors, addends_of, factors_of, total
from attnc.passes.simplify import make


def _sum(node: Expr, wide: frozenset[Axis]) -> Edges:
    inner = opened(node)
    rows = _row_factors(node, inner, wide)
    if rows is None:
        return (Edge(inner.body, Factors(), (), inner.bound, inner.conditions),)
    return rows


def _row_factors(node: Expr, inner: Opened, wide: frozenset[Axis]) -> Edges | None:
    """The edges of a sum over rows or keys whose body has factors that are such sums themselves, as
    exp(s) / Z has: d sum_j (x_ij / Z_i) = (sum_j dx_ij) / Z_i - (sum_j x_ij / Z_i) dZ_i / Z_i.

    So the adjoint of a denominator is a product with the finished sum: for softmax
    sum_j P_ij <g_i, v_j> = <g_i, out_i> comes out without another walk over the keys.
    """
    if not any(index.axis in wide for index in inner.bound):
        return None
    bound = frozenset(inner.bound)

    def finished(expr: Expr) -> bool:
        folds = (n for n in postorder(expr) if n.op == "fold" and not expr.free & bound)
        return any(index.axis in wide for fold in folds for index in fold.bound)

    rest, by, guards = _apart(inner.body, bound, finished)
    if not by.above and not by.below:
        return None
    found = [Edge(rest, by, guards, inner.bound, inner.conditions)]
    for below in by.below:
        seen = None if _harmless(below, wide) else inner.seen
        found.append(_finished_edge(node, inner, below, guards, True, seen))
    for exponential in by.above:
        found.append(_finished_edge(node, inner, exponential.args[0], guards, False, None))
    return tuple(found)


def _harmless(divisor: Expr, wide: frozenset[Axis]) -> bool:
    """Whether the adjoint of a divisor does no harm where it is 0 because there is no key: it is
    never 0, or all that it reads is read under folds over nothing."""
    return _nonzero(divisor) or read_under(divisor, wide)


def read_under(expr: Expr, wide: frozenset[Axis]) -> bool:
    """Whether all that an expression reads of reals is read under folds over rows or keys."""
    stack = [expr]
    while stack:
        node = stack.pop()
        if node.op == "read" and node.kind == "real":
            return False
        if not any(index.axis in wide for index in node.bound):
            stack.extend(node.args)
    return True


def infinite_without_keys(factor: Factors, wide: frozenset[Axis]) -> bool:
    """Whether a slope may be infinite because folds over rows or keys in it are over nothing."""
    above = (each for each in factor.above if not finite(each))
    below = (each for each in factor.below if not _nonzero(each))
    return any(
        node.op == "fold" and any(index.axis in wide for index in node.bound)
        for node in postorder(*above, *below)
    )


def _nonzero(expr: Expr) -> bool:
    """Whether a number is above 0: exponentials are, as reals (signs.py lets them round to 0)."""
    if expr.op in ("exp", "exp2") or is_positive(expr):
        return True
    if expr.op != "add":
        return False
    left, right = expr.args
    return (_nonzero(left) and never_negative(right)) or (never_negative(left) and _nonzero(right))


def _finished_edge(
    node: Expr,
    inner: Opened,
    child: Expr,
    guards: tuple[Expr, ...],
    divides: bool,
    seen: Expr | None,
) -> Edge:
    """The edge to a divisor, or to the exponent of a factor, that is the same for all keys."""
    each, whole = (
        Factors((value,), (child,) if divides else (), divides) for value in (inner.body, node)
    )
    return Edge(child, each, guards, inner.bound, inner.conditions, whole, seen)


Apart = tuple[Expr, Factors, tuple[Expr, ...]]
DEEPEST = 40  # choices within products within choices; below that nothing leaves


def _apart(
    body: Expr, bound: frozenset[Index], finished: Callable[[Expr], bool], depth: int = DEEPEST
) -> Apart:
    """rest, by, guards with body = rest * by where the guards hold and 0 elsewhere; `by` has the
    divisors, and the exponentials, that are finished."""
    if body.op == "where" and depth:
        for yes, branch in ((True, 1), (False, 2)):
            if is_number(body.args[3 - branch], 0):
                test = body.args[0] if yes else make("not", body.args[0])
                inner = _apart(body.args[branch], bound, finished, depth - 1)
                return _choice(test, inner, bound)
    if body.op == "exp":
        return _apart_exponents(body, finished)
    if body.op not in ("mul", "div", "neg") or not depth:
        return body, Factors(), ()
    factors = factors_of(body)
    by = Factors((), tuple(f for f in factors.below if finished(f)))
    below = tuple(f for f in factors.below if not finished(f))
    whole = Factors((), below, factors.negative)
    guards: tuple[Expr, ...] = ()
    for factor in factors.above:
        rest, more, held = _apart(factor, bound, finished, depth - 1)
        whole, by, guards = whole * factors_of(rest), by * more, (*guards, *held)
    return whole.expr, by, guards


def _apart_exponents(body: Expr, finished: Callable[[Expr], bool]) -> Apart:
    """exp(a + b) with a finished: exp(b) times exp(a)."""
    row: list[Expr] = []
    rest: list[Expr] = []
    for addend, minus in addends_of(body.args[0]):
        (row if finished(addend) else rest).append(make("neg", addend) if minus else addend)
    if not row:
        return body, Factors(), ()
    return make("exp", total(rest)), _powers(row), ()


def _powers(addends: list[Expr]) -> Factors:
    """exp(a - log b + ...), b never negative, as exp(a + ...) / b: where b is 0, of a row without
    keys, it is divided by for pairs alone."""
    logs = [a.args[0].args[0] for a in addends if _is_less_log(a)]
    rest = [a for a in addends if not _is_less_log(a)]
    return Factors((make("exp", total(rest)),) if rest else (), tuple(logs))


def _is_less_log(addend: Expr) -> bool:
    if addend.op != "neg" or addend.args[0].op != "log":
        return False
    return never_negative(addend.args[0].args[0])


def _choice(condition: Expr, inner: Apart, bound: frozenset[Index]) -> Apart:
    rest, by, guards = inner
    if condition.free & bound:
        return make("where", condition, rest, ZERO), by, guards
    return rest, by, (condition, *guards)


def _most(node: Expr, _: frozenset[Axis]) -> Edges:
    """The entries that are the extremum, evenly among ties, as torch.amax does."""
    inner = opened(node)
    hit = make("eq", inner.body, node)
    conditions = (*inner.conditions, hit)
    ties = call("to_real", close("sum", inner.bound, conditions, number(1)))
    return (Edge(inner.body, Factors((), (ties,)), (), inner.bound, conditions),)


def _prod(node: Expr, _: frozenset[Axis]) -> Edges:
    """The product of the others: a quotient where no factor can be 0. Of exponentials and sigmoids,
    which may round to 0, the product times the slope of their logarithm."""
    inner = opened(node)
    if inner.body.op in ("exp", "sigmoid"):
        child = inner.body.args[0]
        slope = Factors((node,))
        if inner.body.op == "sigmoid":
            slope = slope * factors_of(make("sigmoid", make("neg", child)))
        return (Edge(child, slope, (), inner.bound, inner.conditions),)
    if is_positive(inner.body):
        slope = Factors((node,), (inner.body,))
    else:
        slope = Factors((excluded(node, inner),))
    return (Edge(inner.body, slope, (), inner.bound, inner.conditions),)


FOLDS: dict[str, Callable[[Expr, frozenset[Axis]], Edges]] = {
    "sum": _sum, "prod": _prod, "max": _most, "min": _most
}  # fmt: skip
