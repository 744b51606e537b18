"""Prints expressions as torch code: every value is a tensor over named indices, laid out in one
order of dimensions for a definition, so that values meet by broadcasting."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from attnc.backends.eager.titles import title

from attnc.errors import InternalError, UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.softplus import softplus_argument
from attnc.expressions.tree import Expr

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "pow": "**", "eq": "==", "ne": "!=", "lt": "<",
    "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|",
}  # fmt: skip
CALLS = {
    "exp": "exp({})", "log": "log({})", "sqrt": "sqrt({})",
    "softplus": 'function("softplus", {})', "sin": 'function("sin", {})',
    "cos": 'function("cos", {})', "asin": 'function("asin", {})', "acos": 'function("acos", {})',
    "atan": 'function("atan", {})', "tanh": 'function("tanh", {})', "erf": 'function("erf", {})',
    "floor": 'rounded("floor", {})', "ceil": 'rounded("ceil", {})', "stop": "stop({})",
    "round": 'rounded("round", {})', "to_int": 'rounded("trunc", {})', "abs": "absolute({})",
    "sign": "sign({})", "max": "maximum({}, {})", "min": "minimum({}, {})", "re": 'part("re", {})',
    "im": 'part("im", {})', "conj": 'part("conj", {})', "to_complex": "to_complex({})",
}  # fmt: skip
# Names that the printed function uses for itself.
RESERVED = frozenset((
    "abs", "absolute", "all_keys", "among_largest", "any", "as_real", "at", "bagged", "batched",
    "bool", "composed", "constant", "contract", "convolved", "correlated", "dict",
    "differentiated", "divided_down", "eager", "emit", "exp", "finished", "first_entry",
    "first_extreme", "float", "function", "grouped", "in_bands", "in_segments", "int",
    "key_length", "key_offset", "largest", "log", "max", "maximum", "measured", "min", "minimum",
    "narrow", "offset", "out", "over", "over_batch", "padded", "part", "per_batch", "plain",
    "pooled", "product", "random", "range", "ranked", "Real", "real", "remainder", "results",
    "root", "rounded", "running", "seed", "shifts", "sign", "slope_by", "smallest", "spread",
    "sqrt", "stacked", "staged", "stages", "stop", "taken", "tensors", "to_complex", "torch",
    "total", "transformed", "tuple", "where", "wide",
))  # fmt: skip
LONG = 60  # characters of an expression that is worth a line of its own


@dataclass(frozen=True)
class Text:
    """Code of a value, the indices of its dimensions in order, and whether an operator may bind
    tighter than the code itself."""

    code: str
    dims: tuple[Index, ...] = ()
    loose: bool = False

    @property
    def atom(self) -> str:
        return f"({self.code})" if self.loose else self.code


@dataclass
class Names:
    """Identifiers of the printed function: nothing of the text of a spec but letters, digits and
    underscores, no keyword, none that the function uses itself."""

    taken: set[str] = field(default_factory=lambda: set(RESERVED))
    counts: dict[str, int] = field(default_factory=dict)

    def fresh(self, wanted: str) -> str:
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in wanted)
        name = f"x{name}" if not name or name[0].isdigit() or name.startswith("__") else name
        while name in self.taken or keyword.iskeyword(name) or keyword.issoftkeyword(name):
            name += "_"
        self.taken.add(name)
        return name

    def numbered(self, word: str) -> str:
        """A word, with a number from its second use on."""
        self.counts[word] = count = self.counts.get(word, 0) + 1
        return self.fresh(word if count == 1 else f"{word}{count}")


class Printer:
    """Prints expressions into lines; what lengths, positions and arrays are called is given.

    lengths, starts, positions   names by axis name
    arrays                       names by array name
    numbers                      names by number name
    fixed                        positions that a loop binds, by index
    rowless                      arrays that hold one row for now: the place of the row's dimension
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.lines: list[str] = []
        self.depth = 1
        self.lengths: dict[str, str] = {}
        self.starts: dict[str, str] = {}
        self.positions: dict[str, str] = {}
        self.arrays: dict[str, str] = {}
        self.numbers: dict[str, str] = {}
        self.unknowns: dict[str, Text] = {}
        self.fixed: dict[Index, str] = {}
        self.rowless: dict[str, int] = {}
        self.order: dict[Index, int] = {}
        self.scopes: list[dict[bytes, Text]] = []
        self.product_type = "narrow"

    def line(self, code: str = "") -> None:
        self.lines.append(f"{'    ' * self.depth}{code}".rstrip())

    # --- layout -------------------------------------------------------------------------------

    def sorted(self, dims: Iterable[Index]) -> tuple[Index, ...]:
        """Dimensions in the one order of this definition."""
        found = dict.fromkeys(dims)
        for index in found:
            self.order.setdefault(index, len(self.order))
        return tuple(sorted(found, key=self.order.__getitem__))

    def union(self, *texts: Text) -> tuple[Index, ...]:
        return self.sorted(index for text in texts for index in text.dims)

    def fit(self, text: Text, dims: tuple[Index, ...]) -> str:
        """Code that broadcasts over `dims`, which hold the text's own in the same order."""
        held = [index in text.dims for index in dims]
        first = held.index(True) if True in held else len(held)
        if all(held[first:]):
            return text.code
        return f"{text.atom}[{', '.join(':' if each else 'None' for each in held[first:])}]"

    def spread(self, text: Text, dims: Sequence[Index]) -> str:
        """Code of the full size of `dims`."""
        dims = tuple(dims)
        if text.dims == dims and dims:
            return text.code
        sizes = ", ".join(self.lengths[index.axis.name] for index in dims)
        return f"spread({self.fit(text, dims)}, ({sizes}{',' if len(dims) == 1 else ''}))"

    def permuted(self, code: str, dims: Sequence[Index]) -> Text:
        """A value with these dimensions, brought into order."""
        order = self.sorted(dims)
        if tuple(dims) == order:
            return Text(code, order)
        places = ", ".join(str(list(dims).index(index)) for index in order)
        return Text(f"{code}.permute({places})", order)

    # --- expressions --------------------------------------------------------------------------

    def expression(self, expr: Expr, order: Sequence[Index]) -> Text:
        """Prints what an expression needs before it, and returns its code."""
        kept = self.order
        self.order = {index: place for place, index in enumerate(order)}
        self.scopes.append({})
        text = self._printed(expr)
        self.scopes.pop()
        self.order = kept
        return text

    def _printed(self, root: Expr) -> Text:
        nodes, uses = self._plan(root)
        done = self.scopes[-1]
        for node in nodes:
            if self._known(node) is not None:
                continue
            text = self._node(node, [self._text(arg) for arg in self.operands(node)])
            shared = uses.get(node.digest, 0) > 1 and not text.code.isidentifier()
            if (shared and not _short(node)) or (len(text.code) > LONG and node is not root):
                name = self.names.numbered(title(node))
                self.line(f"{name} = {text.code}")
                text = Text(name, text.dims)
            done[node.digest] = text
        return self._text(root)

    def _known(self, node: Expr) -> Text | None:
        return next((s[node.digest] for s in reversed(self.scopes) if node.digest in s), None)

    def _text(self, node: Expr) -> Text:
        found = self._known(node)
        assert found is not None
        return found

    def _plan(self, root: Expr) -> tuple[list[Expr], dict[bytes, int]]:
        """The nodes to print, operands first, and how often each is used."""
        nodes: list[Expr] = []
        uses: dict[bytes, int] = {}
        seen: set[bytes] = set()
        stack: list[tuple[Expr, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                nodes.append(node)
                continue
            if node.digest in seen or self._known(node) is not None:
                continue
            seen.add(node.digest)
            stack.append((node, True))
            for arg in reversed(self.operands(node)):
                uses[arg.digest] = uses.get(arg.digest, 0) + 1
                stack.append((arg, False))
        ordered: dict[bytes, Expr] = {}
        for node in nodes:
            ordered.setdefault(node.digest, node)
        return list(ordered.values()), uses

    def operands(self, node: Expr) -> tuple[Expr, ...]:
        """What is printed before a node."""
        return operands(node)

    def _node(self, node: Expr, args: list[Text]) -> Text:
        if node.op in INFIX:
            return self._infix(node, args)
        if node.op in CALLS:
            name = node.op if softplus_argument(node) is None else "softplus"
            dims = self.union(*args)
            return Text(CALLS[name].format(*(self.fit(arg, dims) for arg in args)), dims)
        method = getattr(self, f"_print_{node.op}", None)
        if method is None:
            raise InternalError(f"the eager form has no operation {node.op!r}")
        result: Text = method(node, args)
        return result

    def _infix(self, node: Expr, args: list[Text]) -> Text:
        if node.op == "pow" and node.kind == "real" and args[1].dims and not args[0].dims:
            # Of a number to the powers of integers torch makes float32.
            args = [args[0], Text(f"real({args[1].code}, wide)", args[1].dims)]
        return self._between(INFIX[node.op], node, args)

    def _between(self, sign: str, node: Expr, args: list[Text]) -> Text:
        dims = self.union(*args)
        left, right = (self._fitted(arg, dims) for arg in args)
        if left.dims and [arg.kind for arg in node.args] == ["int", "real"]:
            # torch.compile does not know that a tensor leaves it to a Real on its right.
            left = Text(f"as_real({left.code})", left.dims)
        return Text(f"{left.atom} {sign} {right.atom}", dims, True)

    def _fitted(self, text: Text, dims: tuple[Index, ...]) -> Text:
        code = self.fit(text, dims)
        return Text(code, dims, text.loose and code == text.code)

    def _print_number(self, node: Expr, args: list[Text]) -> Text:
        value = node.attr
        if isinstance(value, float) and not math.isfinite(value):
            return Text(f'float("{value}")')
        return Text(repr(value), (), isinstance(value, (int, float)) and value < 0)

    def _print_index(self, node: Expr, args: list[Text]) -> Text:
        assert isinstance(node.attr, Index)
        if node.attr in self.fixed:
            return Text(self.fixed[node.attr])
        return Text(self.positions[node.attr.axis.name], self.sorted([node.attr]))

    def _print_param(self, node: Expr, args: list[Text]) -> Text:
        return Text(self.numbers[str(node.attr)])

    def _print_length(self, node: Expr, args: list[Text]) -> Text:
        assert isinstance(node.attr, Axis)
        return Text(self.lengths[node.attr.name])

    def _print_start(self, node: Expr, args: list[Text]) -> Text:
        assert isinstance(node.attr, Axis)
        return Text(self.starts.get(node.attr.name, "0"))

    def _print_unknown(self, node: Expr, args: list[Text]) -> Text:
        text = self.unknowns[str(node.attr)]
        return self.permuted(text.code, text.dims)

    def _print_neg(self, node: Expr, args: list[Text]) -> Text:
        return Text(f"-{args[0].atom}", args[0].dims, True)

    def _print_not(self, node: Expr, args: list[Text]) -> Text:
        sign = "~" if args[0].dims else "not "
        return Text(f"{sign}{args[0].atom}", args[0].dims, True)

    def _print_div(self, node: Expr, args: list[Text]) -> Text:
        dims = self.union(*args)
        if not dims:
            return Text(f"over({args[0].code}, {args[1].code})")
        return self._between("/", node, args)

    def _print_where(self, node: Expr, args: list[Text]) -> Text:
        dims = self.union(*args)
        test, yes, no = (self.fit(arg, dims) for arg in args)
        if node.kind == "real" and dims and not args[1].dims and not args[2].dims:
            yes = f"constant({yes}, wide, {self.like})"  # of numbers alone torch makes float32
        return Text(f"where({test}, {yes}, {no})", dims)

    def _print_floordiv(self, node: Expr, args: list[Text]) -> Text:
        return self._floored(node, args, "//", "divided_down")

    def _print_mod(self, node: Expr, args: list[Text]) -> Text:
        return self._floored(node, args, "%", "remainder")

    def _floored(self, node: Expr, args: list[Text], sign: str, safe: str) -> Text:
        dims = self.union(*args)
        by = node.args[1]
        plain = sign == "%" or not dims  # a quotient of tensors minds torch.compile
        if plain and node.kind == "int" and by.op == "number" and by.attr:
            left, right = (self._fitted(arg, dims) for arg in args)
            return Text(f"{left.atom} {sign} {right.atom}", dims, True)
        code = f"{safe}({', '.join(self.fit(arg, dims) for arg in args)})"
        return Text(f"real({code}, wide)" if node.kind == "real" else code, dims)

    def _print_to_real(self, node: Expr, args: list[Text]) -> Text:
        inner = node.args[0]
        if inner.op == "number":
            return self._print_number(Expr("number", (), float(inner.attr)), [])  # type: ignore[arg-type]
        if inner.kind in ("real", "complex"):
            return args[0]
        return Text(f"real({args[0].code}, wide)", args[0].dims)

    # --- reads --------------------------------------------------------------------------------

    def _print_read(self, node: Expr, args: list[Text]) -> Text:
        name, indices = self.arrays[node.array.name], node.array.indices
        skip = self.rowless.get(node.array.name, -1)
        kept = [place for place in range(len(indices)) if place != skip]
        return self.looked_up(
            name,
            [indices[place] for place in kept],
            [node.args[place] for place in kept],
            [args[place] for place in kept],
        )

    def looked_up(
        self, name: str, indices: Sequence[Index], positions: Sequence[Expr], args: Sequence[Text]
    ) -> Text:
        """An array at positions: renamed dimensions, a slice for a row that a loop fixes, or
        advanced indexing."""
        bare = [self._bare(p, i) for p, i in zip(positions, indices, strict=True)]
        rows = [None if b is None else self.fixed.get(b) for b in bare]
        names = [b for b, row in zip(bare, rows, strict=True) if b is not None and row is None]
        if None not in bare and len(set(names)) == len(names):
            if not any(rows):
                return self.permuted(name, names)
            cuts = [
                ":" if row is None else self._row(Text(row), index)
                for row, index in zip(rows, indices, strict=True)
            ]
            return self.permuted(f"{name}[{', '.join(cuts)}]", names)
        dims = self.union(*args)
        at = [
            self._row(self._fitted(arg, dims), index)
            for arg, index in zip(args, indices, strict=True)
        ]
        return Text(f"at({', '.join([name, *at])})", dims)

    def _bare(self, position: Expr, index: Index) -> Index | None:
        """The index that a position is, where it runs over the very axis that it reads."""
        if position.op != "index" or not isinstance(position.attr, Index):
            return None
        return position.attr if position.attr.axis.name == index.axis.name else None

    def _row(self, position: Text, index: Index) -> str:
        first = self.starts.get(index.axis.name)
        return position.code if first is None else f"{position.atom} - {first}"

    @property
    def like(self) -> str:
        """A tensor whose device the call has."""
        return self.arrays["#like"]

    def _print_default(self, node: Expr, args: list[Text]) -> Text:
        raise UnsupportedError("`else` that was not made a condition", "eager", ("numpy",))


def operands(node: Expr) -> tuple[Expr, ...]:
    """What is printed before a node: for a sum of products of reals the factors, for
    log(1 + exp(x)) x."""
    if node.op == "solve":
        return node.args[:2]
    if node.op == "grad":
        return node.args[1:]
    beside_one = softplus_argument(node)
    if beside_one is not None:
        return (beside_one,)
    if node.op != "fold" or node.monoid != "sum":
        return node.args
    factors: list[Expr] = []
    stack = [node.args[1]]
    while stack:
        each = stack.pop()
        if each.op == "mul" and each.kind in ("real", "complex"):
            stack += reversed(each.args)
        else:
            factors.append(each)
    return (node.args[0], *factors)


def _short(node: Expr) -> bool:
    return node.op in ("number", "param", "length", "start", "index", "unknown")
