"""Scan kernels run by NumPy, row by row: what their sequential form means.

One instance of the grid at a time. Every index of a statement, bound ones too, has a dimension of
its own, so that a value over `d'1` meets the fold that binds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attnc.expressions import evaluate as evaluation
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, postorder, rewrite, value
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import Let, Store

REDUCE = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
IDENTITY = {"sum": 0.0, "prod": 1.0, "max": -np.inf, "min": np.inf}


def run_scan(interpreter: Any, kernel: ScanKernel, instance: type[Instance] | None = None) -> None:
    """Fills the arrays that the kernel stores."""
    states = {state.name for state in kernel.loop.states}
    for argument in interpreter.schedule.signature.inputs:
        if argument.name in states and argument.name not in interpreter.arrays:
            shape = [interpreter.size(index) for index in argument.array.indices]
            number = evaluation.evaluate(argument.default, interpreter._environment({}, {}))
            interpreter.arrays[argument.name] = np.full(shape, number)
    ranges = [interpreter._all(index) for index in kernel.grid]
    for array in (one.array for one in (*kernel.stores, *kernel.finals)):
        shape = [interpreter.size(index) for index in array.indices]
        interpreter.arrays[array.name] = np.full(shape, np.nan)
    for at in itertools.product(*ranges):
        (instance or Instance)(interpreter, kernel, dict(zip(kernel.grid, at, strict=True))).run()


@dataclass
class Instance:
    """One instance of the grid."""

    interpreter: Any
    kernel: ScanKernel
    fixed: dict[Index, Any]
    states: dict[str, Any] = field(default_factory=dict)
    begun: bool = False  # an input that gives the first value of a state has its name

    def __post_init__(self) -> None:
        loop, kernel = self.kernel.loop, self.kernel
        every = (*kernel.grid_values, *loop.inside, *loop.after)
        lets = [let.expr for let in every if isinstance(let, Let)]
        roots = [*lets, *loop.initial, *loop.advance, *(store.expr for store in kernel.stores)]
        found: dict[Index, None] = {}
        for node in postorder(*roots):
            found.update(dict.fromkeys(node.bound))
            found.update(dict.fromkeys(node.free))
        for state in loop.states:
            found.update(dict.fromkeys(state.indices))
        rest = {*self.fixed, loop.time}
        self.order = [index for index in found if index not in rest]
        self.prepare()

    def prepare(self) -> None:
        assert self.kernel.loop.inner is None, "chunks are run by another interpreter"

    def positions(self, index: Index) -> Any:
        """The positions that an index with a dimension takes."""
        return self.interpreter._all(index)

    def run(self) -> None:
        loop, kernel = self.kernel.loop, self.kernel
        constants: dict[str, Any] = {}
        self.lets(kernel.grid_values, constants)
        for state, first in zip(loop.states, loop.initial, strict=True):
            self.states[state.name] = self.array(self.number(first, constants), state.indices)
        self.begun = True
        self.walk(constants)
        for final in kernel.finals:
            widths = [at.attr for at in final.at if at.attr in final.state.indices]
            assert tuple(widths) == final.state.indices
            grid = [at for at in final.at if at.attr not in final.state.indices]
            rows = tuple(int(self.number(at, {}).item()) for at in grid)
            self.interpreter.arrays[final.array.name][rows] = self.states[final.state.name]

    def walk(self, constants: Mapping[str, Any]) -> None:
        loop = self.kernel.loop
        for row in self.interpreter._all(loop.time):
            self.fixed[loop.time] = row
            values = dict(constants)
            self.lets(loop.inside, values)
            self.advance(values)
            self.lets(loop.after, values)
            for store in self.kernel.stores:
                self.store(store, self.number(store.expr, values))

    def advance(self, values: Mapping[str, Any]) -> None:
        """The states after it, all from those before."""
        loop = self.kernel.loop
        self.states |= {
            state.name: self.array(self.number(expr, values), state.indices)
            for state, expr in zip(loop.states, loop.advance, strict=True)
        }

    def lets(self, lets: Iterable[Any], values: dict[str, Any]) -> None:
        for let in lets:
            assert isinstance(let, Let) and let.name not in values
            values[let.name] = self.number(let.expr, values)

    def number(self, expr: Expr, values: Mapping[str, Any]) -> Any:
        """An expression over all dimensions; folds reduce the dimension that they bind."""
        known = dict(values)

        def change(node: Expr) -> Expr:
            if node.op != "fold":
                return node
            condition, body = node.args
            both = np.broadcast_arrays(self._plain(condition, known), self._plain(body, known))
            axes = tuple(self.order.index(index) for index in node.bound)
            sizes = [len(self.positions(i)) if n in axes else 1 for n, i in enumerate(self.order)]
            shape = np.broadcast_shapes(both[0].shape, tuple(sizes))
            test, term = (np.broadcast_to(part, shape) for part in both)
            name = f"fold {len(known)}"
            unit = IDENTITY[node.monoid]
            masked = np.where(test, term, unit)
            known[name] = REDUCE[node.monoid].reduce(masked, axis=axes, keepdims=True, initial=unit)
            return value(name, node.kind, node.free)

        return self._plain(rewrite(expr, change), known)

    def _plain(self, expr: Expr, values: Mapping[str, Any]) -> Any:
        rank = len(self.order)
        ranges = {index: self.positions(index) for index in self.order}
        where = self.interpreter._spread(self.order, ranges)
        single = {index: np.full((1,) * rank, at) for index, at in self.fixed.items()}
        environment = self.interpreter._environment({**where, **single}, dict(values))
        own = {} if not self.begun else self.states
        arrays = {**self.interpreter.arrays, **own}
        environment = replace(environment, arrays=arrays)
        found = np.asarray(evaluation.evaluate(expr, environment))
        return found.reshape((1,) * (rank - found.ndim) + found.shape)

    def array(self, number: Any, indices: tuple[Index, ...]) -> Any:
        """A number over all dimensions as an array over these."""
        sizes = [len(self.positions(i)) if i in indices else 1 for i in self.order]
        full = np.broadcast_to(number, sizes)
        keep = [self.order.index(index) for index in indices]
        drop = [place for place in range(len(self.order)) if place not in keep]
        shape = [len(self.positions(index)) for index in indices]
        return np.transpose(full, (*keep, *drop)).reshape(shape).copy()

    def store(self, store: Store, number: Any) -> None:
        widths = (store.width,) if store.width is not None else ()
        found = self.array(number, widths)
        at = tuple(
            slice(None) if i in widths else self.fixed[i] - self.interpreter.first(i)
            for i in store.array.indices
        )
        self.interpreter.arrays[store.array.name][at] = found
