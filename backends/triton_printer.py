"""Prints scalar trees as Triton: statements with named results over a tile.

A tile has at most two axes. A leaf that lives on one of them is printed with the other broadcast
(`x[:, None]`), so an expression is computed at the shape of what it depends on and grows only where
it must. Shared subtrees, folds and long expressions become statements of their own; trees are
walked without recursion except for nested folds.

Does not decide anything: which statements there are is the Schedule's, tile sizes the planner's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from attnc.backends.triton_folds import print_fold
from attnc.backends.triton_scope import Leaf, Scope
from attnc.backends.triton_texts import (
    INFIX,
    exact,
    is_single,
    literal,
    logic,
    operands,
    unscoped,
    unwrapped,
)

from attnc.errors import InternalError, UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr

LONGEST = 64  # characters of an expression before it becomes a statement

# Functions of reals that print as one call.
CALLS = {
    "exp": "tl.exp", "log": "tl.log", "sqrt": "tl.sqrt", "sin": "tl.sin", "cos": "tl.cos",
    "asin": "gpu_asin", "acos": "gpu_acos", "atan": "gpu_atan", "erf": "tl.erf", "exp2": "tl.exp2",
    "log2": "tl.log2", "tanh": "gpu_tanh",
    "log1p": "gpu_log1p", "softplus": "gpu_softplus", "sigmoid": "gpu_sigmoid",
}  # fmt: skip
TO_INTEGER = {"floor": "tl.floor", "ceil": "tl.ceil", "round": "gpu_round_even"}


@dataclass
class Printer:
    """Prints expressions over the tile axes `layout`; statements they need go to `lines`.

    `stem` begins the names of these statements."""

    scope: Scope
    layout: tuple[Index, ...]
    lines: list[str]
    stem: str = "t"
    done: dict[bytes, str] = field(default_factory=dict)

    def expand(self, leaf: Leaf) -> str:
        """The name, broadcast to the rank of the layout."""
        if len(self.layout) < 2 or len(leaf.over) != 1:
            return leaf.text
        return (
            f"{leaf.text}[:, None]" if leaf.over[0] == self.layout[0] else f"{leaf.text}[None, :]"
        )

    def text(self, expr: Expr) -> str:
        """The text of an expression, brackets around it where it is an operation."""
        uses = Counter(arg.digest for node in unscoped(expr) for arg in operands(node))
        for node in unscoped(expr):
            if node.digest in self.done:
                continue
            text = self._node(node)
            simple = text.replace("_", "a").isalnum() or node.op == "number"
            if not simple and (uses[node.digest] > 1 or len(text) > LONGEST) and node is not expr:
                text = self.bind(self.stem, text)
            self.done[node.digest] = text
        return self.done[expr.digest]

    def bind(self, wanted: str, text: str) -> str:
        """A statement `name = text`; gives back the name."""
        name = self.scope.names.fresh(wanted)
        self.lines.append(f"{name} = {unwrapped(text)}")
        return name

    # --- Nodes ------------------------------------------------------------------------------------

    def _node(self, node: Expr) -> str:
        known = self.scope.known.get(node.digest)
        if known is not None:
            return self.expand(known)
        if node.op == "index":
            return self.expand(self._lookup(self.scope.positions, node.attr))
        if node.op == "value":
            return self.expand(self._lookup(self.scope.values, node.attr))
        if node.op == "number":
            return literal(node)
        if node.op == "param":
            assert isinstance(node.attr, str)
            return self.scope.arguments.number(node.attr, node.kind)
        if node.op in ("length", "start"):
            assert isinstance(node.attr, Axis)
            return self.length(node.attr) if node.op == "length" else self.start(node.attr)
        if node.op == "read":
            return self._read_number(node)
        if node.op == "fold":
            return self._fold(node)
        if node.op == "default":
            return self._default(node)
        if node.op == "random":
            return self._random(node)
        if node.op == "given":
            return self._given(node)
        return self._pointwise(node, [self.done[arg.digest] for arg in node.args])

    def _lookup(self, table: dict[object, Leaf] | dict[Index, Leaf] | dict[str, Leaf], key: object):  # type: ignore[no-untyped-def]
        leaf = table.get(key)  # type: ignore[call-overload]
        if leaf is None:
            raise InternalError(f"`{key}` has no value where the Triton printer meets it")
        return leaf

    def length(self, axis: Axis) -> str:
        """The length of an axis: a constexpr for widths, else an argument."""
        if axis.name in self.scope.widths:
            return self.scope.arguments.width(axis.name)
        return self.scope.arguments.length(axis.name)

    def start(self, axis: Axis) -> str:
        """The first position of an axis."""
        if axis.form == "range" and axis.low is not None:
            return self.text(axis.low)
        if not axis.shifted:
            return "0"
        name = self.scope.arguments.start(axis.name)
        return self.scope.moved.get(name, name)

    def _pointwise(self, node: Expr, args: list[str]) -> str:
        op, kinds = node.op, [arg.kind for arg in node.args]
        if "complex" in (node.kind, *kinds):
            raise UnsupportedError("complex numbers", "triton", ("eager", "numpy"))
        if op == "where":
            return self._where(node, args)
        if op in ("floordiv", "mod") and node.kind == "int":
            return f"gpu_{'floor_div' if op == 'floordiv' else 'floor_mod'}({args[0]}, {args[1]})"
        if (node.kind == "real" and op not in ("to_real",)) or (
            op in ("eq", "ne", "lt", "le", "gt", "ge") and "real" in kinds
        ):
            args = [self.real(text, arg) for text, arg in zip(args, node.args, strict=True)]
        if op in ("and", "or"):
            return logic(op, node, args)
        if op in INFIX:
            return f"({args[0]} {INFIX[op]} {args[1]})"
        if op in CALLS:
            return f"{CALLS[op]}({unwrapped(exact(args[0], node.args[0]))})"
        if op in TO_INTEGER:
            if kinds[0] != "real":
                return args[0]
            return f"{TO_INTEGER[op]}({unwrapped(args[0])}).to(tl.int64)"
        return self._arithmetic(node, op, args)

    def _arithmetic(self, node: Expr, op: str, args: list[str]) -> str:
        real = node.kind == "real"
        if op == "div":
            return f"({args[0]} / {args[1]})"
        if op in ("floordiv", "mod"):
            whole = f"tl.floor({args[0]} / {args[1]})"
            return whole if op == "floordiv" else f"({args[0]} - {whole} * {args[1]})"
        if op in ("min", "max"):
            if real:
                operands = ", ".join(map(exact, args, node.args))
                return f"gpu_{'smaller' if op == 'min' else 'larger'}({operands})"
            return f"tl.{op}imum({args[0]}, {args[1]})"
        if op == "pow":
            return self._power(node, args)
        if op in ("neg", "not"):
            return f"(-{args[0]})" if op == "neg" else f"({args[0]} == 0)"
        if op == "abs":
            return f"tl.abs({args[0]})"
        if op == "sign":
            return f"gpu_sign({args[0]})"
        if op == "to_real":
            return self.real(args[0], node.args[0])
        if op in ("re", "conj", "stop") or (op == "to_int" and node.args[0].kind == "int"):
            return args[0]
        if op == "im":
            return "0.0"
        if op == "to_int":
            return f"{args[0]}.to(tl.int64)"
        raise UnsupportedError(f"`{op}`", "triton", ("eager", "numpy"))

    def real(self, text: str, node: Expr) -> str:
        """An operand as a number of the accumulation type."""
        if node.kind == "real":
            return text
        if node.op == "number":
            return repr(float(node.attr))  # type: ignore[arg-type]
        if node.op == "length" and getattr(node.attr, "name", "") in self.scope.widths:
            return f"tl.full([], {text}, ACC)"  # a constexpr would be float32 to tl's functions
        return f"{text}.to(ACC)"

    def _where(self, node: Expr, args: list[str]) -> str:
        condition, *branches = args
        if node.kind == "real":
            operands = zip(branches, node.args[1:], strict=True)
            branches = [self.real(text, arg) for text, arg in operands]
            if any(not is_single(arg) for arg in node.args[1:]):
                branches = list(map(exact, branches, node.args[1:]))
        if (
            all(b == literal(a) for b, a in zip(branches, node.args[1:], strict=True))
            and node.kind != "bool"
        ):
            kind = "ACC" if node.kind == "real" else "INDEX"
            branches = [f"tl.full([], {branch}, {kind})" for branch in branches]
        if node.kind == "bool":
            return f"(({condition} & {branches[0]}) | (({condition} == 0) & {branches[1]}))"
        return f"tl.where({unwrapped(condition)}, {branches[0]}, {branches[1]})"

    def _power(self, node: Expr, args: list[str]) -> str:
        exponent = node.args[1]
        if exponent.op == "number" and not isinstance(exponent.attr, bool):
            value = float(exponent.attr)  # type: ignore[arg-type]
            if value == 0.5:
                return f"tl.sqrt({args[0]})"
            if value.is_integer() and 1 <= value <= 16:
                return self._repeated(args[0], int(value))
        if node.kind != "real":
            raise UnsupportedError("an integer to a power given at run time", "triton", ("eager",))
        return f"gpu_power({', '.join(map(exact, args, node.args))})"

    def _repeated(self, base: str, exponent: int) -> str:
        """base ** exponent by squaring."""
        base = self.bind(self.stem, base) if exponent > 1 else base
        text = ""
        while exponent:
            if exponent & 1:
                text = f"({text} * {base})" if text else base
            exponent >>= 1
            if exponent:
                base = self.bind(self.stem, f"{base} * {base}")
        return text

    # --- Reads ------------------------------------------------------------------------------------

    def _read_number(self, node: Expr) -> str:
        """A read as a formula sees it: in the accumulation type, or int64, or a truth."""
        loaded = self.load(node)
        if node.array.kind == "bool":
            return f"({loaded} != 0)"
        return f"{loaded}.to({'tl.int64' if node.array.kind == 'int' else 'ACC'})"

    def load(self, node: Expr) -> str:
        """`tl.load(...)` of a read in its own dtype; outside the array nothing is loaded: 0."""
        array = node.array
        pointer, guards = self.address(array, node.args)
        mask = " & ".join(dict.fromkeys(guards))
        lanes = f", mask={mask}, other=0" if mask else ""
        return f"tl.load({pointer}{lanes})"

    def address(self, array: Array, at: tuple[Expr, ...]) -> tuple[str, list[str]]:
        """The pointer of an entry and the conditions under which it may be loaded. Scalars stand
        first, so that they are added to the pointer before it becomes a tile."""
        arguments = self.scope.arguments
        base = arguments.pointer(array)
        scalars, tiles, guards = [], [], []
        for place, position in enumerate(at):
            stride = arguments.stride(array, place)
            index = position.attr if position.op == "index" else None
            if isinstance(index, Index) and index in self.scope.steps:
                first, lane = self.scope.steps[index]
                scalars.append(f"{first} * {stride}")
                tiles.append(f"{self.expand(lane)} * {stride}")
                guards += self._inside(index)
            elif isinstance(index, Index) and index in self.scope.rows:
                row = self.scope.rows[index]
                (tiles if row.over else scalars).append(f"{self.expand(row)} * {stride}")
                guards += self._inside(index)
            else:
                text, checks, scalar = self.row(array.indices[place].axis, position)
                (scalars if scalar else tiles).append(f"{text} * {stride}")
                guards += checks
        pointer = base
        if scalars:
            pointer = f"{base} + ({' + '.join(scalars)})" if tiles else " + ".join([base, *scalars])
        return " + ".join([pointer, *tiles]), guards

    def _inside(self, index: Index) -> list[str]:
        return [self.expand(self.scope.inside[index])] if index in self.scope.inside else []

    def row(self, axis: Axis, position: Expr) -> tuple[str, list[str], bool]:
        """The row (int64) of a position on an axis, what it is inside by, and if it is a scalar."""
        known = self.scope.known.get(position.digest)
        if known is None and position.op == "index":
            known = self.scope.rows.get(position.attr)  # type: ignore[arg-type]
        if known is not None:
            return self.expand(known), [], not known.over
        text, start = self.text(position), self.start(axis)
        if position.op == "number":
            text = f"tl.full([], {text}, tl.int64)"
        row = text if start == "0" else f"{text} - {start}"  # a step of a loop is no tensor
        row = self.bind(f"{self.stem}_at", f"tl.cast({row}, tl.int64)")
        guards = [f"({row} >= 0)", f"({row} < {self.length(axis)})"]
        return row, guards, not self.over(position)

    def over(self, *exprs: Expr) -> tuple[Index, ...]:
        """The tile axes that expressions vary along, in the order of the layout."""
        found: set[Index] = set()
        stack, seen = list(exprs), set[bytes]()
        while stack:
            node = stack.pop()
            if node.digest in seen:
                continue
            seen.add(node.digest)
            leaf = self.scope.known.get(node.digest)
            if leaf is None and node.op == "index":
                leaf = self.scope.positions.get(node.attr)  # type: ignore[arg-type]
            if leaf is None and node.op == "value":
                leaf = self.scope.values.get(str(node.attr))
            if leaf is None:
                stack.extend(node.args)
            else:
                found |= set(leaf.over)
        return tuple(index for index in self.layout if index in found)

    def _default(self, node: Expr) -> str:
        """`e else d`: d where a read in e is outside its array."""
        body, fallback = node.args
        checks: list[str] = []
        for below in unscoped(body):
            if below.op == "read":
                for place, position in enumerate(below.args):
                    if position.op == "index" and position.attr in self.scope.rows:
                        continue
                    axis = below.array.indices[place].axis
                    checks += self.row(axis, position)[1]
        text, other = self.done[body.digest], self.done[fallback.digest]
        if not checks:
            return text
        if node.kind == "real":
            text, other = self.real(text, body), self.real(other, fallback)
        condition = self.bind(f"{self.stem}_in", " & ".join(dict.fromkeys(checks)))
        return f"tl.where({condition}, {text}, {other})"

    def _given(self, node: Expr) -> str:
        """A choice by whether the call has an input, when the kernel is compiled."""
        name = self.scope.names.fresh(self.stem)
        pointer = self.scope.arguments.pointer(node.array)
        for head, arg in zip((f"if {pointer} is not None:", "else:"), node.args, strict=True):
            inner = replace(self, lines=[], done=dict(self.done))
            text = exact(inner.text(arg), arg)
            if self.over(arg) != self.over(node):
                text = f"tl.broadcast_to({text}, {self.shape(node)})"
            self.lines += [head, *(f"    {x}" for one in inner.lines for x in one.split("\n"))]
            self.lines.append(f"    {name} = {unwrapped(text)}")
        return name

    def _fold(self, node: Expr) -> str:
        return print_fold(self, node)

    def shape(self, node: Expr) -> str:
        """The shape of a fold's result over this layout: 1 where it does not vary."""
        over, blocks = self.over(node), self.scope.arguments.blocks
        sizes = [blocks[index] if index in over else "1" for index in self.layout]
        return f"[{', '.join(sizes) if over else ''}]"

    def _random(self, node: Expr) -> str:
        seed = self.scope.arguments.add("seed", "i64", "seed", "")
        at = ", ".join(unwrapped(self.done[arg.digest]) for arg in node.args)
        return f"gpu_random({seed}, {node.attr}, {at}).to(ACC)"
