"""The sums of a derivative over pairs, each as what one loop can do, and what is left around them.

    k_grad[b, hk, x, d] = sum(h, i, j if j - 1 == x and ...: body)
        keyed[b, hk, j, d] = sum(g, i if ...: body)        a loop that holds keys
        k_grad[b, hk, x, d] = keyed[b, hk, x + 1, d]       a map

does      takes the gradient's expression apart from the root down: a sum over keys is held by rows,
          a sum over rows by keys, a sum over both whose place depends on both is a scatter, a
          number for each pair is stored; what is left is a formula of their results
needs     a Graph made by differentiate, the roles of axes
does not  choose kernels: sums are over canonical indices and have arrays of their own
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    call,
    fold,
    is_number,
    length,
    number,
    number_of,
    position,
    postorder,
    read,
    rewrite,
    start,
    substitute,
)
from attnc.graph import conjuncts
from attnc.passes.constants import identity
from attnc.passes.factors import Factors, addends_of, factors_of, total
from attnc.passes.frame import Frame
from attnc.passes.hoist import Names
from attnc.passes.reductions import refuse
from attnc.passes.roles import Roles, Sum, coarse_place, says_place, solved, taken_apart
from attnc.passes.row_values import RowValues
from attnc.passes.separate import Separation
from attnc.passes.simplify import make, simplify_node

MakeSum = Callable[[Sum], Expr]
Hold = Literal["row", "key", "deposit", "scatter", "pair"]
PART = 700  # numbers an index of rows or keys that an output's own index is told apart from


@dataclass(frozen=True)
class PairSum:
    """One sum over pairs, in canonical indices.

    hold        row: sum over keys for each row; key: sum over rows (and `around`) for each key;
                deposit: the same by a loop that holds rows and adds to the keys that it walks;
                scatter: into `array` at `at`; pair: stored for each pair
    array       its result over the grid, the held index or the table's, and the width
    key         the key index of the pair
    around      outer indices that are summed too (hold key)
    coarse      the coarse index (and the place through which it is read) that stands for its fine
                one, or None
    monoid      sum, or of a column (hold key) its maximum or minimum
    otherwise   what a pair that is not seen stores (hold pair)
    """

    hold: Hold
    array: Array
    key: Index
    conditions: tuple[Expr, ...]
    body: Expr
    width: Index | None
    at: Expr | None = None
    around: tuple[Index, ...] = ()
    coarse: tuple[Expr, Index] | None = None
    monoid: str = "sum"
    otherwise: float = 0.0


@dataclass
class Gradients:
    """Takes expressions of gradients apart (see the module)."""

    roles: Roles
    values: RowValues
    names: Names
    sums: dict[tuple[object, ...], PairSum] = field(default_factory=dict)
    dummies: frozenset[Index] = frozenset()
    in_order: bool = False  # values run along the keys: loops hold rows

    def lower(self, expr: Expr, indices: tuple[Index, ...]) -> Expr:
        """The expression over its output's indices, as a formula of sums' arrays."""
        apart = {index: Index(index.name, index.axis, 500 + n) for n, index in enumerate(indices)}
        self.dummies = frozenset(apart.values())
        whole = substitute(expr, {old: position(new) for old, new in apart.items()})
        roles = {self.roles.of(index.axis) for index in indices}
        lowered = self._pairs(whole) if {"row", "key"} <= roles else self._visit(whole)
        back = {new: position(old) for old, new in apart.items()}
        return canonical(rewrite(substitute(lowered, back), simplify_node))

    # ---------------------------------------------------------------------------- the walk

    def _visit(self, node: Expr) -> Expr:
        if not self.roles.folds_outer(node):
            return node
        if self._is_finished(node):
            return self._renamed(node)
        if node.op == "fold":
            if node.monoid in ("max", "min") and self._is_column(node):
                return self._extremum(node)
            if node.monoid != "sum" or node.kind != "real":
                raise refuse("pooling_stage: a derivative with another fold than a sum")
            if any(self.roles.is_outer(i) for i in node.bound):
                return self._sum(node)
            inner = taken_apart(node, self.dummies, self.roles)
            if any(self.roles.is_outer(i) for i in inner.bound):
                return self._sum(node)
        args = tuple(map(self._visit, node.args))
        return solved(simplify_node(node.with_args(args)))

    def _is_column(self, node: Expr) -> bool:
        """Whether the node is a fold of numbers over the rows of a key, and maybe heads."""
        bound = {self.roles.of(index.axis) for index in node.bound}
        keys = [i for i in node.free if self.roles.of(i.axis) == "key"]
        return "row" in bound <= {"row", "grid"} and node.kind == "real" and len(keys) == 1

    def _extremum(self, node: Expr) -> Expr:
        """The greatest or least of a column, made by a loop that holds keys."""
        whole = Sum(node.bound, conjuncts(node.args[0]), node.args[1])
        (key,) = (i for i in node.free if self.roles.of(i.axis) == "key")
        pinned = self._pinned(whole)
        coarse, tied, summed = self._heads(whole, pinned)
        row = next(i for i in node.bound if self.roles.of(i.axis) == "row")
        if tied or set(node.bound) != {*summed, row}:
            raise refuse("out_colstats: a maximum over rows and more")
        inside = tuple(c for c in whole.conditions if c not in pinned)
        inner = Sum((*summed, row), inside, whole.body)
        found = self._key_sum(inner, key, tuple(summed), coarse, node.monoid)
        if whole.body.op != "where" or whole.body.args[2].op != "number":
            return found
        # Of a key that does not count no pair is met, and each row stands for what it is unseen.
        none = make("eq", found, identity(node.monoid, "real"))
        unmet = make("and", make("gt", length(row.axis), number(0)), none)
        return make("where", unmet, whole.body.args[2], found)

    def _is_finished(self, node: Expr) -> bool:
        """Whether the node is a row value that the forward keeps, or a loop before the others."""
        if not self.roles.folds_keys(node) or not self.roles.is_row(node):
            return False
        if self.values.forward is None:  # its powers need a reference of their own
            counted = node.op == "gt" and node.args[0].kind == "int"
            whole = node.args[0] if counted else node
            if whole.op != "fold" or not (counted or whole.kind == "real"):
                return False
            if self.roles.widths((whole,)):
                return False
            rows = any(self.roles.of(index.axis) == "row" for index in whole.free)
            return rows and all(self.roles.of(index.axis) == "key" for index in whole.bound)
        return not self.values.is_later(node)

    def _renamed(self, node: Expr) -> Expr:
        """A row value outside of any sum over pairs, read at the output's own indices."""
        moves = self._canonical(node.free)
        found = self.values.exchange(substitute(node, _positions(moves)), pair=False)
        return substitute(found, _positions({new: old for old, new in moves.items()}))

    def _canonical(self, free: frozenset[Index]) -> dict[Index, Index]:
        """The canonical index of each outer one; refuses two on one axis."""
        found: dict[Index, Index] = {}
        for index in sorted(free, key=lambda i: (i.name, i.number)):
            own = self.roles.own(index.axis)
            if own is not None:
                found[index] = own
        if len(set(found.values())) < len(found):
            raise refuse("map_stage: a derivative that meets two rows or two keys")
        return found

    # ------------------------------------------------------------------------------- sums

    def _sum(self, node: Expr) -> Expr:
        whole = taken_apart(node, self.dummies, self.roles)
        pinned = self._pinned(whole)
        outer = {i for i in whole.body.free if self.roles.is_outer(i)}
        for condition in whole.conditions:
            if condition not in pinned:
                outer |= {i for i in condition.free if self.roles.is_outer(i)}
        keys = [i for i in outer if self.roles.of(i.axis) == "key"]
        rows = [i for i in outer if self.roles.of(i.axis) == "row"]
        if len(keys) > 1 or len(rows) > 1:
            parts = self._addends(whole)
            if parts is None:
                raise refuse("map_stage: a derivative that meets two rows or two keys")
            return total(map(self._sum, parts))
        if not keys or not rows:
            return self._mapped(whole)
        (key,), (row,) = keys, rows
        for walked, held in ((row, key), (key, row)):
            tied = tuple(c for c in pinned if walked in c.free)
            if tied and walked in whole.bound and held in self.dummies:
                return self._in_parts(whole, key, held, tied)
        if key in whole.bound and row in whole.bound:
            tied = tuple(c for c in pinned if c.free & {key, row})
            free = frozenset().union(*(c.free for c in tied))
            if {key, row} <= free:
                return self._scattered(whole, key, tied)
            by_key = self._is_outer(whole, key) and not tied and not self._is_outer(whole, row)
            if key in free or by_key:
                return self._held_by_key(whole, key, row, pinned)
            return self._held_by_row(whole, key)
        if key in whole.bound:
            return self._held_by_row(whole, key)
        if row in whole.bound:
            return self._held_by_key(whole, key, row, pinned)
        raise refuse("bias_tensor: a number for each pair, summed over what is no row or key")

    def _addends(self, whole: Sum) -> list[Expr] | None:
        found = addends_of(whole.body)
        if len(found) < 2:
            return None
        test = _all(whole.conditions)
        return [
            fold("sum", whole.bound, make("neg", part) if minus else part, test)
            for part, minus in found
        ]

    def _pinned(self, whole: Sum) -> tuple[Expr, ...]:
        """The conditions that tie what is summed to an index that the output alone has."""
        own = whole.body.free
        axes = {index.axis for index in (*whole.bound, *own) if self.roles.is_outer(index)}
        found = []
        for condition in whole.conditions:
            alien = {
                i
                for i in condition.free & self.dummies
                if i not in own
                and (not self.roles.is_outer(i) or i.axis in axes or says_place(condition, i))
            }
            place = coarse_place(condition, self.roles)
            if alien or (place is not None and place[1] in self.dummies):
                found.append(condition)
        return tuple(found)

    def _mapped(self, whole: Sum) -> Expr:
        """A sum over rows or outer axes of what has its sums over keys inside."""
        body = self._visit(whole.body)
        conditions = tuple(map(self._visit, whole.conditions))
        return solved(fold("sum", whole.bound, body, _all(conditions)))

    def _held_by_row(self, whole: Sum, key: Index) -> Expr:
        whole = self._of_query_heads(whole)
        pinned = self._pinned(whole)
        inside = tuple(c for c in whole.conditions if c not in pinned)
        return self._split(whole, (key,), inside, lambda inner: self._row_sum(inner, key))

    def _is_outer(self, whole: Sum, walked: Index) -> bool:
        """Whether what changes along a walk is along several widths: an outer product, which no
        loop carries."""
        for addend, _ in addends_of(whole.body):
            factors = (f for f in factors_of(addend).above if walked in f.free)
            if len(self.roles.widths(factors)) > 1:
                return True
        return False

    def _outside(self, whole: Sum) -> frozenset[Index]:
        """The indices of factors along widths that are the same for all rows, where what is left
        has a width of its own: they stay outside of a walk over rows."""
        if len(self.roles.widths((whole.body,))) < 2:
            return frozenset()
        row = next(i for i in whole.bound if self.roles.of(i.axis) == "row")
        factors = factors_of(whole.body).above
        own = (f.free for f in factors if row not in f.free and self.roles.widths((f,)))
        return frozenset().union(*own)

    def _of_query_heads(self, whole: Sum) -> Sum:
        """The sum with the key heads of the output that it ties to query heads as these heads'."""
        for condition in whole.conditions:
            found = coarse_place(condition, self.roles)
            if (
                found is None
                or found[1] not in self.dummies
                or not found[0].free & set(whole.bound)
            ):
                continue
            moves = {found[1]: found[0]}
            rest = (c if c is condition else substitute(c, moves) for c in whole.conditions)
            whole = Sum(whole.bound, tuple(rest), substitute(whole.body, moves))
        return whole

    def _row_sum(self, inner: Sum, key: Index) -> Expr:
        moves = self._canonical(inner.free | {key})
        frame = self.roles.frame
        missing = set((*frame.grid, frame.held)) - set(moves.values())
        if missing:
            raise refuse("map_stage: a derivative that is the same for all rows")
        over = (*frame.grid, frame.held)
        return self._kept("row", inner, moves, key, over)

    def _heads(
        self, whole: Sum, pinned: tuple[Expr, ...]
    ) -> tuple[tuple[Expr, Index, Index] | None, list[Expr], list[Index]]:
        """What ties a query head to its key head (place, key head, query head), what else ties the
        sum to the output, and the outer indices that are summed."""
        coarse: tuple[Expr, Index, Index] | None = None
        tied: list[Expr] = []
        for condition in pinned:
            place = coarse_place(condition, self.roles)
            fine = next(iter(place[0].free), None) if place else None
            if place and coarse is None and fine in whole.bound:
                assert fine is not None
                coarse = (place[0], place[1], fine)
            else:
                tied.append(condition)
        free = frozenset().union(*(c.free for c in tied)) if tied else frozenset()
        free |= self._outside(whole)
        summed = [i for i in whole.bound if self.roles.of(i.axis) == "grid" and i not in free]
        if coarse is not None and coarse[2] not in summed:
            coarse = None
            tied = list(pinned)
        return coarse, tied, summed

    def _deposited(self, whole: Sum, key: Index, row: Index, pinned: tuple[Expr, ...]) -> Expr:
        """A sum over rows for each key and query head, outside of which heads are summed."""
        inside = tuple(c for c in whole.conditions if c not in pinned)

        def make_sum(inner: Sum) -> Expr:
            moves = self._canonical(inner.free | set(inner.bound))
            grid = self.roles.frame.grid
            if set(grid) - set(moves.values()):
                raise refuse("map_stage: a derivative that is the same for all rows")
            places = {new: old for old, new in moves.items()}
            return self._kept("deposit", inner, moves, key, (*grid, moves[key]), places)

        return self._split(whole, (row,), inside, make_sum)

    def _held_by_key(self, whole: Sum, key: Index, row: Index, pinned: tuple[Expr, ...]) -> Expr:
        if self.in_order:
            return self._deposited(whole, key, row, pinned)
        whole = self._of_query_heads(whole)
        coarse, tied, summed = self._heads(whole, pinned)
        inside = tuple(c for c in whole.conditions if c not in pinned)
        if coarse is not None:  # its place in the group is walked around
            rest = (*inside, *tied)
            whole = Sum(whole.bound, tuple(c for c in whole.conditions if c in rest), whole.body)
        bound = (*summed, row)
        return self._split(
            whole, bound, inside, lambda inner: self._key_sum(inner, key, tuple(summed), coarse)
        )

    def _key_sum(
        self,
        inner: Sum,
        key: Index,
        summed: tuple[Index, ...],
        coarse: tuple[Expr, Index, Index] | None,
        monoid: str = "sum",
    ) -> Expr:
        moves = self._canonical(inner.free | set(inner.bound))
        fine = coarse[2] if coarse else None
        grid: list[Index] = []
        places: dict[Index, Index] = {}
        for index in self.roles.frame.grid:
            original = next((old for old, new in moves.items() if new == index), None)
            if original is None:
                continue
            if original == fine:
                assert coarse is not None
                own = Index(coarse[1].axis.name, coarse[1].axis, 0)
                grid.append(own)
                places[own] = coarse[1]
            elif original not in summed:
                grid.append(index)
                places[index] = original
        around = tuple(moves[i] for i in summed if i != fine)
        held = moves[key]
        places[held] = key
        tie = None
        if coarse is not None:
            canonical_place = substitute(coarse[0], _positions(moves))
            tie = (canonical_place, Index(coarse[1].axis.name, coarse[1].axis, 0))
            moves = {**moves, coarse[1]: tie[1]}
        over = (*grid, held)
        return self._kept("key", inner, moves, key, over, places, around, tie, monoid=monoid)

    def _in_parts(self, whole: Sum, key: Index, held: Index, tied: tuple[Expr, ...]) -> Expr:
        """Sums over parts of the walked axis for what is held, as `x[i // n, j]` gets them: into a
        table that has a place for each part and each of the held axis."""
        own = Index(held.name, held.axis, PART)
        moves = {held: position(own)}
        here = call("eq", position(own), position(held))
        conditions = (*(substitute(c, moves) for c in whole.conditions), here)
        summed = Sum((*whole.bound, own), conditions, substitute(whole.body, moves))
        tied = (*(substitute(c, moves) for c in tied), here)
        return self._scattered(summed, own if held == key else key, tied)

    def _scattered(self, whole: Sum, key: Index, both: tuple[Expr, ...]) -> Expr:
        """Sums at places that depend on row and key: one axis of cells for all the dimensions."""
        pairs = []
        for condition in both:
            sides = condition.args if condition.op == "eq" else ()
            found = [
                (a, b.attr)
                for a, b in (sides, sides[::-1])
                if len(sides) == 2 and b.op == "index" and b.attr in self.dummies
            ]
            if len(found) != 1:
                raise refuse("bias_table: a table that is read at no place of its own")
            pairs.append(found[0])
        axes = tuple(dummy.axis for _, dummy in pairs)
        cells, at, where = _cells(axes, [p for p, _ in pairs], [position(d) for _, d in pairs])
        row = next(i for i in whole.bound if self.roles.of(i.axis) == "row")
        others = self._pinned(whole)
        inside = tuple(c for c in whole.conditions if c not in others)
        rest = tuple(c for c in whole.conditions if c in others and c not in both)
        slim = Sum(whole.bound, (*inside, *rest), whole.body)
        return self._split(
            slim, (row, key), inside, lambda inner: self._cell_sum(inner, key, cells, at, where)
        )

    def _cell_sum(self, inner: Sum, key: Index, cells: Axis, at: Expr, where: Expr) -> Expr:
        moves = self._canonical(inner.free | set(inner.bound))
        grid = self.roles.frame.grid
        if set(grid) - set(moves.values()):
            raise refuse("map_stage: a derivative that is the same for all rows")
        cell = Index(cells.name, cells, 0)
        place = substitute(at, _positions(moves))
        places = {new: old for old, new in moves.items()}
        return self._kept("scatter", inner, moves, key, (*grid, cell), places, at=place, cell=where)

    # ------------------------------------------------------------------------------ pieces

    def _split(
        self, whole: Sum, bound: tuple[Index, ...], inside: tuple[Expr, ...], make_sum: MakeSum
    ) -> Expr:
        """The sum with `bound` innermost, and the rest of it around; widths that stand in no
        condition of the rest are sums within the body."""
        rest = tuple(c for c in whole.conditions if c not in inside)
        tied = frozenset().union(*(c.free for c in rest)) if rest else frozenset()
        local = tuple(
            i
            for i in whole.bound
            if i not in bound and not self.roles.is_outer(i) and i not in tied
        )
        body = whole.body
        for index in local:
            own = tuple(c for c in inside if index in c.free)
            inside = tuple(c for c in inside if index not in c.free)
            body = fold("sum", (index,), body, _all(own))
        along = tuple(
            c for c in inside if self.roles.widths((c,)) and not c.free & frozenset(bound)
        )
        inside = tuple(c for c in inside if c not in along)
        rest = (*rest, *along)
        outer = tuple(i for i in whole.bound if i not in bound and i not in local)
        found = self._by_width(Sum(bound, inside, body), make_sum)
        if not outer:
            return found if not rest else make("where", _all(rest), found, number(0.0))
        return solved(fold("sum", outer, found, _all(rest)))

    def _by_width(self, inner: Sum, make_sum: MakeSum) -> Expr:
        """The inner sum with factors along other widths than one outside."""
        wide = self.roles.widths((inner.body,))
        walked = frozenset(inner.bound)
        factors = factors_of(inner.body).above
        mixed = any(self._stays(f, walked) or self._tangled(f, walked) for f in factors)
        if len(wide) < 2 and not mixed:
            return make_sum(inner)
        parts = []
        for addend, minus in addends_of(inner.body):
            own, rest = factors_of(addend).split(lambda f: self._stays(f, walked))
            tangled = any(self._tangled(f, walked) for f in rest.above)
            if tangled or len(self.roles.widths((rest.expr,))) > 1:
                for row, pair in self._terms(inner, addend):
                    term = make("mul", row, make_sum(Sum(inner.bound, inner.conditions, pair)))
                    parts.append(make("neg", term) if minus else term)
                continue
            found = make_sum(Sum(inner.bound, inner.conditions, rest.expr))
            whole = make("mul", own.expr, found)
            parts.append(make("neg", whole) if minus else whole)
        return total(parts)

    def _stays(self, factor: Expr, walked: frozenset[Index]) -> bool:
        """Whether a factor along a width is the same for the whole walk: it stays outside."""
        return not factor.free & walked and bool(self.roles.widths((factor,)))

    def _tangled(self, factor: Expr, walked: frozenset[Index]) -> bool:
        """Whether a sum along a width is of rows and keys both: q_i - k_j."""
        if factor.op not in ("add", "sub", "where") or not self.roles.widths((factor,)):
            return False
        held = {i for i in factor.free - walked if self.roles.of(i.axis) in ("row", "key")}
        return bool(held) and bool(factor.free & walked)

    def _where_unequal(self, body: Expr, walked: frozenset[Index]) -> Expr:
        """c_ij (x_i - x_j) where the two are equal is 0, which its two terms would be only but for
        roundings of c_ij: of distances it may be great there. `body` has the sum of the squares."""
        for factor in factors_of(body).above:
            if not self._tangled(factor, walked) or factor.op != "sub":
                continue
            widths, turned = self.roles.widths((factor,)), factor.with_args(factor.args[::-1])
            for node in postorder(body):
                along = node.bound[0] if node.op == "fold" and len(node.bound) == 1 else None
                if along is None or len(widths) != 1 or along.axis is not widths[0].axis:
                    continue
                own = substitute(node.args[1], {along: position(widths[0])})
                same = node.monoid == "sum" and node.args[0] == TRUE
                if same and _squared(own) in (factor, turned):
                    return make("where", make("eq", node, number(0.0)), number(0.0), body)
        return body

    def _terms(self, inner: Sum, body: Expr) -> list[tuple[Expr, Expr]]:
        """Row factor and rest of each term, by the rules of sums, choices and products."""
        walked = inner.bound[-1]
        held = next(
            (i for i in body.free if self.roles.of(i.axis) in ("row", "key") and i != walked),
            walked,
        )
        grid = tuple(i for i in body.free if self.roles.of(i.axis) == "grid")
        rest = tuple(i for i in grid if i not in inner.bound)
        frame = Frame(rest, held, (walked,), inner.bound[:-1])
        found = []
        whole = self._where_unequal(body, frozenset(inner.bound))
        for term in Separation(frame, walked, lambda e: e).terms(whole):
            own, plain = factors_of(term.row).split(lambda f: bool(self.roles.widths((f,))))
            pair = make("mul", plain.expr, term.pair)
            if len(self.roles.widths((pair,))) > 1:
                raise refuse("linear_state: an outer product summed over keys")
            found.append((own.expr, pair))
        return found

    def _kept(
        self,
        hold: Hold,
        inner: Sum,
        moves: dict[Index, Index],
        key: Index,
        over: tuple[Index, ...],
        places: dict[Index, Index] | None = None,
        around: tuple[Index, ...] = (),
        coarse: tuple[Expr, Index] | None = None,
        at: Expr | None = None,
        cell: Expr | None = None,
        monoid: str = "sum",
        otherwise: float = 0.0,
    ) -> Expr:
        """The array of a sum, made once, read where the sum stood."""
        places = places if places is not None else {new: old for old, new in moves.items()}
        inner = self._chosen(inner) if monoid == "sum" else inner
        wide = self.roles.widths((inner.body,))
        if len(wide) > 1:
            raise refuse("axis_softmax: a mask for each width, of what is along another")
        width = Index(wide[0].axis.name, wide[0].axis, 0) if wide else None
        exchange = _positions(moves)
        if width is not None:
            exchange[wide[0]] = position(width)
        left = {i for e in inner.exprs for i in e.free if self.roles.of(i.axis) == "coarse"}
        if left - set(moves):
            raise refuse("gqa: a derivative over key heads that are tied to no query head")
        body = self.values.exchange(substitute(inner.body, exchange))
        conditions = tuple(self.values.exchange(substitute(c, exchange)) for c in inner.conditions)
        tests = frozenset(c.digest for c in conditions)
        site = (at.digest if at else b"", coarse[0].digest if coarse else b"")
        known = (hold, moves[key], over, around, site, tests, body.digest, monoid, otherwise)
        if known not in self.sums:
            ends = (width,) if width else ()
            words = {
                "row": "rows",
                "key": "keyed",
                "deposit": "keyed",
                "scatter": "cells",
                "pair": "pairs",
            }
            array = Array(
                self.names.fresh(f"{words[hold]}_grad"), (*over, *ends), "real", "workspace"
            )
            self.sums[known] = PairSum(
                hold, array, moves[key], conditions, body, width, at, around, coarse, monoid,
                otherwise,
            )  # fmt: skip
        array = self.sums[known].array
        positions = []
        for index in array.indices:
            if width is not None and index == width:
                positions.append(position(wide[0]))
            elif cell is not None and index == over[-1]:
                positions.append(cell)
            else:
                positions.append(position(places[index]))
        return read(array, positions)

    def _chosen(self, inner: Sum) -> Sum:
        """The sum with conditions along a width as choices of its body."""
        along = [c for c in inner.conditions if self.roles.widths((c,))]
        rest = tuple(c for c in inner.conditions if c not in along)
        body = make("where", _all(tuple(along)), inner.body, number(0.0)) if along else inner.body
        return Sum(inner.bound, rest, body)

    # ------------------------------------------------------------------------------- pairs

    def _pairs(self, whole: Expr) -> Expr:
        """A gradient over rows and keys both."""
        bottom = _where_else(whole)
        if bottom is not None:
            condition, inner, otherwise = bottom
            return self._number(Sum((), conjuncts(condition), inner), otherwise)
        parts = []
        for addend, minus in addends_of(whole):
            dense = fold("sum", (), addend) if addend.op != "fold" else addend
            found = self._pair(taken_apart(dense, self.dummies, self.roles))
            parts.append(make("neg", found) if minus else found)
        return total(parts)

    def _pair(self, whole: Sum) -> Expr:
        pinned = self._pinned(whole)
        inside = tuple(c for c in whole.conditions if c not in pinned)
        bound = {self.roles.of(index.axis) for index in whole.bound}
        if bound - {"grid"} or pinned:
            raise refuse("bias_tensor: a dense bias that is not read at its own row and key")
        own, rest = factors_of(whole.body).split(lambda f: bool(self.roles.widths((f,))))
        if any(map(self.roles.folds_outer, own.above)):
            return total(map(self._pair, self._distributed(whole)))
        if self.roles.widths(inside) or any(map(self.roles.folds_outer, own.below)):
            raise refuse("pair_embedding: the derivative of a vector for each pair")
        found = self._number(Sum((), inside, rest.expr))
        if own != Factors():  # a hidden pair's is 0, whatever its vectors are
            none = make("eq", found, number(0.0))
            found = make("where", none, number(0.0), make("mul", own.expr, found))
        return fold("sum", whole.bound, found) if whole.bound else found

    def _distributed(self, whole: Sum) -> list[Sum]:
        """x (a + b_e) as x a + x b_e, where a has sums over pairs and b_e is along a width."""
        factors = factors_of(whole.body)
        for place, factor in enumerate(factors.above):
            parts = addends_of(factor)
            vector = self.roles.widths((factor,)) and self.roles.folds_outer(factor)
            if not vector or len(parts) < 2:
                continue
            above = (factors.above[:place], factors.above[place + 1 :])
            found = []
            for part, minus in parts:
                turned = factors.negative != minus
                term = Factors((*above[0], part, *above[1]), factors.below, turned)
                found.append(Sum(whole.bound, whole.conditions, term.expr))
            return found
        raise refuse("pair_embedding: the derivative of a vector for each pair")

    def _number(self, inner: Sum, otherwise: float = 0.0) -> Expr:
        """A number for each pair, stored."""
        moves = self._canonical(inner.free)
        key = next(i for i in moves if self.roles.of(i.axis) == "key")
        frame = self.roles.frame
        if set((*frame.grid, frame.held)) - set(moves.values()):
            raise refuse("map_stage: a derivative that is the same for all rows")
        over = (*frame.grid, frame.held, moves[key])
        return self._kept("pair", inner, moves, key, over, otherwise=otherwise)


