"""Complex numbers as pairs of reals: Spec -> Spec.

    A = exp(dt * lam) * A + B      A_re, A_im, each from the real and imaginary parts of the others

does      gives every complex array two real ones, its parts; writes complex operations as real ones
          of the parts; a complex result is `out` and the emit `out_im`. Lines of an update and of a
          repeat set both parts from the old ones
needs     a checked Spec
does not  know what needs an angle (`log`, a power that is no written whole number), products over
          an axis, derivatives by complex states, complex blocks of a pipeline: UnsupportedError
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attnc.expressions.naming import fresh_name
from attnc.expressions.tree import (
    Array,
    Expr,
    Role,
    fold,
    number,
    number_of,
    position,
    postorder,
    read,
)
from attnc.fallbacks import written_out
from attnc.passes.complex_rules import RULES, WORDS, ZERO, Pair, power, unknown
from attnc.spec import Block, Definition, Input, Repeat, Spec, State
from attnc.stages import Pairs

RESULT = "out"


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


def _repeated(block: Block) -> Iterable[Definition]:
    """The lines of the repeats of a body and of its blocks."""
    for one in block.statements:
        if isinstance(one, Repeat):
            yield from one.statements
        elif isinstance(one, Block):
            yield from _repeated(one)


def _whole(array: Array) -> Expr:
    """An array at its own indices."""
    return read(array, tuple(map(position, array.indices)))


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
        arrays += [line.array for line in (*spec.root.updates, *_repeated(spec.root))]
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
        return fresh_name(name, self.taken)

    # ------------------------------------------------------------------------------- the body

    def block(self, block: Block) -> Block:
        """The body over parts."""
        result, *imaginary = self.definitions(block.result)
        return replace(
            block,
            statements=tuple(one for each in block.statements for one in self._statements(each)),
            states=tuple(one for each in block.states for one in self._states(each)),
            updates=tuple(one for each in block.updates for one in self._lines(each, "local")),
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
            yield from self._repeat(one)
        elif one.result.array.kind == "complex" or any(
            s.array.kind == "complex" for s in one.states
        ):
            raise unknown(f"the complex block `{one.name}` of a pipeline", one.result.expr)
        else:
            yield self.block(one)

    def _repeat(self, one: Repeat) -> Iterable[Definition | Repeat]:
        lines: list[Definition] = []
        for line in one.statements:
            found = self._lines(line, "definition")
            if len(found) > 1:  # what is kept back has a value before the rounds, as all have
                yield replace(found[0], expr=_whole(found[-1].array))
            lines += found
        yield replace(one, count=self.real(one.count), statements=tuple(lines))

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

    def _lines(self, one: Definition, role: Role) -> list[Definition]:
        """A line of an update or a repeat: both parts from the old ones, so the real one is kept
        back (in an array of this role)."""
        found = self.definitions(one)
        if len(found) == 1:
            return found
        re, im = found
        name = self.fresh(f"{re.array.name}_next")
        after = Array(name, re.array.indices, "real", role, re.array.span)
        return [replace(re, array=after), im, replace(re, expr=_whole(after))]

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
            expr = written_out(expr)
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
            return power(node, args)
        rule = RULES.get(node.op)
        if rule is None:
            raise unknown(WORDS.get(node.op, f"`{node.op}` of a complex number"), node)
        return rule(*args)
