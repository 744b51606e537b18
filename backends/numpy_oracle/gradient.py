"""grad(e, S): the symbolic derivative of a number by a state or local, as an expression.

A derivative is a sum of terms: a coefficient that counts where certain expressions meet the
positions asked for (a Kronecker delta for each axis of S). A sum over an index that a delta fixes
is done by substitution, so that the derivative of a dot product is its other factor, not a sum over
deltas. Locals stand for their equations; states are variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.backends.numpy_oracle.dependence import Sources

from attnc.errors import UnsupportedError
from attnc.expressions import tree
from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, call, number, postorder, rewrite, substitute
from attnc.spec import Definition

ZERO = number(0.0)
ONE = number(1.0)


@dataclass(frozen=True)
class Term:
    """`coefficient` where each of `at` equals the position of its axis (None: it does)."""

    coefficient: Expr
    at: tuple[Expr | None, ...]

    def times(self, factor: Expr) -> Term:
        return replace(self, coefficient=call("mul", self.coefficient, factor))


def derivative(node: Expr, sources: Sources) -> Expr:
    """The derivative of a `grad` node's expression at the positions it asks for."""
    variable, positions = node.array, node.args[1:]
    whole = _expanded(node, sources)
    terms: dict[bytes, list[Term]] = {}
    for each in postorder(whole):
        terms[each.digest] = _terms(each, variable, positions, terms)
    total = ZERO
    for term in terms[whole.digest]:
        meets = _meets(term.at, positions)
        total = call("add", total, _only_if(meets, term.coefficient))
    return total


def _expanded(node: Expr, sources: Sources) -> Expr:
    """The expression with locals and equations that depend on the variable written out."""
    variable = node.array.name

    def written(each: Expr) -> Expr:
        if each.op != "read" or each.array.name == variable or each.array.name in sources.states:
            return each
        if variable not in sources.names(each):
            return each
        found = _equation(each.array.name, sources)
        exchange = dict(zip(found.array.indices, each.args, strict=True))
        return substitute(found.expr, exchange)

    whole = node.args[0]
    while True:
        longer = rewrite(whole, written)
        if longer == whole:
            return whole
        whole = longer


def _equation(name: str, sources: Sources) -> Definition:
    if name in sources.definitions and name not in sources.repeats:
        return sources.definitions[name]
    lines = sources.lines.get(name, ())
    if len(lines) == 1:
        return lines[0]
    raise UnsupportedError(f"grad through `{name}`, which is assigned more than once", "numpy")


def _terms(
    node: Expr,
    variable: tree.Array,
    positions: tuple[Expr, ...],
    terms: dict[bytes, list[Term]],
) -> list[Term]:
    if node.op == "read":
        return [Term(ONE, node.args)] if node.array.name == variable.name else []
    inner = [terms[arg.digest] for arg in node.args]
    if not any(inner) or node.kind in ("bool", "int") or node.op == "stop":
        return []
    if node.op == "fold" and node.monoid == "sum":
        return [_summed(node, term, variable, positions) for term in inner[1]]
    if node.op == "default":
        raise UnsupportedError("grad through `else`", "numpy")
    if node.op not in RULES:
        raise UnsupportedError(f"grad through `{node.op}`", "numpy")
    found: list[Term] = []
    for slopes, own in zip(RULES[node.op](node, *node.args), inner, strict=True):
        found += [slopes(term) for term in own]
    return found


def _summed(node: Expr, term: Term, variable: tree.Array, positions: tuple[Expr, ...]) -> Term:
    """A term of a sum's body, summed: an index that a delta fixes is replaced, the rest stays."""
    rest = list(node.bound)
    fixed: dict[Index, Expr] = {}
    at: list[Expr | None] = list(term.at)
    condition = node.args[0]
    for place, each in enumerate(term.at):
        if each is None or each.op != "index" or each.attr not in rest:
            continue
        assert isinstance(each.attr, Index)
        fixed[each.attr] = positions[place]
        rest.remove(each.attr)
        at[place] = None
        if each.attr.axis.name != variable.indices[place].axis.name:
            condition = _and(condition, _within(positions[place], each.attr))
    condition = substitute(condition, fixed)
    coefficient = substitute(term.coefficient, fixed)
    at = [None if each is None else substitute(each, fixed) for each in at]
    left: list[Expr | None] = []
    for place, each in enumerate(at):
        if each is not None and each.free & frozenset(rest):
            condition = _and(condition, call("eq", each, positions[place]))
            each = None
        left.append(each)
    if rest:
        return Term(tree.fold("sum", rest, coefficient, condition), tuple(left))
    return Term(_only_if(condition, coefficient), tuple(left))


