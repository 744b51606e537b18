"""Complex numbers as pairs of reals: Spec -> Spec.

    A = exp(dt * lam) * A + B      A_re, A_im, each from the real and imaginary parts of the others

does      gives every complex array two real ones, its parts; writes complex operations as real ones
          of the parts; a complex result is `out` and the emit `out_im`. Lines of an update set both
          parts from the old ones
needs     a checked Spec
does not  know what needs an angle (`log`, a power that is no written whole number), products over
          an axis, derivatives by complex states, complex blocks of a pipeline: UnsupportedError
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from attnc.build import prepare
from attnc.errors import UnsupportedError
from attnc.expressions.tree import (
    Array,
    Expr,
    call,
    fold,
    is_number,
    number,
    number_of,
    postorder,
    read,
)
from attnc.spec import Block, Definition, Input, Repeat, Spec, State
from attnc.stages import Pairs

Pair = tuple[Expr, Expr | None]  # the imaginary part None where it is 0
ZERO = number(0.0)
RESULT = "out"
MOST_FACTORS = 64


def pairs_of_reals(spec: Spec) -> tuple[Spec, Pairs] | None:
    """The Spec over parts, and which arrays are pairs; None where no number is complex."""
    parts = Parts(spec)
    if not parts.found and not any(n.kind == "complex" for n in postorder(*_exprs(spec))):
        return None
    root = parts.block(spec.root)
    own = (one for each in spec.definitions.values() for one in parts.definitions(each))
    whole = replace(
        spec,
        inputs=tuple(one for each in spec.inputs for one in _inputs(parts, each)),
        root=root,
        definitions={one.array.name: one for one in own},
        checks=tuple(replace(c, condition=parts.real(c.condition)) for c in spec.checks),
        read_checks=tuple(
            replace(c, condition=parts.real(c.condition), given=tuple(map(parts.real, c.given)))
            for c in spec.read_checks
        ),
    )
    names = {name: (re.name, im.name) for name, (re, im) in parts.found.items()}
    return whole, Pairs(spec, names)


def _exprs(spec: Spec) -> Iterable[Expr]:
    yield from (one.expr for one in spec.definitions.values())
    yield from (one.expr for one in spec.root.updates)


def _inputs(parts: Parts, one: Input) -> Iterable[Input]:
    pair = parts.found.get(one.name)
    if pair is None:
        yield one
        return
    default = one.default
    firsts = (None, None) if default is None else parts.both(default)
    for array, first in zip(pair, firsts, strict=True):
        yield Input(array, one.positional, first, one.span)


class Parts:
    """The arrays that are pairs, and expressions over them."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.found: dict[str, tuple[Array, Array]] = {}
        self.done: dict[bytes, Pair] = {}
        arrays = [one.array for one in spec.inputs]
        arrays += [one.array for one in spec.definitions.values()]
        arrays += [state.array for state in spec.root.states]
        arrays += [line.array for line in spec.root.updates]
        self.taken = {array.name for array in arrays} | {one.name for one in spec.numbers}
        self.taken |= {axis.name for axis in spec.axes}
        for array in arrays:
            if array.kind == "complex" and array.name not in self.found:
                self.found[array.name] = self._pair(array)

    def _pair(self, array: Array) -> tuple[Array, Array]:
        name = RESULT if array is self.spec.root.result.array else self.fresh(f"{array.name}_re")
        names = (name, self.fresh(f"{array.name}_im"))
        re, im = (Array(each, array.indices, "real", array.role, array.span) for each in names)
        return re, im

    def fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    # ------------------------------------------------------------------------------- the body

    def block(self, block: Block) -> Block:
        """The body over parts."""
        result, *imaginary = self.definitions(block.result)
        return replace(
            block,
            statements=tuple(one for each in block.statements for one in self._statements(each)),
            states=tuple(one for each in block.states for one in self._states(each)),
            updates=tuple(one for each in block.updates for one in self._lines(each)),
            result=result,
            emits=(*(one for each in block.emits for one in self.definitions(each)), *imaginary),
            offered=tuple(one for each in block.offered for one in self.definitions(each)),
        )

    def _statements(
        self, one: Definition | Repeat | Block
    ) -> Iterable[Definition | Repeat | Block]:
        if isinstance(one, Definition):
            yield from self.definitions(one)
        elif isinstance(one, Repeat):
            lines = tuple(line for each in one.statements for line in self.definitions(each))
            yield replace(one, count=self.real(one.count), statements=lines)
        elif one.result.array.kind == "complex" or any(
            s.array.kind == "complex" for s in one.states
        ):
            raise unknown(f"the complex block `{one.name}` of a pipeline", one.result.expr)
        else:
            yield self.block(one)

    def definitions(self, one: Definition) -> list[Definition]:
        """The equation, or those of its parts."""
        domain = self.real(one.domain)
        pair = self.found.get(one.array.name)
        if pair is None:
            return [Definition(one.array, self.real(one.expr), one.span, domain)]
        return [
            Definition(array, part, one.span, domain)
            for array, part in zip(pair, self.both(one.expr), strict=True)
        ]

    def _states(self, one: State) -> Iterable[State]:
        pair = self.found.get(one.array.name)
        if pair is None:
            yield State(one.array, self.real(one.initial), one.span)
            return
        for array, part in zip(pair, self.both(one.initial), strict=True):
            yield State(array, part, one.span)

    def _lines(self, one: Definition) -> Iterable[Definition]:
        """A line of an update: both parts from the old ones."""
        found = self.definitions(one)
        if len(found) == 1:
            yield found[0]
            return
        re, im = found
        name = self.fresh(f"{re.array.name}_next")
        after = Array(name, re.array.indices, "real", "local", re.array.span)
        yield replace(re, array=after)
        yield im
        here = tuple(Expr("index", (), index, "int") for index in after.indices)
        yield replace(re, expr=read(after, here))

    # ------------------------------------------------------------------------------ expressions

    def real(self, expr: Expr) -> Expr:
        """An expression that is no complex number."""
        return self._parts(expr)[0]

    def both(self, expr: Expr) -> tuple[Expr, Expr]:
        """The parts of an expression."""
        re, im = self._parts(expr)
        return re, ZERO if im is None else im

    def _parts(self, expr: Expr) -> Pair:
        if any(n.op == "default" and n.kind == "complex" for n in postorder(expr)):
            expr = prepare(expr)
        for node in postorder(expr, done=self.done):
            pairs = [self.done[arg.digest] for arg in node.args]
            self.done[node.digest] = self._node(node, pairs)
        return self.done[expr.digest]

    def _node(self, node: Expr, args: list[Pair]) -> Pair:
        plain = node.kind != "complex" and all(arg.kind != "complex" for arg in node.args)
        if plain and (node.op != "grad" or node.array.kind != "complex"):
            return node.with_args(tuple(re for re, _ in args)), None
        if node.op == "number":
            return number(number_of(node)), None
        if node.op == "read":
            at = tuple(re for re, _ in args)
            re, im = (read(array, at, node.span) for array in self.found[node.array.name])
            return re, im
        if node.op == "fold" and node.monoid == "sum":
            (condition, _), (re, turned) = args
            total = fold("sum", node.bound, re, condition, node.span)
            if turned is None:
                return total, None
            return total, fold("sum", node.bound, turned, condition, node.span)
        if node.op == "pow":
            return _power(node, args)
        rule = _RULES.get(node.op)
        if rule is None:
            raise unknown(_WORDS.get(node.op, f"`{node.op}` of a complex number"), node)
        return rule(*args)