def _squared(expr: Expr) -> Expr | None:
    """What the expression is the square of, if that is how it is written."""
    if expr.op == "pow" and is_number(expr.args[1], 2):
        return expr.args[0]
    return expr.args[0] if expr.op == "mul" and expr.args[0] == expr.args[1] else None


def _positions(moves: dict[Index, Index]) -> dict[Index, Expr]:
    return {old: position(new) for old, new in moves.items()}


def _all(conditions: tuple[Expr, ...]) -> Expr:
    whole = TRUE
    for condition in conditions:
        whole = make("and", whole, condition)
    return whole


def _where_else(whole: Expr) -> tuple[Expr, Expr, float] | None:
    """c, x and a number n that is not 0, of where(c, x, n) for each pair, no vector."""
    if whole.op != "where" or whole.kind != "real" or whole.args[2].op != "number":
        return None
    condition, inner, rest = whole.args
    found = number_of(rest)
    return (condition, inner, found) if found != 0 else None


def _cells(
    axes: tuple[Axis, ...], places: list[Expr], dummies: list[Expr]
) -> tuple[Axis, Expr, Expr]:
    """One axis for a table's, and an entry's place on it, of the pair and of the output."""
    if len(axes) == 1:
        return axes[0], places[0], dummies[0]
    size: Expr = number(1)
    at: Expr = number(0)
    where: Expr = number(0)
    for axis, place, dummy in zip(axes, places, dummies, strict=True):
        span = simplify_node(length(axis))
        first = simplify_node(start(axis))
        size = make("mul", size, span)
        at = make("add", make("mul", at, span), make("sub", place, first))
        where = make("add", make("mul", where, span), make("sub", dummy, first))
    return Axis("cells", "range", length=size), at, where


__all__ = ["Gradients", "Hold", "PairSum"]