def _within(position: Expr, index: Index) -> Expr:
    first = tree.start(index.axis)
    end = call("add", first, tree.length(index.axis))
    return _and(call("le", first, position), call("lt", position, end))


def _meets(at: tuple[Expr | None, ...], positions: tuple[Expr, ...]) -> Expr:
    condition = TRUE
    for each, position in zip(at, positions, strict=True):
        if each is not None and each != position:
            condition = _and(condition, call("eq", each, position))
    return condition


def _and(a: Expr, b: Expr) -> Expr:
    return b if a == TRUE else a if b == TRUE else call("and", a, b)


def _only_if(condition: Expr, value: Expr) -> Expr:
    return value if condition == TRUE else call("where", condition, value, ZERO)


# the rules, one slope an operand --------------------------------------------------------

Slope = Callable[[Term], Term]


def _by(factor: Expr) -> Slope:
    return lambda term: term.times(factor)


def _none(term: Term) -> Term:
    return replace(term, coefficient=ZERO)


def _same(term: Term) -> Term:
    return term


def _unary(slope: Callable[[Expr, Expr], Expr]) -> Callable[..., list[Slope]]:
    return lambda node, x: [_by(slope(node, x))]


def _div(node: Expr, a: Expr, b: Expr) -> list[Slope]:
    return [_by(call("div", ONE, b)), _by(call("neg", call("div", node, b)))]


def _pow(node: Expr, a: Expr, b: Expr) -> list[Slope]:
    lower = call("pow", a, call("sub", b, number(1)))
    return [_by(call("mul", b, lower)), _by(call("mul", node, call("log", a)))]


def _where(node: Expr, condition: Expr, a: Expr, b: Expr) -> list[Slope]:
    def when(term: Term) -> Term:
        return replace(term, coefficient=call("where", condition, term.coefficient, ZERO))

    def otherwise(term: Term) -> Term:
        return replace(term, coefficient=call("where", condition, ZERO, term.coefficient))

    return [_none, when, otherwise]


def _extreme(wins: str) -> Callable[..., list[Slope]]:
    """max and min: at a tie half each, as torch.maximum; against a written 0 nothing, as ReLU."""

    def rule(node: Expr, a: Expr, b: Expr) -> list[Slope]:
        tie = ZERO if tree.is_number(a, 0) or tree.is_number(b, 0) else number(0.5)
        equal = call("eq", a, b)

        def share(first: Expr, second: Expr) -> Slope:
            won = call("where", call(wins, first, second), ONE, ZERO)
            return _by(call("where", equal, tie, won))

        return [share(a, b), share(b, a)]

    return rule


def _leg(x: Expr) -> Expr:
    """The other leg of a right triangle with the leg x and the hypotenuse 1."""
    return call("sqrt", call("sub", ONE, call("mul", x, x)))


def _gauss(node: Expr, x: Expr) -> Expr:
    bell = call("exp", call("neg", call("mul", x, x)))
    return call("mul", number(2 / math.sqrt(math.pi)), bell)


RULES: dict[str, Callable[..., list[Slope]]] = {
    "add": lambda node, a, b: [_same, _same],
    "sub": lambda node, a, b: [_same, _by(number(-1.0))],
    "neg": lambda node, a: [_by(number(-1.0))],
    "to_real": lambda node, a: [_same],
    "mul": lambda node, a, b: [_by(b), _by(a)],
    "div": _div,
    "pow": _pow,
    "where": _where,
    "max": _extreme("gt"),
    "min": _extreme("lt"),
    "abs": _unary(lambda node, x: call("sign", x)),
    "exp": _unary(lambda node, x: node),
    "log": _unary(lambda node, x: call("div", ONE, x)),
    "sqrt": _unary(lambda node, x: call("div", number(0.5), node)),
    "sin": _unary(lambda node, x: call("cos", x)),
    "cos": _unary(lambda node, x: call("neg", call("sin", x))),
    "asin": _unary(lambda node, x: call("div", ONE, _leg(x))),
    "acos": _unary(lambda node, x: call("neg", call("div", ONE, _leg(x)))),
    "atan": _unary(lambda node, x: call("div", ONE, call("add", ONE, call("mul", x, x)))),
    "tanh": _unary(lambda node, x: call("sub", ONE, call("mul", node, node))),
    "erf": _unary(_gauss),
}
