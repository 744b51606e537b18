"""Sums over pairs of rows and keys, each as what one loop can do, and each made once.

A derivative's sum is renamed to the indices that kernels have (`canonical`), so that the same sum
at other indices of the derivative is found again; where it stood, its array is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, number, position, read, substitute
from attnc.passes.hoist import Names
from attnc.passes.key_heads import coarse_place
from attnc.passes.outer_sums import Sum
from attnc.passes.placed_sums import says_place
from attnc.passes.refusals import refuse
from attnc.passes.roles import Roles
from attnc.passes.row_values import RowValues
from attnc.passes.simplify import all_of, make

Hold = Literal["row", "key", "deposit", "scatter", "pair"]


@dataclass(frozen=True)
class PairSum:
    """One sum over pairs, in canonical indices.

    hold        row: sum over keys for each row; key: sum over rows (and `around`) for each key;
                deposit: the same by a loop that holds rows and adds to the keys that it walks (see
                gradient_kernels); scatter: into `array` at `at`; pair: stored for each pair
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
class PairSums:
    """The sums of a derivative, by what tells them apart.

    dummies     the indices that the output alone has, of the gradient that is taken apart
    """

    roles: Roles
    values: RowValues
    names: Names
    made: dict[tuple[object, ...], PairSum] = field(default_factory=dict)
    dummies: frozenset[Index] = frozenset()

    def canonical(self, free: frozenset[Index]) -> dict[Index, Index]:
        """The canonical index of each outer one; refuses two on one axis."""
        found: dict[Index, Index] = {}
        for index in sorted(free, key=lambda i: (i.name, i.number)):
            own = self.roles.own(index.axis)
            if own is not None:
                found[index] = own
        if len(set(found.values())) < len(found):
            raise refuse("map_stage: a derivative that meets two rows or two keys")
        return found

    def pinned(self, whole: Sum) -> tuple[Expr, ...]:
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

    def kept(
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
        exchange = positions(moves)
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
        if known not in self.made:
            ends = (width,) if width else ()
            words = {
                "row": "rows",
                "key": "keyed",
                "scatter": "cells",
                "pair": "pairs",
            }
            array = Array(
                self.names.fresh(f"{words[hold]}_grad"), (*over, *ends), "real", "workspace"
            )
            self.made[known] = PairSum(
                hold, array, moves[key], conditions, body, width, at, around, coarse, monoid,
                otherwise,
            )  # fmt: skip
        array = self.made[known].array
        at_site = []
        for index in array.indices:
            if width is not None and index == width:
                at_site.append(position(wide[0]))
            elif cell is not None and index == over[-1]:
                at_site.append(cell)
            else:
                at_site.append(position(places[index]))
        return read(array, at_site)

    def _chosen(self, inner: Sum) -> Sum:
        """The sum with conditions along a width as choices of its body."""
        along = [c for c in inner.conditions if self.roles.widths((c,))]
        rest = tuple(c for c in inner.conditions if c not in along)
        body = make("where", all_of(tuple(along)), inner.body, number(0.0)) if along else inner.body
        return Sum(inner.bound, rest, body)


def positions(moves: dict[Index, Index]) -> dict[Index, Expr]:
    return {old: position(new) for old, new in moves.items()}
