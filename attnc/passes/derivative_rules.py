"""Local derivatives: the one table that adjoints and tangents share.

    does      says for a node which operands it depends on smoothly, by which factor, and where
    needs     operations of two operands at most (see build)
    does not  chain: that is differentiate (users before operands) and tangent (operands first)

An `Edge` is a linear map: the change of a node is, over its edges, the sum over `bound` where
`conditions` hold of `factor` times the change of `child`. Where the guards do not hold the child is
not asked for, and nothing may be multiplied: its slope may be infinite there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, call, is_number, number, postorder
from attnc.passes.constants import LN_2
from attnc.passes.contexts import Opened, close, excluded, opened
from attnc.passes.factors import ONE, ZERO, Factors, addends_of, factors_of, total
from attnc.passes.signs import is_positive, never_negative
from attnc.passes.simplify import make

ELSEWHERE = ("eager", "numpy")


@dataclass(frozen=True, slots=True)
class Edge:
    """One operand of a node, and how the node changes with it.

    child       an operand, with the node's bound indices open in it
    factor      the slope, over the node's free indices and `bound`
    guards      truths that must hold for the child to be asked for
    bound       what a fold sums over, and `conditions` where
    folded      for a child without the bound indices: the sum of `factor` over them, as the forward
                already has it; right if no key at all makes no difference, or where one is seen
    seen        a truth to hold `folded` to, None if it is right without a key
    """

    child: Expr
    factor: Factors
    guards: tuple[Expr, ...] = ()
    bound: tuple[Index, ...] = ()
    conditions: tuple[Expr, ...] = ()
    folded: Factors | None = None
    seen: Expr | None = None


Edges = tuple[Edge, ...]


def refuse(feature: str) -> UnsupportedError:
    """What has no derivative pass yet, in the words of the feature list."""
    return UnsupportedError(f"{feature}: its derivative", "kernel", ELSEWHERE)


def edges_of(node: Expr, wide: frozenset[Axis]) -> Edges:
    """The edges of a node to operands that are real and no numbers. `wide`: the axes of rows and
    keys, whose folds row sums leave (see _row_factors)."""
    if node.op == "fold":
        found = _FOLDS[node.monoid](node, wide)
    elif node.op == "read":
        found = _read(node)
    elif node.op in _REFUSED:
        raise refuse(_REFUSED[node.op])
    else:
        found = slopes(node, node)
    return tuple(edge for edge in found if edge.child.kind == "real" and edge.child.op != "number")


_REFUSED = {"solve": "simplex_projection", "grad": "gradient_state"}


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
        return number(float(expr.attr))  # type: ignore[arg-type]
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
    "tanh": _by(lambda x, y: Factors((make("sub", ONE, make("mul", y, y)),))),
    "erf": _by(
        lambda x, y: Factors(
            (number(2 / math.sqrt(math.pi)), make("exp", make("neg", make("mul", x, x))))
        )
    ),
    "softplus": _by(lambda x, y: Factors((make("sigmoid", x),))),
    "sigmoid": _by(lambda x, y: Factors((y, make("sub", ONE, y)))),
}


# --- folds ----------------------------------------------------------------------------------------


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
    if _nonzero(divisor):
        return True
    stack = [divisor]
    while stack:
        node = stack.pop()
        if node.op == "read" and node.kind == "real":
            return False
        if not any(index.axis in wide for index in node.bound):
            stack.extend(node.args)
    return True


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


def _apart(
    body: Expr, bound: frozenset[Index], finished: Callable[[Expr], bool]
) -> tuple[Expr, Factors, tuple[Expr, ...]]:
    """rest, by, guards with body = rest * by where the guards hold and 0 elsewhere; `by` has the
    divisors, and the exponentials, that are finished."""
    if body.op == "where" and is_number(body.args[2], 0):
        return _choice(body.args[0], body.args[1], bound, finished)
    if body.op == "where" and is_number(body.args[1], 0):
        return _choice(make("not", body.args[0]), body.args[2], bound, finished)
    if body.op == "exp":
        row = [(a, m) for a, m in addends_of(body.args[0]) if finished(a)]
        if row:
            signed = [make("neg", a) if m else a for a, m in row]
            others = [(a, m) for a, m in addends_of(body.args[0]) if not finished(a)]
            rest = total(make("neg", a) if m else a for a, m in others)
            return make("exp", rest), Factors((make("exp", total(signed)),)), ()
        return body, Factors(), ()
    factors = factors_of(body)
    divisors, others_ = factors.split(lambda f: f in factors.below and finished(f))
    by = Factors((), divisors.below)
    kept = Factors(others_.above + divisors.above, others_.below, factors.negative)
    if body.op not in ("mul", "div", "neg"):
        return body, Factors(), ()
    whole = Factors((), kept.below, kept.negative)
    guards: tuple[Expr, ...] = ()
    for factor in kept.above:
        rest, more, held = _apart(factor, bound, finished)
        whole, by, guards = whole * factors_of(rest), by * more, (*guards, *held)
    return whole.expr, by, guards


def _choice(
    condition: Expr, body: Expr, bound: frozenset[Index], finished: Callable[[Expr], bool]
) -> tuple[Expr, Factors, tuple[Expr, ...]]:
    rest, by, guards = _apart(body, bound, finished)
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
    """The product of the others: a quotient where no factor can be 0."""
    inner = opened(node)
    if is_positive(inner.body):
        slope = Factors((node,), (inner.body,))
    else:
        slope = Factors((excluded(node, inner),))
    return (Edge(inner.body, slope, (), inner.bound, inner.conditions),)


_FOLDS: dict[str, Callable[[Expr, frozenset[Axis]], Edges]] = {
    "sum": _sum, "prod": _prod, "max": _most, "min": _most
}  # fmt: skip
