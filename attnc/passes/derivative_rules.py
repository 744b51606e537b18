"""Local derivatives: the one table that adjoints and tangents share.

does      says for a node which operands it depends on smoothly, by which factor, and where
needs     operations of two operands at most (see build)
does not  chain: that is differentiate (users before operands) and tangent (operands first)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, call, is_number, number, number_of, postorder, rewrite
from attnc.passes.constants import LN_2
from attnc.passes.contexts import close
from attnc.passes.derivative_folds import FOLDS
from attnc.passes.edges import Edge, Edges, refuse
from attnc.passes.factors import ONE, ZERO, Factors, factors_of, total
from attnc.passes.simplify import make


def edges_of(node: Expr, wide: frozenset[Axis]) -> Edges:
    """The edges of a node to operands that are real and no numbers. `wide`: the axes of rows and
    keys, whose folds row sums leave (see derivative_folds)."""
    if node.op == "fold":
        found = FOLDS[node.monoid](node, wide)
    elif node.op == "read":
        found = _read(node)
    elif node.op == "solve":
        found = _solve(node, wide)
    elif node.op == "grad":
        raise refuse("gradient_state")
    else:
        _check_real(node)
        found = slopes(node, node)
    return tuple(edge for edge in found if edge.child.kind == "real" and edge.child.op != "number")


def _check_real(node: Expr) -> None:
    """Refuses an operation on complex numbers that come from tensors."""
    for arg in node.args:
        if arg.kind == "complex" and any(
            below.op == "read" and below.kind in ("real", "complex") for below in postorder(arg)
        ):
            raise refuse("lti_ssm: complex numbers")


def _read(node: Expr) -> Edges:
    if node.array.role not in ("input", "output"):
        kind = "linear_state" if node.array.role == "state" else "column_norm"
        raise refuse(f"{kind}: {node.array.name}")
    return ()


# --- pointwise ------------------------------------------------------------------------------------


def slopes(node: Expr, result: Expr) -> Edges:
    """The edges of a pointwise node; `result` is what stands for its value in them."""
    rule = _SLOPES.get(node.op)
    return rule(node, result) if rule else ()


def _over(*below: Expr, above: tuple[Expr, ...] = (), negative: bool = False) -> Factors:
    return Factors(above, below, negative)


def _plain(place: int, negative: bool = False) -> Callable[[Expr, Expr], Edge]:
    return lambda node, _: Edge(node.args[place], Factors(negative=negative))


def _linear(*rules: Callable[[Expr, Expr], Edge]) -> Callable[[Expr, Expr], Edges]:
    return lambda node, result: tuple(rule(node, result) for rule in rules)


def _mul(node: Expr, _: Expr) -> Edges:
    left, right = node.args
    return (Edge(left, factors_of(right)), Edge(right, factors_of(left)))


def _div(node: Expr, result: Expr) -> Edges:
    """By its own result: d(a / b) = da / b - (a / b) db / b."""
    left, right = node.args
    by = factors_of(right).inverse()
    own = Factors((result,), (), True)
    return (Edge(left, by), Edge(right, own * by))


def _pow(node: Expr, result: Expr) -> Edges:
    base, power = node.args
    found: list[Edge] = []
    if not is_number(power, 0):
        less = make("sub", power, ONE) if power.kind == "real" else None
        less = less or make("sub", power, number(1))
        slope = Factors((_real(power),)) * factors_of(make("pow", base, less, kind="real"))
        guards = () if power.op == "number" else (make("ne", power, _zero(power)),)
        found.append(Edge(base, slope, guards))
    size = make("log", make("abs", base)) if base.kind == "real" else None
    if size is not None and power.kind == "real":
        found.append(Edge(power, Factors((result, size)), (make("ne", base, ZERO),)))
    elif power.kind == "real":
        found.append(Edge(power, Factors((result, make("log", _real(base))))))
    return tuple(found)


def _real(expr: Expr) -> Expr:
    if expr.kind != "int":
        return expr
    if expr.op == "number":
        return number(number_of(expr))
    return call("to_real", expr)


def _zero(like: Expr) -> Expr:
    return ZERO if like.kind == "real" else number(0)


def _extremum(node: Expr, _: Expr) -> Edges:
    """At a tie half for each, and nothing beside a written 0: PyTorch's maximum, and its relu."""
    strict, weak = ("gt", "ge") if node.op == "max" else ("lt", "le")
    left, right = node.args
    for one, other in ((left, right), (right, left)):
        if is_number(other, 0):
            return (Edge(one, Factors(), (make(strict, one, other),)),)
    share = Factors((make("where", make("eq", left, right), number(0.5), ONE),))
    return (
        Edge(left, share, (make(weak, left, right),)),
        Edge(right, share, (make(weak, right, left),)),
    )


def _where(node: Expr, _: Expr) -> Edges:
    """The branch that is taken. A quotient beside a constant is differentiated by the choice's own
    value, which equals it there: ratio(a, b) needs no second name."""
    condition, yes, no = node.args
    found: list[Edge] = []
    for branch, other, guard in ((yes, no, condition), (no, yes, make("not", condition))):
        if branch.op == "div" and other.op == "number":
            found.extend(replace(edge, guards=(guard,)) for edge in slopes(branch, node))
        else:
            found.append(Edge(branch, Factors(), (guard,)))
    return tuple(found)


