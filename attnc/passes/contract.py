"""Matrix products: a sum over a width of factors of the row times factors of the key.

    sum_d (q_id + u_d) * rotate(k)_jd      a Product of two plain loads

A factor that is not a plain load is written to a workspace by a MapKernel first, so that products
stay products of two tiles. What is no product (tanh(q_i + k_j), a term r_{i-j}) stays a fold inside
a pair value: an inner loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.expressions.index import Axis, Index
from attnc.expressions.places import same_places
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    length,
    position,
    postorder,
    read,
    rewrite,
    value,
)
from attnc.passes.factors import Factors, addends_of, factors_of, total
from attnc.passes.frame import Frame
from attnc.passes.hoist import Names
from attnc.passes.maps import map_of
from attnc.passes.separate import exchange
from attnc.passes.simplify import make, simplify_expr, simplify_node
from attnc.schedule import Workspace
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Product


@dataclass
class Preparations:
    """The MapKernels of a schedule, and the workspaces that they fill.

    finished    names of arrays of row values: a condition on one is no mask of positions"""

    kernels: list[MapKernel] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)
    known: dict[bytes, Array] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    finished: set[str] = field(default_factory=set)

    def operand(self, expr: Expr, frame: Frame, along: Index, width: Index) -> Expr:
        """A plain read of `expr`, over (grid, along, width): itself, or of a workspace."""
        if is_plain(expr, frame, along, width):
            return expr
        return self._known(expr, frame, along, width)

    def table(self, expr: Expr, frame: Frame, along: Index, row: Index) -> Expr:
        """A read of `expr` for each `row` of a short axis, kept in the accumulation type."""
        known = len(self.workspaces)
        place = self._known(expr, frame, along, row)
        if len(self.workspaces) > known:
            self.workspaces[-1] = Workspace(self.workspaces[-1].array, "accumulate")
        return place

    def scalars(self, expr: Expr, frame: Frame, walked: Index) -> Expr:
        """The expression with sums that a key alone decides (norms, scores of the key) read from a
        workspace: they are computed once, not once for every tile of rows."""
        heavy = {
            node.digest: self._known(node, frame, walked, None) for node in _heaviest(expr, frame)
        }
        return exchange(expr, heavy) if heavy else expr

    def _known(self, expr: Expr, frame: Frame, along: Index, width: Index | None) -> Expr:
        body, places = _coarsened(expr, frame)
        grid = tuple(index for index in places if index in body.free)
        over = (*grid, *((along,) if along in body.free else ()))
        ends = (width,) if width else ()
        if body.digest not in self.known:
            self.known[body.digest] = self._prepare(body, over, along, width)
        array = self.known[body.digest]
        at = {**places, **{index: position(index) for index in (along, *ends)}}
        return read(array, (at[index] for index in array.indices))

    def _prepare(
        self, body: Expr, over: tuple[Index, ...], along: Index, width: Index | None
    ) -> Array:
        ends = (width,) if width else ()
        array = Array(self.names.fresh(_base(body)), (*over, *ends), "real", "workspace")
        taken = self.names.taken
        self.kernels.append(
            map_of(f"prepare_{array.name}", over, width, array, body, taken, share=False)
        )
        self.workspaces.append(Workspace(array, "query" if width else "accumulate"))
        return array


def _heaviest(expr: Expr, frame: Frame) -> list[Expr]:
    """The outermost folds of a key alone, of reals."""
    found: dict[bytes, Expr] = {}
    seen: set[bytes] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if node.digest in seen:
            continue
        seen.add(node.digest)
        if node.op == "fold" and frame.level(node) == "walked" and node.kind == "real":
            found.setdefault(node.digest, node)
        else:
            stack.extend(node.args)
    return list(found.values())


def is_plain(expr: Expr, frame: Frame, along: Index, width: Index) -> bool:
    """Whether the expression is a read straight along `along` and `width`, at one place on other
    axes."""
    if expr.op != "read" or expr.kind != "real":
        return False
    straight = {along, width}
    for index, place in zip(expr.array.indices, expr.args, strict=True):
        if place.op == "index" and place.attr in straight:
            assert isinstance(place.attr, Index)
            known = expr.array.role == "workspace" or same_places(place.attr.axis, index.axis)
            if not known:
                return False
            straight.discard(place.attr)
        elif not frame.is_outer(place):
            return False
    return not straight


def _base(expr: Expr) -> str:
    first = next((n.array.name for n in postorder(expr) if n.op == "read"), "operand")
    return f"{first}_prepared"


def _coarsened(expr: Expr, frame: Frame) -> tuple[Expr, dict[Index, Expr]]:
    """The expression over coarse heads where it reads nothing else of the head, and for each grid
    index of it the place at which the workspace is read. What the frame has as a place of its own
    (the query head) is the index that other kernels know, so that one workspace serves them."""
    known = {place.digest: position(index) for index, place in frame.places}
    expr = exchange(expr, known) if known else expr
    places = {index: position(index) for index in frame.outer} | dict(frame.places)
    for index in tuple(places):
        found = _coarse_uses(expr, index)
        if found is None:
            continue
        place, coarse = found
        expr = exchange(expr, {place.digest: position(coarse)})
        places = {
            (coarse if old == index else old): (place if old == index else at)
            for old, at in places.items()
        }
    return expr, places


def _coarse_uses(expr: Expr, index: Index) -> tuple[Expr, Index] | None:
    """The one h // (len(h) // len(hk)) through which `index` is used, and an index hk."""
    uses: set[Expr] = set()
    axis = None
    stack, seen = [expr], set()
    while stack:
        node = stack.pop()
        if node.digest in seen or index not in node.free:
            continue
        seen.add(node.digest)
        if node.op == "index":
            return None
        if node.op == "floordiv" and node.args[0].op == "index" and not node.args[1].free:
            uses.add(node)
            continue
        if node.op == "read":
            for dummy, place in zip(node.array.indices, node.args, strict=True):
                if place.op == "floordiv" and dummy.axis.form == "coarse":
                    axis = dummy.axis
        stack.extend(node.args)
    if len(uses) != 1 or axis is None or axis.of is not index.axis:
        return None
    return uses.pop(), Index(axis.name, axis, 0)


