"""Prints scalar trees as Triton over tiles of any number of axes, states in registers among them.

Every index of a width has lanes of its own, in one order for the whole kernel; an expression is a
tile over the indices that it is over. Folds along widths reduce a tile; an entry of a state at a
computed place is picked out by comparing places, since registers have no addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attnc.backends.triton_folds import fold_loop
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf
from attnc.backends.triton_texts import exact, identity, is_true, unwrapped

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr

STATES = ("state", "local")
APART = 3_000_000  # numbers of indices that stand for the place that a state is read at


@dataclass
class Places:
    """The widths of a kernel.

    axes     in the order of tiles
    lanes    of each axis: its lanes, and which of them are inside
    parts    of a split axis: which part the program has
    order    of each index with lanes: its place among the others
    states   the tile of each state
    """

    axes: tuple[Axis, ...]
    lanes: dict[Axis, tuple[str, str]] = field(default_factory=dict)
    parts: dict[Axis, str] = field(default_factory=dict)
    order: dict[Index, tuple[int, int, str]] = field(default_factory=dict)
    states: dict[str, tuple[str, Array]] = field(default_factory=dict)

    def add(self, index: Index) -> None:
        self.order[index] = (self.axes.index(index.axis), index.number, index.name)

    def ordered(self, indices: Iterable[Index]) -> tuple[Index, ...]:
        return tuple(sorted(set(indices), key=self.order.__getitem__))

    def of(self, *exprs: Expr) -> tuple[Index, ...]:
        """The indices with lanes that expressions are over."""
        return self.ordered(i for expr in exprs for i in expr.free if i in self.order)


@dataclass
class TensorPrinter(Printer):
    """A printer whose layout has any number of axes."""

    places: Places = field(default_factory=lambda: Places(()))

    def number(self, expr: Expr) -> str:
        """The text of an expression; of a literal, a tile without axes."""
        text = self.text(expr)
        if expr.op != "number":
            return text
        kind = {"real": "ACC", "int": "INDEX", "bool": "tl.int1"}[expr.kind]
        return f"tl.full([], {text}, {kind})"

    def expand(self, leaf: Leaf) -> str:
        if not leaf.over or leaf.over == self.layout:
            return leaf.text
        axes = (":" if index in leaf.over else "None" for index in self.layout)
        return f"{leaf.text}[{', '.join(axes)}]"

    def over(self, *exprs: Expr) -> tuple[Index, ...]:
        return self.places.of(*exprs)

    def shape(self, node: Expr) -> str:
        over, blocks = self.over(node), self.scope.arguments.blocks
        sizes = [blocks[index] if index in over else "1" for index in self.layout]
        return f"[{', '.join(sizes) if over else ''}]"

    # --- Folds ------------------------------------------------------------------------------------

    def _fold(self, node: Expr) -> str:
        bound = node.bound
        if not all(index in self.places.order for index in bound):
            return fold_loop(self, node)
        over = self.over(node)
        layout = self.places.ordered((*over, *bound))
        inner = replace(self, layout=layout, done={})
        condition, body = node.args
        text = inner.text(body)
        text = inner.real(text, body) if node.kind == "real" else text
        checks = [inner.expand(self.scope.inside[index]) for index in bound]
        if not is_true(condition):
            checks.append(inner.text(condition))
        term = unwrapped(exact(text, body))
        kept = f"tl.where({' & '.join(checks)}, {term}, {identity(node)})"
        return self._reduced_along(node.monoid, kept, layout, bound)

    def _reduced_along(
        self, monoid: str, tile: str, layout: tuple[Index, ...], bound: Iterable[Index]
    ) -> str:
        """A tile over `layout` reduced along some of its axes, the last first."""
        gone = {layout.index(index) for index in bound}
        for axis in sorted(gone, reverse=True):
            tile = f"{REDUCE[monoid]}({tile}, {axis})"
        over = tuple(index for place, index in enumerate(layout) if place not in gone)
        return self.expand(Leaf(self.bind(self.stem, tile), over))

    # --- States -----------------------------------------------------------------------------------

    def _read_number(self, node: Expr) -> str:
        if node.array.role not in STATES:
            return super()._read_number(node)
        tile, state = self.places.states[node.array.name]
        own = self.places.ordered(state.indices)
        at = dict(zip(state.indices, node.args, strict=True))
        stand = {index: at[index].attr for index in own}
        straight = [
            isinstance(other, Index)
            and other in self.places.order
            and other.axis is index.axis
            and list(stand.values()).count(other) == 1
            for index, other in stand.items()
        ]
        if not all(straight):
            return self._picked(node, tile, own, at, straight)
        return self.expand(self._turned(tile, [at[index].attr for index in own]))  # type: ignore[misc]

    def _turned(self, tile: str, indices: list[Index]) -> Leaf:
        """A tile whose axes stand for these indices, its axes in their order."""
        order = self.places.ordered(indices)
        if order == tuple(indices):
            return Leaf(tile, order)
        turn = ", ".join(str(indices.index(index)) for index in order)
        return Leaf(self.bind(self.stem, f"tl.permute({tile}, ({turn}))"), order)

    def _picked(
        self,
        node: Expr,
        tile: str,
        own: tuple[Index, ...],
        at: dict[Index, Expr],
        straight: list[bool],
    ) -> str:
        """A state at computed places: of all its entries the one whose place it is; outside the
        state 0."""
        indices: list[Index] = []
        sources: dict[Index, Expr] = {}
        scope = self.scope
        for plain, index in zip(straight, own, strict=True):
            place = at[index]
            if plain:
                indices.append(place.attr)  # type: ignore[arg-type]
                continue
            source = Index(index.name, index.axis, APART + len(sources))
            self.places.add(source)
            indices.append(source)
            lane, inside = self.places.lanes[index.axis]
            sources[source] = place
            scope = scope.extended(
                rows={source: Leaf(lane, (source,))}, inside={source: Leaf(inside, (source,))}
            )
        over = self.places.ordered(
            [*(i for i in indices if i not in sources), *self.places.of(*sources.values())]
        )
        layout = self.places.ordered((*over, *sources))
        inner = replace(self, scope=scope, layout=layout, done={})
        checks = []
        for source, place in sources.items():
            row = inner.row(source.axis, place)[0]
            here = inner.expand(scope.rows[source])
            checks += [inner.expand(scope.inside[source]), f"({here} == {row})"]
        term = inner.expand(inner._turned(tile, indices))
        if node.kind == "bool":
            term = f"{term}.to(tl.int32)"
        kept = f"tl.where({' & '.join(checks)}, {term}, {'0.0' if node.kind == 'real' else '0'})"
        text = self._reduced_along("sum", kept, inner.layout, sources)
        return f"({text} != 0)" if node.kind == "bool" else text


REDUCE = {"sum": "tl.sum", "prod": "gpu_product", "max": "gpu_max", "min": "gpu_min"}