_WORDS = {
    "log": "the logarithm of a complex number",
    "fold": "a product of complex numbers over an axis",
    "grad": "the derivative by a complex state",
    "pow": "a power of a complex number that is no written whole number",
}


def unknown(what: str, node: Expr) -> UnsupportedError:
    """What no kernel has, and where it is written."""
    place = f" ({node.span})" if node.span else ""
    return UnsupportedError(f"complex: {what}{place}", "kernel", ("eager", "numpy"))


# ------------------------------------------------------------------------------- rules by operation


def _each(op: str) -> Callable[..., Pair]:
    def rule(*args: Pair) -> Pair:
        re = call(op, *(one for one, _ in args))
        if all(im is None for _, im in args):
            return re, None
        return re, call(op, *(ZERO if im is None else im for _, im in args))

    return rule


def _sum(*args: Pair) -> Pair:
    total = args[0]
    for one in args[1:]:
        im = one[1] if total[1] is None else total[1] if one[1] is None else None
        if total[1] is not None and one[1] is not None:
            im = call("add", total[1], one[1])
        total = call("add", total[0], one[0]), im
    return total


def _difference(left: Pair, right: Pair) -> Pair:
    return _sum(left, _negative(right))


def _negative(one: Pair) -> Pair:
    return call("neg", one[0]), None if one[1] is None else call("neg", one[1])


def _product(*args: Pair) -> Pair:
    total = args[0]
    for right in args[1:]:
        total = _times(total, right)
    return total


def _times(left: Pair, right: Pair) -> Pair:
    (a, b), (c, d) = left, right
    re = call("mul", a, c)
    if b is None or d is None:
        im = call("mul", a, d) if d is not None else None if b is None else call("mul", b, c)
        return re, im
    im = call("add", call("mul", a, d), call("mul", b, c))
    return call("sub", re, call("mul", b, d)), im


def _size(one: Pair) -> Expr:
    """The larger of both sizes, a number to which nothing is differentiated: quotients by it do
    not overflow."""
    assert one[1] is not None
    return call("stop", call("max", call("abs", one[0]), call("abs", one[1])))