SHORT = 1024  # rows of a table that are worth a product with every row


def _row_of_table(factor: Expr, frame: Frame) -> tuple[Expr, Axis] | None:
    """The place, on an axis of known short length, at which a read depends on the pair."""
    if factor.op != "read":
        return None
    pairs = zip(factor.args, factor.array.indices, strict=True)
    found = [(place, index.axis) for place, index in pairs if frame.level(place) == "pair"]
    if len(found) != 1:
        return None
    rows = simplify_expr(length(found[0][1]))
    short = rows.op == "number" and isinstance(rows.attr, int) and rows.attr <= SHORT
    return found[0] if short else None


def regrouped(expr: Expr, frame: Frame) -> Expr:
    """Products of pairs with their factors of lower levels gathered by level: x / cap * scale
    becomes x * (scale / cap)."""
    done: dict[bytes, Expr] = {}
    for node in postorder(expr):
        args = tuple(done[arg.digest] for arg in node.args)
        changed = node.with_args(args)
        if node.op in ("mul", "div") and frame.level(node) == "pair" and node.kind == "real":
            changed = _by_level(factors_of(changed), frame)
        done[node.digest] = changed
    return done[expr.digest]


def _by_level(factors: Factors, frame: Frame) -> Expr:
    scales = []
    ends = sorted({frame.held, *frame.walked}, key=lambda index: (index.name, index.number))
    for over in (frozenset[Index](), *(frozenset((index,)) for index in ends)):
        own, factors = _taken(factors, frame, over)
        if own.above or own.below:
            scales.append(own.expr)
    return (factors * Factors(tuple(scales))).expr


def _taken(factors: Factors, frame: Frame, over: frozenset[Index]) -> tuple[Factors, Factors]:
    """The factors over one index of the pair, or none, and the rest with the sign. It does not
    matter which of the two is held, nor around what is walked: kernels that form a pair's value
    again do so in the same order, and find the same bits."""
    ends = {frame.held, *frame.walked}

    def stays(factor: Expr) -> bool:
        return frame.level(factor) == "inner" or factor.free & ends != over

    rest, own = factors.split(stays)
    return own, rest