def _by(slope: Callable[[Expr, Expr], Factors]) -> Callable[[Expr, Expr], Edges]:
    """The rule of a function of one operand: its slope from operand and value."""
    return lambda node, result: (Edge(node.args[0], slope(node.args[0], result)),)


def _cosine_of_asin(x: Expr) -> Expr:
    """sqrt(1 - x^2), by its factors: near 1 the difference of squares would lose digits."""
    return make("sqrt", make("mul", make("sub", ONE, x), make("add", ONE, x)))


_SLOPES: dict[str, Callable[[Expr, Expr], Edges]] = {
    "add": _linear(_plain(0), _plain(1)),
    "sub": _linear(_plain(0), _plain(1, negative=True)),
    "neg": _linear(_plain(0, negative=True)),
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "min": _extremum,
    "max": _extremum,
    "where": _where,
    "abs": _by(lambda x, y: Factors((make("sign", x),))),
    "exp": _by(lambda x, y: Factors((y,))),
    "exp2": _by(lambda x, y: Factors((number(LN_2), y))),
    "log": _by(lambda x, y: factors_of(x).inverse()),
    "log2": _by(lambda x, y: factors_of(x).inverse() * Factors((), (number(LN_2),))),
    "log1p": _by(lambda x, y: _over(make("add", ONE, x))),
    "sqrt": _by(lambda x, y: _over(y, above=(number(0.5),))),
    "sin": _by(lambda x, y: Factors((make("cos", x),))),
    "cos": _by(lambda x, y: Factors((make("sin", x),), (), True)),
    "asin": _by(lambda x, y: _over(_cosine_of_asin(x))),
    "acos": _by(lambda x, y: _over(_cosine_of_asin(x), negative=True)),
    "atan": _by(lambda x, y: _over(make("add", ONE, make("mul", x, x)))),
    "tanh": _by(lambda x, y: Factors((make("sub", ONE, make("mul", y, y)),))),
    "erf": _by(
        lambda x, y: Factors(
            (number(2 / math.sqrt(math.pi)), make("exp", make("neg", make("mul", x, x))))
        )
    ),
    "softplus": _by(lambda x, y: Factors((make("sigmoid", x),))),
    "sigmoid": _by(lambda x, y: Factors((y, make("sub", ONE, y)))),
}


# --- unknowns -------------------------------------------------------------------------------------


def _solve(node: Expr, wide: frozenset[Axis]) -> Edges:
    """The implicit function theorem: with f = left - right and f(x, u) = 0, du = -f_x dx / f_u.

    In the child the unknown is `held`: it moves in f_x by itself only. `released` lets it go again,
    so that the derivative can be differentiated."""
    left, right = node.args[2:]
    unknown = Expr("unknown", (), node.attr, "real")
    gap = make("sub", left, right)
    slope = put(slope_by(gap, unknown, wide), unknown, node)
    child = put(gap, unknown, held(node))
    return (Edge(child, Factors((), (slope,), True), (make("ne", slope, ZERO),)),)


def held(expr: Expr) -> Expr:
    """The expression with no derivative, until it is released."""
    return call("stop", call("stop", expr))


def released(root: Expr) -> Expr:
    """The tree with unknowns that differentiate again."""

    def change(node: Expr) -> Expr:
        inner = node.args[0] if node.op == "stop" else node
        return inner.args[0] if inner.op == "stop" and inner.args[0].op == "solve" else node

    return rewrite(root, change)


def put(root: Expr, unknown: Expr, value: Expr) -> Expr:
    return canonical(rewrite(root, lambda node: value if node == unknown else node))


def slope_by(root: Expr, leaf: Expr, wide: frozenset[Axis]) -> Expr:
    """The derivative of an expression by a leaf in it: forward mode for one direction."""
    found: dict[bytes, Expr] = {leaf.digest: ONE}
    stack = [(root, False)]
    edges: dict[bytes, Edges] = {}
    while stack:
        node, ready = stack.pop()
        if node.digest in found:
            continue
        if not ready:
            edges[node.digest] = edges_of(node, wide)
            stack.append((node, True))
            stack.extend((edge.child, False) for edge in edges[node.digest])
            continue
        moved = (_moved(edge, found[edge.child.digest]) for edge in edges[node.digest])
        found[node.digest] = total(part for part in moved if part != ZERO)
    return found[root.digest]


def _times(factor: Factors, change: Expr) -> Expr:
    """Their product, inside a choice of zero: beside what is not taken the factor may be
    infinite."""
    if change.op == "where" and is_number(change.args[2], 0):
        condition, taken, zero = change.args
        return make("where", condition, _times(factor, taken), zero)
    return (factor * factors_of(change)).expr


def _moved(edge: Edge, change: Expr) -> Expr:
    """What an operand's change does to the node."""
    if change == ZERO:
        return ZERO
    moved = _times(edge.factor, change)
    for guard in edge.guards:
        moved = make("where", guard, moved, ZERO)
    return close("sum", edge.bound, edge.conditions, moved) if edge.bound else moved