def _quotient(left: Pair, right: Pair) -> Pair:
    c, d = right
    if d is None:
        return call("div", left[0], c), None if left[1] is None else call("div", left[1], c)
    m = _size(right)
    re, im = call("div", c, m), call("div", d, m)
    total = call("mul", call("add", call("mul", re, re), call("mul", im, im)), m)
    a, b = _times(left, (re, call("neg", im)))
    assert b is not None
    return call("div", a, total), call("div", b, total)


def _absolute(one: Pair) -> Pair:
    a, b = one
    if b is None:
        return call("abs", a), None
    m = _size(one)
    x, y = call("div", a, m), call("div", b, m)
    long = call("mul", m, call("sqrt", call("add", call("mul", x, x), call("mul", y, y))))
    return call("where", call("eq", m, ZERO), ZERO, long), None


def _exponential(one: Pair) -> Pair:
    a, b = one
    size = call("exp", a)
    if b is None:
        return size, None
    return call("mul", size, call("cos", b)), call("mul", size, call("sin", b))


def _root(one: Pair) -> Pair:
    """The root whose real part is 0 or more."""
    a, b = one[0], ZERO if one[1] is None else one[1]
    size = call("add", _absolute((a, b))[0], call("abs", a))
    t = call("sqrt", call("mul", number(0.5), size))
    half = call("div", b, call("mul", number(2.0), t))
    right = call("ge", a, ZERO)
    up = call("where", call("lt", b, ZERO), call("neg", t), t)
    re = call("where", right, t, call("abs", half))
    im = call("where", right, half, up)
    none = call("eq", t, ZERO)
    return call("where", none, ZERO, re), call("where", none, ZERO, im)


def _hyperbolic(b: Expr) -> tuple[Expr, Expr]:
    """cosh, sinh."""
    up = call("add", call("exp", b), call("exp", call("neg", b)))
    cosh = call("mul", number(0.5), up)
    return cosh, call("mul", call("tanh", b), cosh)


def _sine(one: Pair) -> Pair:
    a, b = one
    if b is None:
        return call("sin", a), None
    cosh, sinh = _hyperbolic(b)
    return call("mul", call("sin", a), cosh), call("mul", call("cos", a), sinh)


def _cosine(one: Pair) -> Pair:
    a, b = one
    if b is None:
        return call("cos", a), None
    cosh, sinh = _hyperbolic(b)
    return call("mul", call("cos", a), cosh), call("neg", call("mul", call("sin", a), sinh))


def _choice(condition: Pair, yes: Pair, no: Pair) -> Pair:
    re = call("where", condition[0], yes[0], no[0])
    if yes[1] is None and no[1] is None:
        return re, None
    parts = (ZERO if im is None else im for im in (yes[1], no[1]))
    return re, call("where", condition[0], *parts)


def _same(op: str, joined: str) -> Callable[[Pair, Pair], Pair]:
    def rule(left: Pair, right: Pair) -> Pair:
        ims = (ZERO if im is None else im for im in (left[1], right[1]))
        return call(joined, call(op, left[0], right[0]), call(op, *ims)), None

    return rule


def _power(node: Expr, args: list[Pair]) -> Pair:
    """A whole power by products."""
    base, exponent = args[0], node.args[1]
    while exponent.op in ("to_real", "to_complex"):
        exponent = exponent.args[0]
    whole = is_number(exponent) and number_of(exponent) == int(number_of(exponent))
    if not whole or abs(number_of(exponent)) > MOST_FACTORS:
        raise unknown(_WORDS["pow"], node)
    count = int(number_of(exponent))
    total: Pair = (number(1.0), None)
    square, rest = base, abs(count)
    while rest:
        if rest % 2:
            total = square if total == (number(1.0), None) else _times(total, square)
        square = _times(square, square)
        rest //= 2
    return _quotient((number(1.0), None), total) if count < 0 else total


_RULES: dict[str, Callable[..., Pair]] = {
    "to_complex": lambda one: (_as_real(one[0]), None),
    "add": _sum,
    "sub": _difference,
    "neg": _negative,
    "mul": _product,
    "div": _quotient,
    "exp": _exponential,
    "sqrt": _root,
    "sin": _sine,
    "cos": _cosine,
    "abs": _absolute,
    "re": lambda one: (one[0], None),
    "im": lambda one: (ZERO if one[1] is None else one[1], None),
    "conj": lambda one: (one[0], None if one[1] is None else call("neg", one[1])),
    "stop": _each("stop"),
    "where": _choice,
    "eq": _same("eq", "and"),
    "ne": _same("ne", "or"),
}


def _as_real(expr: Expr) -> Expr:
    if expr.kind == "real":
        return expr
    return number(number_of(expr)) if is_number(expr) else call("to_real", expr)
