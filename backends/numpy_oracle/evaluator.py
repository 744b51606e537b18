"""The dense evaluator: every expression on the whole grid of its free indices.

A `Frame` binds names that have one value for now: the states and the row of a step, the unknown of
a solve, the arrays of a repeat. An expression is evaluated in the innermost frame that binds
something it depends on; what depends on no frame is evaluated once and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from attnc.backends.numpy_oracle import fold as folds
from attnc.backends.numpy_oracle import grid as g
from attnc.backends.numpy_oracle.dependence import Name, Sources, unknown_name
from attnc.backends.numpy_oracle.frame import Frame, final, place_of, seen_from
from attnc.backends.numpy_oracle.gradient import derivative
from attnc.backends.numpy_oracle.grid import Grid, Trouble
from attnc.backends.numpy_oracle.pointwise import pointwise
from attnc.backends.numpy_oracle.steps import repeated, run, solve

from attnc import philox
from attnc.errors import ArgumentMissing, InternalError, ShapeError
from attnc.expressions.index import Axis, Index
from attnc.expressions.softplus import softplus_argument
from attnc.expressions.tree import LEAVES, POINTWISE, Array, Expr, substitute
from attnc.spec import Spec

KEPT = 1 << 18  # entries: larger grids are not kept for a second use elsewhere


@dataclass
class Call:
    """What a call gives: measured lengths and first positions by axis name, numbers and tensors."""

    lengths: dict[str, int]
    starts: dict[str, int]
    numbers: dict[str, Any]
    inputs: dict[str, Grid]
    states: dict[str, Grid]
    seed: int = 0


class Evaluator:
    """The values of the expressions and arrays of a Spec in one call."""

    def __init__(self, spec: Spec, call: Call) -> None:
        self.spec = spec
        self.call = call
        self.sources = Sources(spec)
        self.root = Frame()
        self.arrays: dict[str, Grid] = {}
        self.written: dict[bytes, Expr] = {}
        self.inputs = {given.name: given for given in spec.inputs}
        self.numbers = {number.name: number for number in spec.numbers}

    def length(self, axis: Axis) -> int:
        """The length of an axis: measured, or what its expression says."""
        if axis.name not in self.call.lengths:
            self.call.lengths[axis.name] = max(self._length(axis), 0)
        return self.call.lengths[axis.name]

    def _length(self, axis: Axis) -> int:
        if axis.length is not None:
            return int(self.value(axis.length).mantissa)
        if axis.form == "product":
            return int(np.prod([self.length(part) for part in axis.parts], dtype=np.int64))
        wanted = f"a tensor with the axis `{axis.name}`"
        raise ArgumentMissing(self.spec.name, axis.name, wanted, "none to measure it on")

    def start(self, axis: Axis) -> int:
        """The first position of an axis."""
        first = self.call.starts.get(axis.name, 0)
        return first if axis.low is None else first + int(self.value(axis.low).mantissa)

    def size(self, index: Index) -> int:
        return self.length(index.axis)

    def number(self, name: str) -> Grid:
        if name in self.call.numbers:
            return g.constant(self.call.numbers[name])
        number = self.numbers.get(name)
        if number is None or number.default is None:
            raise ArgumentMissing(self.spec.name, name, "a number")
        return self.value(number.default)

    def position(self, index: Index) -> Grid:
        return Grid((index,), np.arange(self.size(index), dtype=np.int64) + self.start(index.axis))

    def value(self, root: Expr, frame: Frame | None = None) -> Grid:
        """The grid of an expression over its free indices (those bound in a frame excepted)."""
        frame = self.root if frame is None else frame
        if root.digest not in frame.orders:
            frame.orders[root.digest] = self._order(root, frame)
        order = frame.orders[root.digest]
        uses: dict[bytes, int] = {}
        for node, own in order:
            for arg in self._operands(node) if own else ():
                uses[arg.digest] = uses.get(arg.digest, 0) + 1
        done: dict[bytes, Grid] = {}
        for node, own in order:
            done[node.digest] = self._node(node, own, done, frame)
            for arg in self._operands(node) if own else ():
                uses[arg.digest] -= 1
                if not uses[arg.digest]:
                    del done[arg.digest]
        return done[root.digest]

    def _order(self, root: Expr, frame: Frame) -> list[tuple[Expr, bool]]:
        """The nodes to evaluate, operands first; False marks those that an outer frame has."""
        order: list[tuple[Expr, bool]] = []
        seen: set[bytes] = set()
        stack: list[tuple[Expr, bool]] = [(root, False)]
        self.sources.names(root)
        while stack:
            node, ready = stack.pop()
            if node.digest in seen:
                continue
            if ready:
                seen.add(node.digest)
                order.append((node, True))
            elif self._is_known(node, frame):
                seen.add(node.digest)
                order.append((node, False))
            else:
                stack.append((node, True))
                stack += [(arg, False) for arg in reversed(self._operands(node))]
        return order

    def _is_known(self, node: Expr, frame: Frame) -> bool:
        """Whether a node is an outer frame's, or was kept."""
        if frame.parent is None:
            return node.digest in frame.kept
        return not frame.binds(self.sources.names(node))

    def _operands(self, node: Expr) -> tuple[Expr, ...]:
        """What is evaluated before a node: for a sum of products the factors, never the product;
        for log(1 + exp(x)) x alone."""
        if node.op == "fold" and node.monoid == "sum":
            return (node.args[0], *_factors(node.args[1]))
        if node.op == "solve":
            return node.args[:2]
        beside_one = softplus_argument(node)
        if beside_one is not None:
            return (beside_one,)
        return node.args[1:] if node.op == "grad" else node.args

    def _node(self, node: Expr, own: bool, done: dict[bytes, Grid], frame: Frame) -> Grid:
        if own:
            result = self._evaluated(node, [done[a.digest] for a in self._operands(node)], frame)
            if frame.parent is None and result.mantissa.size <= KEPT and node.op != "read":
                frame.kept[node.digest] = result
            return result
        if node.digest not in frame.kept:
            assert frame.parent is not None
            frame.kept[node.digest] = self.value(node, frame.parent)
        return frame.kept[node.digest]

    def _evaluated(self, node: Expr, args: list[Grid], frame: Frame) -> Grid:
        if node.op in POINTWISE:
            op = node.op if softplus_argument(node) is None else "softplus"
            return pointwise(op, node.kind, place_of(node), args)
        if node.op in LEAVES:
            return self._leaf(node, frame)
        if node.op == "read":
            return self._read(node, args, frame)
        if node.op == "fold":
            return folds.fold(node.monoid, args[0], args[1:], node.bound, self.size)
        if node.op in ("topk", "rank", "argmax", "argmin"):
            return self._select(node, args, frame)
        if node.op == "default":
            return _default(args[0], args[1])
        if node.op == "solve":
            return solve(self, node, args[0], args[1], frame)
        if node.op == "random":
            return self._random(node, args)
        if node.op == "grad":
            return self.value(derivative(node, self.sources), frame)
        raise InternalError(f"the oracle has no operation {node.op!r}")

    def _leaf(self, node: Expr, frame: Frame) -> Grid:
        if isinstance(node.attr, Index):
            return self._bound(node.attr, frame) or self.position(node.attr)
        if isinstance(node.attr, Axis):
            return g.constant((self.length if node.op == "length" else self.start)(node.attr))
        if node.op == "param":
            return self.number(str(node.attr))
        if node.op == "unknown":
            found = self._bound(unknown_name(str(node.attr)), frame)
            assert found is not None
            return found
        assert isinstance(node.attr, bool | int | float)
        return g.constant(node.attr)

    def _bound(self, name: Name, frame: Frame | None) -> Grid | None:
        while frame is not None:
            if name in frame.names:
                return frame.names[name]
            frame = frame.parent
        return None

    def _read(self, node: Expr, args: list[Grid], frame: Frame) -> Grid:
        array = node.array
        bound = self._bound(array.name, frame)
        if bound is None and self._moves(array, frame):
            # It depends on the states of this step: read it through its equation.
            return self.value(self._written_out(node), seen_from(frame, array.name))
        found = self.array(array) if bound is None else bound
        return self._at(found, self._indices(array), node.args, args, node, frame)

    def _indices(self, array: Array) -> tuple[Index, ...]:
        """The indices over which an array's grid stands: arrays are known by name."""
        if array.name in self.inputs:
            return self.inputs[array.name].array.indices
        found = self.sources.definitions.get(array.name)
        return array.indices if found is None else found.array.indices

    def _written_out(self, node: Expr) -> Expr:
        """The equation of a read's array at the positions of the read."""
        if node.digest not in self.written:
            definition = self.sources.definition(node.array.name)
            exchange = dict(zip(definition.array.indices, node.args, strict=True))
            self.written[node.digest] = substitute(definition.expr, exchange)
        return self.written[node.digest]

    def _moves(self, array: Array, frame: Frame) -> bool:
        """Whether an array's equation depends on what a frame binds."""
        names = self.sources.names(_any_read(array)) - {array.name, *array.indices}
        while frame.parent is not None:
            if frame.binds(names):
                return True
            frame = frame.parent
        return False

    def _at(
        self,
        found: Grid,
        indices: Sequence[Index],
        positions: Sequence[Expr],
        args: Sequence[Grid],
        node: Expr,
        frame: Frame,
    ) -> Grid:
        """The grid over `indices` at positions; outside its axes it is in trouble."""
        rows: dict[Index, Grid] = {}
        border: list[Trouble] = []
        for index, position, arg in zip(indices, positions, args, strict=True):
            first, count = self.start(index.axis), self.size(index)
            row = Grid(arg.dims, arg.mantissa - first, None, arg.troubles)
            border += arg.troubles
            if not self._spans(position, index, frame):
                border += self._outside(row, index, first, count, node)
            rows[index] = row
        same = [self._renamed(p, index, frame) for p, index in zip(positions, indices, strict=True)]
        names = [index for index in same if index is not None]
        if len(names) == len(same) and len(set(names)) == len(names):
            result = _rename(found, dict(zip(indices, names, strict=True)))
        else:
            result = folds.gather(found, rows, self.size)
        return replace(result, troubles=g.collected((*border, *result.troubles)))

    def _renamed(self, position: Expr, index: Index, frame: Frame) -> Index | None:
        """The index that a position is, where it runs over the very axis that it reads."""
        return position.attr if self._spans(position, index, frame) else None  # type: ignore[return-value]

    def _spans(self, position: Expr, index: Index, frame: Frame) -> bool:
        if position.op != "index" or not isinstance(position.attr, Index):
            return False
        return position.attr.axis.name == index.axis.name and not self._bound(position.attr, frame)

    def _outside(
        self, row: Grid, index: Index, first: int, count: int, node: Expr
    ) -> Iterable[Trouble]:
        outside = (row.mantissa < 0) | (row.mantissa >= count)
        if not outside.any():
            return ()
        name = node.array.name if node.op == "read" else node.op
        wanted = f"positions {first} .. {first + count} on the axis `{index.axis.name}`"
        found = np.unique(row.mantissa[outside])
        # One trouble for each position while they are few: the one demanded is the one told.
        spans = [(at, at) for at in found] if found.size <= 16 else [(found[0], found[-1])]
        return [
            Trouble(
                name,
                wanted,
                f"a read at {low + first}{'' if low == high else f' .. {high + first}'}"
                f"{place_of(node)}",
                True,
                Grid(row.dims, outside & (row.mantissa >= low) & (row.mantissa <= high)),
            )
            for low, high in spans
        ]

    def array(self, array: Array) -> Grid:
        """The values of an input, an equation or a recorded result over the array's own indices."""
        if array.name not in self.arrays:
            for name in self.sources.needed((_any_read(array),)):
                if name not in self.arrays and (name == array.name or not self._in_steps(name)):
                    self.arrays[name] = self._made(name)
        return self.arrays[array.name]

    def _made(self, name: str) -> Grid:
        if name in self.call.inputs:
            return self.call.inputs[name]
        if name in self.inputs:
            return self._default_input(name)
        if name in self.sources.states:
            return run(self, self.sources.states[name], ())[name]
        if self._in_steps(name):
            home = self.sources.homes[name]
            return run(self, home, (self.sources.definition(name),))[name]
        if name in self.sources.repeats:
            return repeated(self, self.sources.repeats[name])[name]
        return final(self.value(self.sources.definition(name).expr))

    def _in_steps(self, name: str) -> bool:
        """Whether an array is a state or a local, or depends on one row by row. What depends on
        them but has no row is made of all rows, after the last."""
        if name in self.sources.states or name in self.sources.lines:
            return True
        home = self.sources.homes.get(name)
        if home is None or home.rows[-1] not in self.sources.definition(name).array.indices:
            return False
        names = self.sources.names(self.sources.definition(name).expr)
        inside = {state.array.name for state in home.states} | self.sources.lines.keys()
        return bool(names & inside)

    def _default_input(self, name: str) -> Grid:
        default = self.inputs[name].default
        if default is None:
            raise ArgumentMissing(self.spec.name, name, "a tensor")
        return final(self.value(default))

    def _select(self, node: Expr, args: list[Grid], frame: Frame) -> Grid:
        if node.op in ("argmax", "argmin"):
            (index,) = node.bound
            largest = node.op == "argmax"
            row, some = folds.extreme_row(args[0], args[1], index, self.size, largest)
            found = Grid(row.dims, row.mantissa + self.start(index.axis), None, row.troubles)
            return g.choose(some, found, g.constant(-1))
        if node.op == "rank":
            whole, at = folds.rank(args[0], args[1], node.bound, self.size), 2
        else:
            whole, at = folds.topk(args[0], args[1], args[2], node.bound, self.size), 3
        return self._at(whole, node.bound, node.args[at:], args[at:], node, frame)

    def _random(self, node: Expr, args: list[Grid]) -> Grid:
        assert isinstance(node.attr, int)
        dims, (b, h, i, j) = g.joined(*args)
        at = (b.mantissa, h.mantissa, i.mantissa, j.mantissa)
        return Grid(dims, philox.uniform(self.call.seed, node.attr, *at))

    def checks(self) -> None:
        """What the checker left to the call."""
        for check in self.spec.checks:
            if not self.value(check.condition).mantissa.all():
                raise ShapeError(
                    self.spec.name, "the call", check.message, f"not so ({check.span})"
                )


