"""Statements of a recurrence's row: what varies along fewer widths is computed once, outside.

does      puts every fold into a Let of its own, and every subtree that varies along fewer
          widths than what uses it; takes what does not change along time out of the loop;
          orders factors so that products along few widths come first, and takes factors that
          a sum does not bind out of it
needs     simplified expressions over grid indices, time and widths; reads of states at their
          widths
does not  change what is added up, but for the order of factors
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    FUNCTIONS,
    TRUE,
    Array,
    Expr,
    fold,
    position,
    postorder,
    rewrite,
    value,
)
from attnc.passes.factors import Factors, factors_of
from attnc.passes.hoist import CHEAP, Names
from attnc.passes.simplify import make
from attnc.schedule.statements import Let

Side = Literal["before", "after"]
Level = Literal["constant", "row", "before", "after"]
ORDER = {"constant": 0, "row": 1, "before": 2, "after": 3}
WORDS = {"constant": "constant", "row": "row", "before": "seen", "after": "read"}
# Worth an array of its own where it changes less often than what it is used for.
COSTLY = frozenset((*FUNCTIONS, "div", "pow", "random")) - {"stop", "re", "im", "conj"}
STATES = ("state", "local")


@dataclass
class Rows:
    """Collects the Lets of one scan kernel: constant (once an instance), row (of inputs), before
    (from the states before the row), after (from those after it).

    grid     indices of the instance, the outermost first
    time     the index that is walked
    widths   the axes that arrays of a row are over
    sides    arrays whose reads are always of one side, whatever is asked
    """

    grid: tuple[Index, ...]
    time: Index
    widths: frozenset[Axis]
    names: Names
    sides: Mapping[str, Side] = field(default_factory=dict)
    lets: dict[Level, list[Let]] = field(
        default_factory=lambda: {"constant": [], "row": [], "before": [], "after": []}
    )
    known: dict[tuple[Level, bytes], Expr] = field(default_factory=dict)
    levels: dict[str, Level] = field(default_factory=dict)

    def settle(self, expr: Expr, states: Side) -> Expr:
        """The expression with its folds and smaller parts as values; reads of states are of those
        before the row, or after it."""
        done: dict[bytes, Expr] = {}
        root = rewrite(expr, self._grouped)
        for node in postorder(root):
            around = self.spread(node) | frozenset(node.bound)
            level = self.level(node, states)
            args = tuple(self._lowered(done[a.digest], around, level, states) for a in node.args)
            changed = node.with_args(args)
            if node.op == "fold" and self._placed(changed):
                changed = self.let(changed, states)
            done[node.digest] = changed
        return done[root.digest]

    def fresh(self, sides: Mapping[str, Side]) -> Rows:
        """Another collection for the same instance: it shares what is constant."""
        known = {key: value for key, value in self.known.items() if key[0] == "constant"}
        lets: dict[Level, list[Let]] = {"row": [], "before": [], "after": []}
        lets["constant"] = self.lets["constant"]
        levels: dict[str, Level] = {str(one.attr): "constant" for one in known.values()}
        return replace(self, sides=sides, lets=lets, known=known, levels=levels)

    def next_of(self, states: tuple[Array, ...], exprs: Iterable[Expr]) -> tuple[Expr, ...]:
        """The states after the row, each of states at its own place alone."""
        places = {state.name: state.indices for state in states}
        found = []
        for state, expr in zip(states, exprs, strict=True):
            settled = self.settle(expr, "before")

            def own(node: Expr, indices: tuple[Index, ...] = state.indices) -> Expr:
                if node.op != "read" or node.array.name not in places:
                    return node
                at = tuple(map(position, indices))
                same = places[node.array.name] == indices and node.args == at
                return node if same else self.let(node, "before")

            found.append(rewrite(settled, own))
        return tuple(found)

    def let(self, expr: Expr, states: Side) -> Expr:
        """The value of a Let; equal expressions share one."""
        level = self.level(expr, states)
        key = (level, expr.digest)
        if key not in self.known:
            name = self.names.fresh(_name_of(expr, level))
            self.lets[level].append(Let(name, expr))
            self.levels[name] = level
            self.known[key] = value(name, expr.kind, expr.free)
        return self.known[key]

    def spread(self, expr: Expr) -> frozenset[Index]:
        """The indices beyond grid and time that the expression is over."""
        return expr.free - {*self.grid, self.time}

    def level(self, expr: Expr, states: Side) -> Level:
        """When the expression is known."""
        found: Level = "row" if self.time in expr.free else "constant"
        for node in postorder(expr):
            own: Level = "constant"
            if node.op == "read" and node.array.role in STATES:
                own = self.sides.get(node.array.name, states)
            elif node.op == "value":
                own = self.levels[str(node.attr)]
            found = own if ORDER[own] > ORDER[found] else found
        return found

    def _placed(self, expr: Expr) -> bool:
        """Whether the expression is over widths alone, so that it can have an array."""
        return all(index.axis in self.widths for index in self.spread(expr))

    def _lowered(
        self,
        expr: Expr,
        around: frozenset[Index],
        level: Level,
        states: Side,
    ) -> Expr:
        if expr.op in CHEAP or expr.op == "read" or not self._placed(expr):
            return expr
        if expr.op == "to_real" and expr.args[0].op in CHEAP:
            return expr
        fewer = self.spread(expr) < around
        if level != "constant" and self.level(expr, states) == "constant":
            return self.let(expr, states) if fewer or _is_costly(expr) else expr
        return self.let(expr, states) if fewer else expr

    # ---------------------------------------------------------------------------- products

    def _grouped(self, node: Expr) -> Expr:
        """A product with factors along few widths first; a sum without the factors that it does
        not bind."""
        if node.kind != "real":
            return node
        if node.op in ("mul", "div"):
            return self._product(factors_of(node)) or node
        if node.op == "fold" and node.monoid == "sum":
            return self._sum(node)
        return node

    def _product(self, factors: Factors) -> Expr | None:
        every = (*factors.above, *factors.below)
        spreads = list(dict.fromkeys(self.spread(factor) for factor in every))
        if len(every) < 3 or len(spreads) < 2:
            return None
        spreads.sort(key=len)
        whole: Expr | None = None
        for spread in spreads:
            part, factors = factors.split(lambda f, s=spread: self.spread(f) == s)  # type: ignore[misc]
            whole = part.expr if whole is None else make("mul", whole, part.expr)
        return whole

    def _sum(self, node: Expr) -> Expr:
        condition, body = node.args
        bound = frozenset(node.bound)
        outside, inside = factors_of(body).split(lambda f: not f.free & bound)
        if not outside.above and not outside.below and not outside.negative:
            return node
        rest = fold("sum", node.bound, inside.expr, condition if condition != TRUE else TRUE)
        return self._product(factors_of(make("mul", outside.expr, rest))) or make(
            "mul", outside.expr, rest
        )


def _is_costly(expr: Expr) -> bool:
    return any(node.op in COSTLY for node in postorder(expr))


def _name_of(expr: Expr, level: Level) -> str:
    """A readable name: of the first array that is read, and when."""
    if expr.op == "fold":
        arrays = [node.array.name for node in postorder(expr) if node.op == "read"]
        return f"{expr.monoid}_{arrays[-1]}" if arrays else expr.monoid
    return WORDS[level]
