"""Prints scalar trees as C++: statements with named results.

The printed text is the same for scalars and for lanes: operators and functions are overloaded
(templates/cpu/reads.hpp), so what a value varies along is decided by the types of the names that it
uses. Shared subtrees, folds and long expressions become statements of their own; trees are walked
without recursion except for nested folds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_words import INSTEAD, TYPES, combined, identity, literal, unwrapped

from attnc.errors import InternalError, UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder

LONGEST = 72  # characters of an expression before it becomes a statement
INFIX = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=",
}  # fmt: skip
CALLS = {
    "min": "minimum", "max": "maximum", "abs": "absolute", "sign": "sign", "not": "negated",
    "and": "both", "or": "either",
}  # fmt: skip
FUNCTIONS = (
    "exp",
    "log",
    "sqrt",
    "sin",
    "cos",
    "asin",
    "acos",
    "atan",
    "tanh",
    "erf",
    "exp2",
    "log2",
    "log1p",
    "softplus",
    "sigmoid",
)
WHOLE = {"floor": "floor_int", "ceil": "ceil_int", "round": "round_int"}


@dataclass
class Printer:
    """Prints expressions, appending the statements that they need to `lines`."""

    scope: Scope
    lines: list[str] = field(default_factory=list)
    done: dict[bytes, str] = field(default_factory=dict)
    guards: dict[bytes, str] = field(default_factory=dict)

    def text(self, expr: Expr) -> str:
        """The text of an expression, a name or in brackets."""
        nodes = list(_unscoped(expr))
        uses = Counter(arg.digest for node in nodes for arg in _operands(node))
        for node in nodes:
            if node.digest in self.done:
                continue
            text = self._node(node)
            plain = text.replace("_", "a").replace(".", "a").isalnum() or node.op == "number"
            if not plain and node is not expr and (uses[node.digest] > 1 or len(text) > LONGEST):
                text = self.bind("t", text)
            self.done[node.digest] = text
        return self.done[expr.digest]

    def bind(self, wanted: str, text: str) -> str:
        """A statement `const auto name = text;`; gives back the name."""
        name = self.scope.names.fresh(wanted)
        self.lines.append(f"const auto {name} = {unwrapped(text)};")
        return name

    def length(self, axis: Axis) -> str:
        return self.scope.fields.length(axis)

    def start(self, axis: Axis) -> str:
        if axis.form == "range" and axis.low is not None:
            return self.text(axis.low)
        return self.scope.fields.shift(axis) if axis.shifted else "int64_t(0)"

    # --- Nodes ------------------------------------------------------------------------------------

    def _node(self, node: Expr) -> str:
        if node.op == "number":
            return literal(node)
        if node.op == "index":
            return self._position(node.attr)
        if node.op == "value":
            return self._value(str(node.attr))
        if node.op == "param":
            return self.scope.fields.number(str(node.attr), node.kind)
        if node.op in ("length", "start"):
            assert isinstance(node.attr, Axis)
            return self.length(node.attr) if node.op == "length" else self.start(node.attr)
        if node.op == "read":
            return self._read(node)
        if node.op == "fold":
            return self._fold(node)
        if node.op == "default":
            return self._default(node)
        if node.op == "random":
            return self._random(node)
        if node.op == "given":
            texts = (self._as(node.kind, self.done[arg.digest], arg) for arg in node.args)
            given = self.scope.fields.given(node.array)
            return f"given_or<{given}>({', '.join(map(unwrapped, texts))})"
        if node.op not in ("where", *INFIX, *CALLS, *FUNCTIONS, *WHOLE, *SINGLE):
            raise UnsupportedError(f"`{node.op}`", "cpu", INSTEAD)
        return self._pointwise(node, [self.done[arg.digest] for arg in node.args])

    def _position(self, index: object) -> str:
        assert isinstance(index, Index)
        if index not in self.scope.positions:
            raise InternalError(f"`{index}` has no position where the C++ printer meets it")
        return self.scope.positions[index]

    def _value(self, name: str) -> str:
        text = self.scope.values.get(name)
        if text is None:
            raise InternalError(f"`{name}` has no value where the C++ printer meets it")
        if "{row}" in text:
            return text.format(row=self.scope.rows[self.scope.widths[name]])
        return text

    def _pointwise(self, node: Expr, args: list[str]) -> str:
        kinds = [arg.kind for arg in node.args]
        if "complex" in (node.kind, *kinds):
            raise UnsupportedError("complex numbers", "cpu", INSTEAD)
        op = node.op
        if op == "where":
            branches = [
                self._as(node.kind, text, arg)
                for text, arg in zip(args[1:], node.args[1:], strict=True)
            ]
            return f"choose({unwrapped(args[0])}, {', '.join(map(unwrapped, branches))})"
        compares = op in ("eq", "ne", "lt", "le", "gt", "ge")
        if op not in ("to_int", *WHOLE) and (node.kind != "bool" or compares):
            wanted = node.kind if not compares else _widest(kinds)
            args = [self._as(wanted, text, arg) for text, arg in zip(args, node.args, strict=True)]
        if op in INFIX:
            return f"({args[0]} {INFIX[op]} {args[1]})"
        if op in CALLS or op in FUNCTIONS:
            return f"{CALLS.get(op, op)}({', '.join(map(unwrapped, args))})"
        if op in WHOLE:
            return args[0] if kinds[0] != "real" else f"{WHOLE[op]}({unwrapped(args[0])})"
        return self._single(node, op, args, kinds)

    def _single(self, node: Expr, op: str, args: list[str], kinds: Sequence[str]) -> str:
        if op == "div":
            return f"({args[0]} / {args[1]})"
        if op in ("floordiv", "mod"):
            if node.kind == "int":
                name = "floor_div" if op == "floordiv" else "floor_mod"
                return f"{name}({', '.join(map(unwrapped, args))})"
            whole = f"floor_real({args[0]} / {args[1]})"
            return whole if op == "floordiv" else f"({args[0]} - {whole} * {args[1]})"
        if op == "pow":
            return self._power(node, args)
        if op == "neg":
            return f"(-{args[0]})"
        if op == "to_int":
            return args[0] if kinds[0] == "int" else f"whole_number({unwrapped(args[0])})"
        if op == "im":
            return "Acc(0)"
        return args[0]  # to_real, re, conj, stop

    def _power(self, node: Expr, args: list[str]) -> str:
        exponent = node.args[1]
        if exponent.op in ("number", "to_real") or exponent.kind == "int":
            leaf = exponent.args[0] if exponent.op == "to_real" else exponent
            if leaf.op == "number" and not isinstance(leaf.attr, bool):
                value = float(leaf.attr)  # type: ignore[arg-type]
                if value == 0.5:
                    return f"sqrt({args[0]})"
                if value.is_integer() and 0 <= value <= 64:
                    return self._repeated(args[0], int(value), node.kind)
        if node.kind != "real":
            raise UnsupportedError("an integer to a power given at run time", "cpu", INSTEAD)
        return (
            f"power(spread({args[0]}), spread({args[1]}))"
            if self.scope.lanes
            else f"power({args[0]}, {args[1]})"
        )

    def _repeated(self, base: str, exponent: int, kind: str) -> str:
        """base ** exponent by squaring."""
        if exponent == 0:
            return f"{TYPES[kind]}(1)"
        base = self.bind("base", base) if exponent > 1 else base
        text = ""
        while exponent:
            if exponent & 1:
                text = f"({text} * {base})" if text else base
            exponent >>= 1
            if exponent:
                base = self.bind("base", f"{base} * {base}")
        return text

    def _as(self, kind: str, text: str, node: Expr) -> str:
        """An operand converted to the kind of the operation."""
        if kind == node.kind or kind == "bool":
            return text
        if node.op == "number":
            return f"{TYPES[kind]}({node.attr!r})"
        return f"{'number' if kind == 'real' else 'whole_number'}({unwrapped(text)})"

    # --- Reads ------------------------------------------------------------------------------------

    def _read(self, node: Expr) -> str:
        array, fields = node.array, self.scope.fields
        guards: list[str] = []
        offsets: list[str] = []
        for place, at in enumerate(node.args):
            axis, index = array.axes[place], at.attr
            known = isinstance(index, Index) and index in self.scope.rows
            if known and isinstance(index, Index) and index.axis.name == axis.name:
                row = self.scope.rows[index]
            else:
                row = self._checked_row(self.done[at.digest], at, axis, guards)
            offsets.append(f"times({row}, {fields.stride(array, place)})")
        guard = fields.given(array)
        for check in dict.fromkeys(guards):
            guard = check if guard == "true" else f"both({guard}, {check})"
        if guards:
            guard = self.bind("inside", guard)
        self.guards[node.digest] = guard
        return f"fetch({fields.pointer(array)}, {guard}, {' + '.join(offsets) or 'int64_t(0)'})"

    def _checked_row(self, text: str, at: Expr, axis: Axis, guards: list[str]) -> str:
        start = self.start(axis)
        row = text if start == "int64_t(0)" else f"{text} - {start}"
        if not row.replace("_", "a").isalnum():
            row = self.bind("row", row)
        guards += [f"({row} >= int64_t(0))", f"({row} < {self.length(axis)})"]
        return row

    def _default(self, node: Expr) -> str:
        """The expression where all its reads are inside, else the fallback."""
        inside = [
            self.guards[below.digest] for below in _unscoped(node.args[0]) if below.op == "read"
        ]
        guard = "true"
        for check in dict.fromkeys(inside):
            if check != "true":
                guard = check if guard == "true" else f"both({guard}, {check})"
        first, second = (self._as(node.kind, self.done[arg.digest], arg) for arg in node.args)
        return first if guard == "true" else f"choose({guard}, {first}, {second})"

    def _random(self, node: Expr) -> str:
        seed = self.scope.fields.add("seed", "int64_t", "seed", "call.seed")
        at = ", ".join(unwrapped(self.done[arg.digest]) for arg in node.args)
        drawn = self.scope.drawn
        array = drawn.array(node) if drawn is not None else None
        if array is not None:
            return f"random_held(held.{array}, at.lane, {seed}, int64_t({node.attr}), {at})"
        return f"random({seed}, int64_t({node.attr}), {at})"

    # --- Folds ------------------------------------------------------------------------------------

    def _fold(self, node: Expr) -> str:
        kind = "int" if node.kind == "bool" else node.kind
        if kind == "complex":
            raise UnsupportedError("complex numbers", "cpu", INSTEAD)
        total, unit = self.scope.names.fresh(node.monoid), identity(node.monoid, kind)
        begin = f"spread({unit})" if self.scope.lanes else unit
        chained = node.monoid == "sum" and kind == "real"  # sums of chains lose little
        chain = self.scope.names.fresh("chain") if chained else total
        self.lines += [f"auto {name} = {begin};" for name in dict.fromkeys((total, chain))]
        scope, heads = self.scope, []
        for index in node.bound:
            row = self.scope.names.fresh(index.name)
            heads.append(f"for (int64_t {row} = 0; {row} < {self.length(index.axis)}; {row}++) {{")
            start = self.start(index.axis)
            at = row if start == "int64_t(0)" else f"({row} + {start})"
            scope = scope.extended(positions={index: at}, rows={index: row})
        inner = Printer(scope, [], dict(self.done), dict(self.guards))
        condition, body = node.args
        everywhere = condition.op == "number" and condition.attr is True
        factors = body.args if body.op == "mul" and body.kind == "real" else ()
        if (
            node.monoid == "sum" and everywhere and factors
        ):  # a product of rows: rounded once a term
            texts = [inner._as("real", inner.text(factor), factor) for factor in factors]
            if self.scope.lanes:
                texts = [f"spread({unwrapped(text)})" for text in texts]
            inner.lines.append(f"{chain} = fused({', '.join(texts)}, {chain});")
        else:
            term = inner._as(kind, inner.text(body), body)
            if not everywhere:
                term = f"choose({unwrapped(inner.text(condition))}, {term}, {unit})"
            inner.lines.append(f"{chain} = {combined(node.monoid, chain, term)};")
        ended = f"{total} = {combined(node.monoid, total, chain)};"
        if chained:
            full = f"if ({row} % PART == PART - 1) {{"
            inner.lines += [full, f"    {ended}", f"    {chain} = {begin};", "}"]
        self.lines += heads + [f"    {line}" for line in inner.lines] + ["}" for _ in heads]
        if chained:
            self.lines.append(ended)
        return total


SINGLE = ("div", "floordiv", "mod", "pow", "neg", "to_int", "to_real", "re", "im", "conj", "stop")


def _widest(kinds: Sequence[str]) -> str:
    return "real" if "real" in kinds else "int" if "int" in kinds else "bool"


def _operands(node: Expr) -> tuple[Expr, ...]:
    """The operands that are printed outside the node's own scope."""
    return node.args[2:] if node.bound else node.args


def _unscoped(root: Expr) -> Iterator[Expr]:
    """Every node once, operands first, but not what a fold binds."""
    return postorder(root, operands=_operands)