def _default(value: Grid, fallback: Grid) -> Grid:
    """The value, and the fallback where a read in it is outside."""
    outside = [trouble for trouble in value.troubles if trouble.border]
    if not outside:
        return replace(value, troubles=value.troubles)
    taken = outside[0].where
    for trouble in outside[1:]:
        taken = g.either(taken, trouble.where)
    lasting = [trouble for trouble in value.troubles if not trouble.border]
    troubles = (
        *g.restricted(lasting, g.inverse(taken)),
        *g.restricted(fallback.troubles, taken),
    )
    return replace(g.choose(taken, fallback, value), troubles=g.collected(troubles))


def _factors(body: Expr) -> list[Expr]:
    """The factors of a product of reals; the body itself where it is none."""
    if body.op != "mul" or body.kind not in ("real", "complex"):
        return [body]
    factors: list[Expr] = []
    stack = list(reversed(body.args))
    while stack:
        node = stack.pop()
        if node.op == "mul" and node.kind in ("real", "complex"):
            stack += reversed(node.args)
        else:
            factors.append(node)
    return factors


def _any_read(array: Array) -> Expr:
    """A read of the array at its own indices."""
    return Expr(
        "read", tuple(Expr("index", (), i, "int") for i in array.indices), array, array.kind
    )


def _rename(grid: Grid, names: dict[Index, Index]) -> Grid:
    """The grid over other names of the same axes."""
    troubles = tuple(
        replace(each, border=False, where=_rename(each.where, names)) for each in grid.troubles
    )
    dims = tuple(names.get(index, index) for index in grid.dims)
    return Grid(dims, grid.mantissa, grid.exponent, troubles)
