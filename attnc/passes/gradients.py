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

from dataclasses import dataclass

from attnc.expressions.canonical import canonical, fresh_index, indices_in
from attnc.expressions.index import Index
from attnc.expressions.tree import (
    FALSE,
    Expr,
    fold,
    is_number,
    length,
    number,
    position,
    postorder,
    rewrite,
    start,
    substitute,
)
from attnc.passes.cell_sums import in_parts, scattered
from attnc.passes.dense_sums import dense_gradient
from attnc.passes.factors import Factors, addends_of, factors_of, total
from attnc.passes.held_sums import column_extremum, held_by_key, held_by_row, is_outer_product
from attnc.passes.outer_sums import Sum, hides_outer_sum, taken_apart
from attnc.passes.pair_sums import PairSums, positions
from attnc.passes.placed_sums import solved
from attnc.passes.refusals import refuse
from attnc.passes.simplify import all_of, make, simplify_node, topdown


@dataclass
class Gradients:
    """Takes expressions of gradients apart (see the module); `sums` collects what is met."""

    sums: PairSums

    def lower(self, expr: Expr, indices: tuple[Index, ...]) -> Expr:
        """The expression over its output's indices, as a formula of sums' arrays."""
        taken = indices_in(expr) | set(indices)
        apart: dict[Index, Index] = {}
        for index in indices:
            apart[index] = fresh_index(index, (*taken, *apart.values()))
        self.sums.dummies = frozenset(apart.values())
        whole = substitute(expr, {old: position(new) for old, new in apart.items()})
        roles = {self.sums.roles.of(index.axis) for index in indices}
        lowered = (
            dense_gradient(self.sums, whole) if {"row", "key"} <= roles else self._visit(whole)
        )
        back = {new: position(old) for old, new in apart.items()}
        return canonical(rewrite(substitute(lowered, back), simplify_node))

    def _visit(self, node: Expr) -> Expr:
        if not self.sums.roles.folds_outer(node):
            return node
        if self._is_finished(node):
            return self._renamed(node)
        if node.op == "fold":
            if node.monoid in ("max", "min") and self._is_column(node):
                return column_extremum(self.sums, node)
            if node.monoid != "sum" or node.kind != "real":
                raise refuse("pooling_stage: a derivative with another fold than a sum")
            if any(self.sums.roles.is_outer(i) for i in node.bound):
                return self._sum(node)
            inner = taken_apart(node, self.sums.dummies, self.sums.roles)
            if any(self.sums.roles.is_outer(i) for i in inner.bound):
                return self._sum(node)
        args = tuple(self._within(node.bound, node.args))
        return solved(simplify_node(node.with_args(args)))

    def _is_column(self, node: Expr) -> bool:
        """Whether the node is a fold of numbers over the rows of a key, and maybe heads."""
        bound = {self.sums.roles.of(index.axis) for index in node.bound}
        keys = [i for i in node.free if self.sums.roles.of(i.axis) == "key"]
        return "row" in bound <= {"row", "grid"} and node.kind == "real" and len(keys) == 1

    def _is_finished(self, node: Expr) -> bool:
        """Whether the node is a row value that the forward keeps, or a loop before the others."""
        if not self.sums.roles.folds_keys(node) or not self.sums.roles.is_row(node):
            return False
        if self.sums.values.saved is None:  # its powers need a reference of their own
            counted = node.op in ("gt", "eq", "ne", "to_real") and node.args[0].kind == "int"
            whole = node.args[0] if counted else node
            if whole.op != "fold" or not (counted or whole.kind == "real"):
                return False
            if self.sums.roles.widths((whole,)):
                return False
            frame, met = self.sums.roles.frame, {index.axis for index in whole.free}
            rows = {index.axis for index in (*frame.grid, frame.held)}
            if not (frame.held.axis in met if counted else rows <= met):
                return False
            return all(self.sums.roles.of(index.axis) == "key" for index in whole.bound)
        return not self.sums.values.is_later(node)

    def _renamed(self, node: Expr) -> Expr:
        """A row value outside of any sum over pairs, read at the output's own indices."""
        moves = self.sums.canonical(node.free)
        found = self.sums.values.exchange(substitute(node, positions(moves)), pair=False)
        back = positions({new: old for old, new in moves.items()})
        for index in self.sums.roles.frame.grid:
            if index in found.free and index not in back:  # made for each, read at the first
                back[index] = start(index.axis)
                some = make("gt", length(index.axis), number(0))
                none = FALSE if found.kind == "bool" else number(0.0)
                found = make("where", some, found, none)
        return substitute(found, back)

    def _sum(self, node: Expr) -> Expr:
        whole = taken_apart(node, self.sums.dummies, self.sums.roles)
        several = self._outer_sums(whole)
        if several:
            return total(map(self._sum, several))
        pinned = self.sums.pinned(whole)
        outer = {i for i in whole.body.free if self.sums.roles.is_outer(i)}
        for condition in whole.conditions:
            if condition not in pinned:
                outer |= {i for i in condition.free if self.sums.roles.is_outer(i)}
        keys = [i for i in outer if self.sums.roles.of(i.axis) == "key"]
        rows = [i for i in outer if self.sums.roles.of(i.axis) == "row"]
        if len(keys) > 1 or len(rows) > 1:
            parts = self._addends(whole)
            if parts is None:
                raise refuse("map_stage: a derivative that meets two rows or two keys")
            return total(map(self._sum, parts))
        if not keys or not rows:
            return self._mapped(whole)
        whole = self._of_first(whole)
        (key,), (row,) = keys, rows
        for walked, held in ((row, key), (key, row)):
            tied = tuple(c for c in pinned if walked in c.free)
            if tied and walked in whole.bound and held in self.sums.dummies:
                return in_parts(self.sums, whole, key, held, tied)
        if key in whole.bound and row in whole.bound:
            tied = tuple(c for c in pinned if c.free & {key, row})
            free = frozenset().union(*(c.free for c in tied))
            if {key, row} <= free:
                return scattered(self.sums, whole, key, tied)
            by_key = (
                is_outer_product(self.sums.roles, whole, key)
                and not tied
                and not is_outer_product(self.sums.roles, whole, row)
            )
            if key in free or by_key:
                return held_by_key(self.sums, whole, key, row, pinned)
            return self._held_by_row(whole, key)
        if key in whole.bound:
            return self._held_by_row(whole, key)
        if row in whole.bound:
            return held_by_key(self.sums, whole, key, row, pinned)
        raise refuse("bias_tensor: a number for each pair, summed over what is no row or key")

    def _held_by_row(self, whole: Sum, key: Index) -> Expr:
        """A sum over the keys of a row. What is along another width stays around it; a row value
        there is a sum of its own."""
        found = held_by_row(self.sums, whole, key)
        made = {one.array.name for one in self.sums.made.values()}

        def own(node: Expr) -> Expr | None:
            if node.op != "fold" or not self.sums.roles.folds_keys(node):
                return None
            if any(below.op == "read" and below.array.name in made for below in postorder(node)):
                return None
            return self._visit(node)

        return topdown(found, own)

    def _of_first(self, whole: Sum) -> Sum:
        """A sum that is the same for all of an outer axis, as of a batch that shares its rows, is
        made of the first: row values stand for each."""
        met = {index.axis for expr in whole.exprs for index in expr.free} | {
            index.axis for index in whole.bound
        }
        met |= {axis.of for axis in met if axis.of is not None}
        alike = [index for index in self.sums.roles.frame.grid if index.axis not in met]
        taken = (*indices_in(*whole.exprs), *whole.bound, *self.sums.dummies)
        firsts = tuple(fresh_index(index, taken) for index in alike)
        here = tuple(make("eq", position(one), start(one.axis)) for one in firsts)
        return Sum((*whole.bound, *firsts), (*whole.conditions, *here), whole.body)

    def _addends(self, whole: Sum) -> list[Expr] | None:
        found = addends_of(whole.body)
        if len(found) < 2:
            return None
        test = all_of(whole.conditions)
        return [
            fold("sum", whole.bound, make("neg", part) if minus else part, test)
            for part, minus in found
        ]

    def _outer_sums(self, whole: Sum) -> list[Expr]:
        """x (a + sum_h b) as the sums of x a and of x sum_h b, h an outer index of pairs: each is
        one sum over all that it is over. Nothing where there is no such sum."""
        factors = factors_of(whole.body)
        for place, factor in enumerate(factors.above):
            parts = addends_of(factor)
            if len(parts) < 2 or not any(self._has_outer_sum(part) for part, _ in parts):
                continue
            rest = (*factors.above[:place], *factors.above[place + 1 :])
            around = Factors(rest, factors.below, factors.negative)
            found = []
            for part, minus in parts:
                own = around * factors_of(make("neg", part) if minus else part)
                found.append(fold("sum", whole.bound, own.expr, all_of(whole.conditions)))
            return found
        return []

    def _has_outer_sum(self, expr: Expr) -> bool:
        """Whether a factor sums numbers of pairs over outer axes, in a choice of zero or not."""
        roles, stack = self.sums.roles, [expr]
        while stack:
            for addend, _ in addends_of(stack.pop()):
                for factor in factors_of(addend).above:
                    if hides_outer_sum(factor, roles):
                        return True
                    if not {"row", "key"} <= {roles.of(index.axis) for index in factor.free}:
                        continue
                    if roles.sums_outer(factor):
                        return True
                    if factor.op == "where":
                        stack += [arg for arg in factor.args[1:] if not is_number(arg, 0)]
                    elif factor.op in ("add", "sub"):
                        stack.append(factor)
        return False

    def _mapped(self, whole: Sum) -> Expr:
        """A sum over rows or outer axes of what has its sums over keys inside."""
        body, *conditions = self._within(whole.bound, (whole.body, *whole.conditions))
        return solved(fold("sum", whole.bound, body, all_of(conditions)))

    def _within(self, bound: tuple[Index, ...], parts: tuple[Expr, ...]) -> list[Expr]:
        """What a fold is of. Sums inside are for each key head that it is over."""
        around = self.sums.dummies
        heads = (index for index in bound if self.sums.roles.of(index.axis) == "coarse")
        self.sums.dummies = around.union(heads)
        found = list(map(self._visit, parts))
        self.sums.dummies = around
        return found
