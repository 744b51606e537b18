"""Prints the equations between the kernels of a pipeline: the dense formula, but for what a library
does better (forms), reads at positions of one axis (taken), and sums of sums."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.backends.composed.forms import (
    Form,
    Grouped,
    Lagged,
    Running,
    Transformed,
    form_of,
    merged,
)
from attnc.backends.composed.library import LibraryPrinter
from attnc.backends.composed.lookups import Bagged
from attnc.backends.composed.windows import Windowed
from attnc.backends.eager.printer import Names, Text

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, postorder

SELECTS = {
    "topk": "a choice of the largest, by sorting",
    "rank": "ranks, by sorting",
    "argmax": "the largest",
    "argmin": "the smallest",
}


class StagePrinter(LibraryPrinter):
    """A printer of the equations between kernels."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.forms: dict[bytes, Form | None] = {}
        self.inner: dict[str, tuple[Expr, Index]] = {}

    def expression(self, expr: Expr, order: Sequence[Index]) -> Text:
        return super().expression(merged(expr), order)

    def form(self, node: Expr) -> Form | None:
        if node.digest not in self.forms:
            self.forms[node.digest] = found = form_of(node)
            if isinstance(found, Grouped):
                self.inner |= {name: (expr, found.index) for name, expr in found.inner}
        return self.forms[node.digest]

    def operands(self, node: Expr) -> tuple[Expr, ...]:
        form = self.form(node)
        return super().operands(node) if form is None else form.operands

    def _product_type(self, condition: Text, arrays: Sequence[Text]) -> str:
        """Of factors along the same dimensions (a sum of squares) no product of matrices is made: a
        statistic, whose slope may be beyond what a narrow type holds."""
        first, *others = (set(each.dims) for each in arrays)
        matrices = any(dims != first for dims in others) or not first.issuperset(condition.dims)
        return super()._product_type(condition, arrays) if matrices else "wide"

    def _node(self, node: Expr, args: list[Text]) -> Text:
        form = self.form(node)
        if isinstance(form, Grouped):
            return self._print_grouped(node, form, args)
        if isinstance(form, Running):
            return self._print_running(node, form, args)
        if isinstance(form, Lagged):
            return self._print_lagged(form, args)
        if isinstance(form, Windowed):
            return self.print_windowed(form, args)
        if isinstance(form, Bagged):
            return self.print_bagged(form, args)
        if isinstance(form, Transformed):
            return self.print_transformed(form, args)
        if node.op in SELECTS:
            self.say(SELECTS[node.op])
        return super()._node(node, args)

    # --- forms --------------------------------------------------------------------------------

    def _print_grouped(self, node: Expr, form: Grouped, args: list[Text]) -> Text:
        self.say(f"a {_word(node)} by group (index_add, scatter)")
        by, condition, body = args[-3:]
        dims = self.sorted((*self.union(by, condition, body), *node.bound))
        rest = tuple(index for index in dims if index not in node.bound)
        whole = (*rest, *node.bound)
        axis = form.index.axis.name
        first = self.starts.get(axis)
        group = self.aligned(by, whole)
        at = group if first is None else f"{group} - {first}"
        sizes = ", ".join(self.lengths[index.axis.name] for index in whole)
        code = f"grouped({_quoted(node.monoid)}, {self.aligned(self._real(node, body), whole)}, "
        code += f"{at}, {self.lengths[axis]}, ({sizes},), {len(node.bound)}"
        code += "" if form.condition == TRUE else f", {self.aligned(condition, whole)}"
        return self.permuted(f"{code})", (*rest, form.index))

    def _print_running(self, node: Expr, form: Running, args: list[Text]) -> Text:
        self.say(f"a cumulative {_word(node)}")
        condition, body = args
        dims = self.sorted((*self.union(condition, body), *node.bound))
        whole = (*(index for index in dims if index not in node.bound), *node.bound)
        spread = Text(self.spread(self._real(node, body), dims), dims)
        code = f"running({_quoted(node.monoid)}, {self.aligned(spread, whole)}, {form.strict}"
        code += "" if form.condition == TRUE else f", {self.aligned(condition, whole)}"
        return self.permuted(f"{code})", (*whole[:-1], form.index))

    def _print_lagged(self, form: Lagged, args: list[Text]) -> Text:
        self.say("a causal convolution by FFT")
        lagged, body = args
        inner = [index for index in body.dims if index.axis is form.index.axis]
        assert len(inner) == 1
        lags = (form.index,) if form.index in lagged.dims else ()
        outer = self.sorted(i for i in (*lagged.dims, *body.dims) if i not in (*lags, *inner))
        left = self.moved(lagged, (*(i for i in outer if i in lagged.dims), *lags))
        right = self.moved(body, (*(i for i in outer if i in body.dims), *inner))
        held = [":" if index in lagged.dims else "None" for index in outer]
        other = [":" if index in body.dims else "None" for index in outer]
        code = f"convolved({left}[{', '.join([*held, ':'])}], {right}[{', '.join([*other, ':'])}]"
        return self.permuted(f"{code}, {form.strict})", (*outer, form.index))

    def _print_unknown(self, node: Expr, args: list[Text]) -> Text:
        """What each group has, at the groups of the points; else the unknown of a solve."""
        if str(node.attr) not in self.inner:
            return super()._print_unknown(node, args)
        expr, index = self.inner[str(node.attr)]
        value = self._text(expr)
        if index not in value.dims:
            return value
        row = self._row(args[0], index)
        layout: list[Index] = []
        for own in value.dims:
            layout += args[0].dims if own == index else [own]
        if len(set(layout)) == len(layout):
            code = f"taken({value.atom}, {value.dims.index(index)}, {row})"
            return self.permuted(code, layout)
        return self._at_points(value, index, args[0], row)

    def _at_points(self, value: Text, index: Index, by: Text, row: str) -> Text:
        """The same where a group depends on indices that the value has too."""
        dims = self.union(by, Text("", tuple(own for own in value.dims if own != index)))
        rows = []
        for own in value.dims:
            at = Text(row, by.dims) if own == index else self._print_index_of(own)
            rows.append(self.fit(at, dims) if own == index else self._row(at, own))
        fitted = [
            self.fit(Text(code, by.dims if own == index else (own,)), dims)
            if own != index
            else code
            for own, code in zip(value.dims, rows, strict=True)
        ]
        return Text(f"at({value.code}, {', '.join(fitted)})", dims)

    def _print_index_of(self, index: Index) -> Text:
        return self._print_index(Expr("index", (), index, "int"), [])

    def _real(self, node: Expr, body: Text) -> Text:
        if body.dims or node.kind != "real":
            return body
        return Text(f"constant({body.code}, wide, {self.like})")

    # --- folds that have no form ----------------------------------------------------------------

    def _folded(self, node: Expr, condition: Text, body: Text, always: bool) -> Text:
        self._say_if_dense(node.args, set(node.bound), len(node.free))
        return super()._folded(node, condition, body, always)

    def _say_if_dense(self, parts: Sequence[Expr], bound: set[Index], result: int = 0) -> None:
        """Says so where the parts of a fold are larger than what they read, and than its result."""
        whole = frozenset(bound).union(*(part.free for part in parts))
        reads = (each for each in postorder(*parts) if each.op == "read")
        widest = max((len(each.free & whole) for each in reads), default=1)
        if len(whole) > max(widest, result):
            names = ", ".join(index.name for index in self.sorted(whole))
            self.say(f"no formula that a library knows: dense, memory of [{names}]")

    def _contracted(self, node: Expr, condition: Text, arrays: list[Text], always: bool) -> Text:
        if any(set(each.dims) != set(arrays[0].dims) for each in arrays):
            self.say("a product of matrices (einsum)")
        for factor in self.operands(node):
            self._say_if_dense((factor,), set())
        return super()._contracted(node, condition, arrays, always)

    # --- reads --------------------------------------------------------------------------------

    def looked_up(
        self, name: str, indices: Sequence[Index], positions: Sequence[Expr], args: Sequence[Text]
    ) -> Text:
        """Rows of one axis are taken as they are; a place in each of several is looked up."""
        bare = [self._bare(p, i) for p, i in zip(positions, indices, strict=True)]
        moving = [place for place, index in enumerate(bare) if index is None or index in self.fixed]
        kept = [index for place, index in enumerate(bare) if place not in moving]
        names = [index for index in kept if index is not None]
        dims = [set(args[place].dims) for place in moving]
        shared = set(names).intersection(*dims) if dims else set()
        apart = not any(d & set(names) for d in dims) and len(set(names)) == len(names)
        together = set().union(*dims) if dims else set()
        if not moving or shared or not apart or sum(map(len, dims)) > len(together):
            return super().looked_up(name, indices, positions, args)
        layout: list[Index] = []
        code = name
        for place, (index, text) in enumerate(zip(indices, args, strict=True)):
            if place not in moving:
                own = bare[place]
                assert own is not None
                layout.append(own)
                continue
            row = self._row(text, index)
            code = f"taken({code}, {len(layout)}, {row})"
            layout += text.dims
        return self.permuted(code, layout)


def _word(node: Expr) -> str:
    return {"sum": "sum", "prod": "product", "max": "maximum", "min": "minimum"}[node.monoid]


def _quoted(text: str) -> str:
    return f'"{text}"'
