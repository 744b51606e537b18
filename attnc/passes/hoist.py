"""Statements out of expressions: what depends on fewer indices is computed once, outside.

does      puts the greatest subtrees of a lower level (grid, held, walked) into Lets of their
          own; names what a pair computes more than once
needs     folds that are matrix products replaced already (see contract)
does not  reorder arithmetic
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.expressions.index import Index
from attnc.expressions.naming import numbered_name
from attnc.expressions.tree import Expr, postorder, value
from attnc.graph import Graph
from attnc.passes.frame import Frame, Level
from attnc.schedule.statements import Let

ORDER: dict[Level, int] = {"grid": 0, "held": 1, "walked": 1, "pair": 2, "inner": 3}
CHEAP = frozenset(("number", "index", "param", "length", "start", "value"))


@dataclass
class Names:
    """Names of one kernel, each given once.

    exponents   of arrays that hold the exponents of a row's or a key's values: how many folds stand
                in one another in the value"""

    taken: set[str] = field(default_factory=lambda: {"reference"})
    exponents: dict[str, int] = field(default_factory=dict)

    def fresh(self, base: str) -> str:
        """`base`, or base_2, base_3 ... if it is taken."""
        return numbered_name(base, self.taken)


def names_in(graph: Graph) -> set[str]:
    """What the text names: arrays, params, axes. Generated code has one name space for them."""
    nodes = tuple(postorder(*graph.roots))
    indices = [index for output in graph.outputs for index in output.array.indices]
    indices += [index for node in nodes for index in node.bound]
    taken = {output.array.name for output in graph.outputs}
    for node in nodes:
        if node.op == "read":
            taken.add(node.array.name)
            indices += node.array.indices
        elif node.op == "param":
            taken.add(str(node.attr))
    return taken | {name for index in indices for name in (index.name, index.axis.name)}


@dataclass
class Hoister:
    """Collects the Lets of one kernel by level. One for a kernel's loops, so that grid and held
    values are shared; walked and pair values are a loop's own (`begin_loop`)."""

    frame: Frame
    names: Names
    lets: dict[Level, list[Let]] = field(
        default_factory=lambda: {"grid": [], "held": [], "walked": [], "pair": []}
    )
    known: dict[tuple[Level, bytes], Expr] = field(default_factory=dict)

    def begin_loop(self) -> None:
        """Forgets what belongs to the loop before."""
        self.lets["walked"], self.lets["pair"] = [], []
        self.known = {key: v for key, v in self.known.items() if key[0] in ("grid", "held")}

    def hoist(self, expr: Expr, at: Level = "pair") -> Expr:
        """The expression for level `at`, with lower subtrees as values."""
        done: dict[bytes, Expr] = {}
        for node in postorder(expr):
            level = self.frame.level(node)
            args = tuple(
                self._lowered(done[arg.digest], self.frame.level(arg), level) for arg in node.args
            )
            done[node.digest] = node.with_args(args)
        return self._lowered(done[expr.digest], self.frame.level(expr), at)

    def _lowered(self, expr: Expr, level: Level, wanted: Level) -> Expr:
        bare = expr.args[0] if expr.op == "to_real" else expr
        if bare.op in CHEAP or level == "inner" or ORDER[level] >= ORDER[wanted]:
            return expr
        return self.let(level, name_of(expr, level), expr)

    def let(self, level: Level, base: str, expr: Expr) -> Expr:
        """The value of a Let at a level; equal expressions share one."""
        key = (level, expr.digest)
        if key not in self.known:
            name = self.names.fresh(base)
            self.lets[level].append(Let(name, expr))
            self.known[key] = value(name, expr.kind, expr.free)
        return self.known[key]

    def share(self, exprs: Iterable[Expr], level: Level = "pair") -> tuple[Expr, ...]:
        """The expressions with subtrees of a level that are used more than once as values."""
        roots = tuple(exprs)
        uses = _uses(roots)
        done: dict[bytes, Expr] = {}
        for node in postorder(*roots):
            changed = node.with_args(tuple(done[arg.digest] for arg in node.args))
            often = uses[node.digest] > 1 and node.op not in CHEAP
            if often and self.frame.level(node) == level:
                # Hoisted itself: a fold within it over the same index is a value of its own.
                changed = self.let(level, name_of(changed, level), self.hoist(changed, level))
            done[node.digest] = changed
        return tuple(done[root.digest] for root in roots)


def _uses(roots: tuple[Expr, ...]) -> dict[bytes, int]:
    """How often each node is an operand of another, or a root."""
    uses: dict[bytes, int] = {}
    for root in roots:
        uses[root.digest] = uses.get(root.digest, 0) + 1
    for node in postorder(*roots):
        uses.setdefault(node.digest, 0)
        for arg in node.args:
            uses[arg.digest] = uses.get(arg.digest, 0) + 1
    return uses


_WORDS = {"grid": "factor", "held": "row", "walked": "key", "pair": "pair"}


def name_of(expr: Expr, level: Level) -> str:
    """A readable name: of the array that is read and its inner index, else a word of the level."""
    if expr.op == "to_real":
        return name_of(expr.args[0], level)
    if expr.op == "read":
        inner = [a.attr.name for a in expr.args if isinstance(a.attr, Index)]
        own = {"held": 1, "walked": 1}.get(level, 0)
        suffix = f"_{inner[-1]}" if own and inner else ""
        return f"{expr.array.name}{suffix}" if suffix else f"{expr.array.name}_{_WORDS[level]}"
    return _WORDS[level]
