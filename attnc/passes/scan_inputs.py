"""Where the gradients of a recurrence's inputs go.

    a row for each row      an input that every site reads at the row itself
    a sum over rows         an input without time, carried and written after the first row
    added where it is read  an input that some site reads at computed places (lags, tables)

does      one result for each instance of the grid, in the gradient itself where that has all of the
          grid's indices, else in a workspace that a map sums over heads and batches, in order
needs     the adjoints of one row's reads (scan_gradients)
does not  pull cotangents
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from attnc.build import output_indices
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import TRUE, Array, Expr, call, fold, position, read
from attnc.passes.adjoints import Adjoint
from attnc.passes.chunk import Instance, member
from attnc.passes.differentiate import Names, Pullback
from attnc.passes.factors import ZERO
from attnc.passes.key_heads import group_size
from attnc.passes.maps import map_of
from attnc.schedule import Kernel, Workspace
from attnc.schedule.scans import Final, RowWrite

Way = Literal["grid", "member", "time", "width", "computed"]


@dataclass
class Destinations:
    """Sends the adjoints of one row to the gradients of the inputs.

    prefix     of the names of kernels
    inputs     the real inputs by name; `gradients`: their gradients, named as `called` says
    back       an adjoint as statements have it
    sums       what is carried for inputs without time, by input; `parts`: what a row adds to each,
               `endings`: what it is after the initial states, both by the sum's name
    ways       how each input is read; `rows`: the write of an input that has a row for each row
    writes     of a row; `ended`: of the initial states
    """

    prefix: str
    one: Instance
    names: Names
    inputs: dict[str, Array]
    back: Callable[[Expr], Expr]
    called: Mapping[str, str] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)
    sums: dict[str, Array] = field(default_factory=dict)
    parts: dict[str, Expr] = field(default_factory=dict)
    endings: dict[str, Expr] = field(default_factory=dict)
    spaces: dict[str, Array] = field(default_factory=dict)
    ways: dict[str, tuple[Way, ...]] = field(default_factory=dict)
    rows: dict[str, RowWrite] = field(default_factory=dict)
    writes: list[RowWrite] = field(default_factory=list)
    ended: list[RowWrite] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grid, self.time = self.one.grid, self.one.recurrence.time
        for name, array in self.inputs.items():
            indices = tuple(output_indices(array.indices).values())
            named = self.called.get(name) or self.names.fresh(f"{name}_grad")
            self.gradients[name] = Array(named, indices, "real", "output")

    def send(self, name: str, pulled: Pullback, begun: Pullback) -> None:
        """The gradient of an input from the adjoints of a row, and of the initial states."""
        array = self.inputs[name]
        row, first = pulled.reads.get(name, []), begun.reads.get(name, [])
        if not row and not first:
            self._nothing(array)
            return
        ways = self.ways[name] = self._ways(array, [*row, *first])
        if "computed" in ways or ("time" in ways and first):
            self._scattered(array, ways, pulled, row, self.writes)
            self._scattered(array, ways, begun, first, self.ended)
        elif "time" in ways:
            self._rows(array, ways, pulled)
        else:
            self._summed(array, ways, pulled, begun)

    def again(self, name: str, pulled: Pullback, back: Callable[[Expr], Expr]) -> Expr | None:
        """What rows give to an input whose gradient has its place, by another pullback; None if
        they give it at computed places."""
        sites = pulled.reads.get(name, [])
        if name not in self.ways or not sites:
            return ZERO
        array, ways = self.inputs[name], self.ways[name]
        if (name not in self.rows and name not in self.sums) or self._ways(array, sites) != ways:
            return None
        return self._along(array, ways, pulled, back)

    def _ways(self, array: Array, sites: Sequence[tuple[Expr, Adjoint]]) -> tuple[Way, ...]:
        """How each dimension of an input is read, at every site alike (else it is computed)."""
        found: list[Way] = []
        for place in range(len(array.indices)):
            here = {self._way(node, place, adjoint) for node, adjoint in sites}
            found.append(here.pop()[0] if len(here) == 1 else "computed")
        if "computed" in found:
            return tuple("computed" if way in ("time", "width") else way for way in found)
        return tuple(found)

    def _way(self, node: Expr, place: int, adjoint: Adjoint) -> tuple[Way, Index | None]:
        at, axis = node.args[place], node.array.axes[place]
        if axis.form == "coarse" and axis.of is not None:
            for fine in self.grid:
                if fine.axis is axis.of and at == member(Index(axis.name, axis), self.grid):
                    return "member", fine
        index = at.attr
        if at.op != "index" or not isinstance(index, Index) or index.axis is not axis:
            return "computed", None
        if index in self.grid:
            return "grid", index
        if index == self.time:
            return "time", None
        once = sum(index in other.free for other in node.args) == 1
        plain = once and index in adjoint.over and axis in self.one.widths
        return ("width", None) if plain else ("computed", None)

    def _inner(self, array: Array, ways: tuple[Way, ...]) -> tuple[Index, ...]:
        """The indices of a gradient that are neither of the grid nor time."""
        own = self.gradients[array.name].indices
        return tuple(i for i, way in zip(own, ways, strict=True) if way in ("width", "computed"))

    def _along(
        self,
        array: Array,
        ways: tuple[Way, ...],
        pulled: Pullback,
        back: Callable[[Expr], Expr] | None = None,
    ) -> Expr:
        """What one row gives to an input that is read straight, over the inner indices."""
        inner = self._inner(array, ways)
        straight = Array(f"row of {array.name}", inner, "real", "input")
        keep = [place for place, way in enumerate(ways) if way == "width"]
        pulled.reads[straight.name] = [
            (read(straight, (node.args[place] for place in keep)), adjoint)
            for node, adjoint in pulled.reads.get(array.name, [])
        ]
        return (back or self.back)(pulled.gradient(straight, inner))

    def _target(
        self, array: Array, ways: tuple[Way, ...], moving: bool, direct: bool
    ) -> tuple[Array, tuple[Expr, ...]]:
        """The array that one instance writes, and where: the gradient itself if it has all indices
        of the grid, else a workspace that a map sums."""
        own, inner = self.gradients[array.name], self._inner(array, ways)
        of_grid = [self._grid_index(i, way) for i, way in zip(own.indices, ways, strict=True)]
        whole = ways.count("grid") == len(self.grid)
        if direct and whole:
            at = (
                position(self.time) if way == "time" else position(g if g is not None else i)
                for i, g, way in zip(own.indices, of_grid, ways, strict=True)
            )
            return own, tuple(at)
        time = (self.time,) if moving else ()
        indices = (*self.grid, *time, *inner)
        space = Array(self.names.fresh(f"{own.name}_each"), indices, "real", "workspace")
        self.workspaces.append(Workspace(space, "accumulate"))
        self._map(own, ways, of_grid, space, moving)
        return space, tuple(map(position, indices))

    def _grid_index(self, index: Index, way: Way) -> Index | None:
        """The index of the grid that an outer index of a gradient is, or whose groups it is."""
        if way not in ("grid", "member"):
            return None
        axis = index.axis.of if way == "member" else index.axis
        return next(g for g in self.grid if g.axis is axis)

    def _map(
        self,
        own: Array,
        ways: tuple[Way, ...],
        of_grid: list[Index | None],
        space: Array,
        moving: bool,
    ) -> None:
        """Sums what the instances that share an entry of an input give to it, in their order."""
        places: dict[Index, Expr] = {}
        bound: list[Index] = []
        for index, way, grid in zip(own.indices, ways, of_grid, strict=True):
            if grid is None:
                continue
            places[grid] = position(index)
            if way == "member":
                size = group_size(index.axis)
                name = self.names.fresh("head_group")
                group = Index(name, Axis(name, "range", length=size), 1)
                bound.append(group)
                places[grid] = call("add", call("mul", position(index), size), position(group))
        for grid in self.grid:
            if grid not in places:
                bound.append(Index(grid.name, grid.axis, 1))
                places[grid] = position(bound[-1])
        at = [places[grid] for grid in self.grid]
        if moving:
            at.append(
                next(position(i) for i, w in zip(own.indices, ways, strict=True) if w == "time")
            )
        inner = [i for i, w in zip(own.indices, ways, strict=True) if w in ("width", "computed")]
        whole = read(space, (*at, *map(position, inner)))
        if bound:
            whole = fold("sum", bound, whole)
        last = own.indices[-1] if own.indices else None
        wide = last if last is not None and last in inner and last.axis in self.one.widths else None
        over = tuple(index for index in own.indices if index != wide)
        name = f"{self.prefix}_{own.name}"
        self.kernels.append(map_of(name, over, wide, own, whole, set(self.names.taken)))

    def _rows(self, array: Array, ways: tuple[Way, ...], pulled: Pullback) -> None:
        """A row of the gradient for each row."""
        target, at = self._target(array, ways, True, True)
        term = self._along(array, ways, pulled)
        self.rows[array.name] = RowWrite(target, at, self._inner(array, ways), term)
        self.writes.append(self.rows[array.name])

    def _summed(
        self,
        array: Array,
        ways: tuple[Way, ...],
        pulled: Pullback,
        begun: Pullback,
    ) -> None:
        """One gradient for all rows: carried, and written at the end."""
        inner = self._inner(array, ways)
        total = Array(self.names.fresh(f"{array.name}_sum"), inner, "real", "state")
        self.sums[array.name] = total
        self.parts[total.name] = self._along(array, ways, pulled)
        self.endings[total.name] = plus(own(total), self._along(array, ways, begun))
        target, at = self._target(array, ways, False, True)
        self.finals.append(Final(target, total, at))

    def _scattered(
        self,
        array: Array,
        ways: tuple[Way, ...],
        pulled: Pullback,
        sites: Sequence[tuple[Expr, Adjoint]],
        writes: list[RowWrite],
    ) -> None:
        """What is read at computed places gets its gradient there, one site after another."""
        if not sites:
            return
        if array.name not in self.spaces:
            self.spaces[array.name] = self._target(array, ways, False, False)[0]
        for node, adjoint in sites:
            inner = [at for at, w in zip(node.args, ways, strict=True) if w == "computed"]
            over = frozenset().union(*(at.free for at in inner)) & adjoint.over
            closed = pulled.closer.closed(adjoint, over, whole=True)
            conditions = (*closed.domain, *closed.guards)
            term = self.back(replace(closed, domain=(), guards=()).product.expr)
            test = TRUE
            for one in conditions:
                test = one if test == TRUE else call("and", test, one)
            at = (*map(position, self.grid), *(self.back(place) for place in inner))
            order = tuple(sorted(over, key=lambda i: (i.name, i.number)))
            condition = None if test == TRUE else self.back(test)
            writes.append(RowWrite(self.spaces[array.name], at, order, term, condition, adds=True))

    def _nothing(self, array: Array) -> None:
        """The gradient of an input that is only read where nothing has a derivative."""
        own = self.gradients[array.name]
        name = f"{self.prefix}_{own.name}"
        self.kernels.append(map_of(name, own.indices, None, own, ZERO, set(self.names.taken)))


def own(array: Array) -> Expr:
    """An array at its own place."""
    return read(array, map(position, array.indices))


def plus(left: Expr, right: Expr) -> Expr:
    return left if right == ZERO else call("add", left, right)