@dataclass
class Contraction:
    """Replaces products over widths by values, and collects them, for one loop."""

    frame: Frame
    walked: Index
    preparations: Preparations
    names: Names
    products: list[Product] = field(default_factory=list)
    known: dict[bytes, Expr] = field(default_factory=dict)
    loops: int = 0

    def contract(self, expr: Expr) -> Expr:
        """The expression with every fold of a pair that is a product as a value, and factors that
        are no pair's gathered beside it (so that they are one factor, computed once)."""
        return regrouped(rewrite(expr, self._node), self.frame)

    def _node(self, node: Expr) -> Expr:
        if node.op != "fold" or self.frame.level(node) != "pair":
            return simplify_node(node)
        if node.monoid != "sum" or len(node.bound) != 1 or node.args[0] != TRUE:
            self.loops += 1
            return simplify_node(node)
        found = self._sum(node, node.args[1])
        if found is None:
            self.loops += 1
        return found or simplify_node(node)

    def _sum(self, node: Expr, body: Expr) -> Expr | None:
        """sum_d body, or None where no part of it is a product of tiles."""
        addends = addends_of(body)
        if len(addends) == 1:
            return self._term(node, body)
        parts = [self._sum(node, addend) for addend, _ in addends]
        if all(part is None for part in parts):
            return None
        found = []
        for part, (addend, _) in zip(parts, addends, strict=True):
            alone = simplify_node(node.with_args((TRUE, addend)))
            self.loops += part is None and self.frame.level(alone) == "pair"
            found.append(part or alone)
        signs = (minus for _, minus in addends)
        return total(make("neg", p) if minus else p for p, minus in zip(found, signs, strict=True))

    def _term(self, node: Expr, body: Expr) -> Expr | None:
        (width,) = node.bound
        if self.frame.level(node.with_args((TRUE, body))) != "pair":
            return None  # an addend of a row or a key alone is made once for it
        outside, inside = factors_of(body).split(lambda f: width not in f.free)
        held, walked = self.frame.held, self.walked
        right, rest = inside.split(lambda f: walked in f.free and held not in f.free)
        left, mixed = rest.split(lambda f: walked not in f.free)
        if mixed.above or mixed.below:
            return self._table(node, body) or self._expanded(node, body, mixed)
        if not (left.above or left.below) or not (right.above or right.below):
            return None
        a = self.preparations.operand(left.expr, self.frame, held, width)
        b = self.preparations.operand(right.expr, self.frame, walked, width)
        product = self._product(width, a, b)
        return Factors((product, *outside.above), outside.below, outside.negative).expr

    def _table(self, node: Expr, body: Expr) -> Expr | None:
        """sum_d q_id * r_{f(i, j), d} where r has few rows: the products of each row i with all of
        them, looked up at f(i, j). The same for a key j."""
        (width,) = node.bound
        for factor in factors_of(body).above:
            found = _row_of_table(factor, self.frame)
            if found is None:
                continue
            place, axis = found
            row = Index(axis.name, axis, node.bound[0].number + 1)
            whole = exchange(body, {place.digest: position(row)})
            for along in (self.frame.held, self.walked):
                if whole.free - set(self.frame.grid) - {width, row} == {along}:
                    summed = node.with_args((node.args[0], whole))
                    table = self.preparations.table(summed, self.frame, along, row)
                    return exchange(table, {position(row).digest: place})
        return None

    def _expanded(self, node: Expr, body: Expr, mixed: Factors) -> Expr | None:
        """(a_i + b_j) * c_id distributed, where that makes a product of at least one part."""
        for factor in mixed.above:
            addends = addends_of(factor)
            if len(addends) > 1 and not mixed.below:
                whole = factors_of(body)
                others = tuple(f for f in whole.above if f is not factor)
                around = Factors(others, whole.below, whole.negative)
                parts = [
                    make("neg", p) if minus else p
                    for p, minus in (
                        ((around * Factors((addend,))).expr, minus) for addend, minus in addends
                    )
                ]
                return self._sum(node, total(parts))
        return None

    def _product(self, width: Index, left: Expr, right: Expr) -> Expr:
        key = left.digest + right.digest
        if key not in self.known:
            name = self.names.fresh("product")
            self.products.append(Product(name, width, left, right))
            self.known[key] = value(name, "real", (left.free | right.free) - {width})
        return self.known[key]
