"""Scan kernels in chunks, run by NumPy: what their statements mean. Rows of a chunk have a
dimension of their own, `time`, and once more as the earlier row of a pair, `inner`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scan_interpreter import Instance, run_scan

from attnc.expressions.index import Index
from attnc.expressions.tree import postorder
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import Contraction, Decays, Let, TriangularSolve


def run_chunks(interpreter: Any, kernel: ScanKernel) -> None:
    """The chunkwise form of a kernel, `interpreter.chunk` rows at a time."""
    assert kernel.chunked is not None
    run_scan(interpreter, kernel.chunked, ChunkInstance)


class ChunkInstance(Instance):
    """One instance of the grid."""

    def prepare(self) -> None:
        loop = self.kernel.loop
        assert loop.inner is not None
        roots = [
            expr
            for one in loop.inside
            for expr in (getattr(one, name, None) for name in ("left", "right", "log", "matrix"))
            if expr is not None
        ]
        found = {index: None for root in roots for node in postorder(root) for index in node.free}
        rest = (i for i in (*self.order, *found) if i not in (*self.fixed, loop.time, loop.inner))
        self.order = [loop.time, loop.inner, *dict.fromkeys(rest)]
        self.rows: Any = np.zeros(0, int)

    def positions(self, index: Index) -> Any:
        loop = self.kernel.loop
        return self.rows if index in (loop.time, loop.inner) else super().positions(index)

    def walk(self, constants: Mapping[str, Any]) -> None:
        loop = self.kernel.loop
        every = self.interpreter._all(loop.time)
        chunk = self.interpreter.chunk
        for begin in range(0, len(every), chunk):
            self.rows = every[begin : begin + chunk]
            values = dict(constants)
            for statement in loop.inside:
                assert statement.name not in values
                values[statement.name] = self.statement(statement, values)
            self.advance(values)
            self.lets(loop.after, values)
            for store in self.kernel.stores:
                self.store_rows(store, self.number(store.expr, values))

    def statement(self, one: Any, values: Mapping[str, Any]) -> Any:
        loop = self.kernel.loop
        if isinstance(one, Let):
            return self.number(one.expr, values)
        if isinstance(one, Contraction):
            return self.contraction(one, values)
        if isinstance(one, Decays):
            return self.decays(one, values)
        assert isinstance(one, TriangularSolve)
        assert loop.inner is not None
        matrix = self.array(self.number(one.matrix, values), (loop.time, loop.inner))
        right = self.array(self.number(one.right, values), (loop.time, one.width))
        unit = np.eye(len(matrix)) + np.tril(matrix, -1)
        if one.left is not None:
            left = self.array(self.number(one.left, values), (loop.time, loop.inner))
            right = left @ np.linalg.solve(unit, right)
            return self.placed(right, (loop.time, loop.inner))
        return self.placed(np.linalg.solve(unit, right), (loop.time, one.width))

    def decays(self, one: Decays, values: Mapping[str, Any]) -> Any:
        time, inner = self.kernel.loop.time, self.kernel.loop.inner
        assert inner is not None
        logs = self.array(self.number(one.log, values), (time,))
        rows = range(len(logs))
        if one.which == "since":
            sums = np.array([logs[: t if one.before else t + 1].sum() for t in rows])
            return self.placed(np.exp(sums), (time,))
        if one.which == "until":
            return self.placed(np.exp(np.array([logs[t + 1 :].sum() for t in rows])), (time,))
        pairs = np.zeros((len(logs), len(logs)))
        for t in rows:
            for s in range(t if one.before else t + 1):
                pairs[t, s] = np.exp(logs[s + 1 : t if one.before else t + 1].sum())
        return self.placed(pairs if one.which == "between" else pairs.T, (time, inner))

    def contraction(self, one: Contraction, values: Mapping[str, Any]) -> Any:
        """Every term with its factor, a product of decays by their logarithms' sum over rows."""
        time, inner = self.kernel.loop.time, self.kernel.loop.inner
        reads_state = one.right.op == "read" and one.right.array.name in self.states
        pair = one.along == inner or not (reads_state or one.along == time)
        left = self.number(one.left, values)
        right = self.number(one.right, values)
        if pair:
            right = np.swapaxes(right, 0, 1)  # from rows of the chunk to earlier rows
        term = left * right
        if one.log is not None:
            term = np.where(self.kept(one, pair), term * self.factor(one, pair, values), 0.0)
        axis = self.order.index(one.along)
        sizes = [1] * term.ndim
        sizes[axis] = len(self.positions(one.along))
        whole = np.broadcast_to(term, np.broadcast_shapes(term.shape, tuple(sizes)))
        return whole.sum(axis=axis, keepdims=True)

    def kept(self, one: Contraction, pair: bool) -> Any:
        """Which pairs of rows count."""
        rank, rows = len(self.order), np.arange(len(self.rows))
        later, earlier = (rows.reshape([-1 if n == d else 1 for n in range(rank)]) for d in (0, 1))
        if not pair:
            return True
        return earlier < later if one.before else earlier <= later

    def factor(self, one: Contraction, pair: bool, values: Mapping[str, Any]) -> Any:
        """The product of the decays between the two sides of a term."""
        assert one.log is not None
        count = len(self.rows)
        logs = self.number(one.log, values)
        logs = np.broadcast_to(logs, (count, *logs.shape[1:]))
        result = np.zeros((count, count if pair else 1, *logs.shape[2:]))
        for t in range(count):
            stop = t if one.before else t + 1
            if not pair:
                between = logs[t + 1 :] if one.along == self.kernel.loop.time else logs[:stop]
                result[t, 0] = between.sum(axis=0)[0]
                continue
            for s in range(t + 1):
                result[t, s] = logs[s + 1 : stop].sum(axis=0)[0]
        return np.exp(result)

    def placed(self, number: Any, indices: tuple[Index, ...]) -> Any:
        """An array over these indices as one over all dimensions."""
        sizes = [1] * len(self.order)
        for index, size in zip(indices, number.shape, strict=True):
            sizes[self.order.index(index)] = size
        order = sorted(range(len(indices)), key=lambda n: self.order.index(indices[n]))
        return number.transpose(order).reshape(sizes)

    def store_rows(self, store: Any, number: Any) -> None:
        loop = self.kernel.loop
        widths = (store.width,) if store.width is not None else ()
        found = self.array(number, (loop.time, *widths))
        first = self.interpreter.first(loop.time)
        array = self.interpreter.arrays[store.array.name]
        over = [i for i in store.array.indices if i in (loop.time, *widths)]
        at = tuple(
            self.rows - first if i == loop.time else slice(None) if i in widths
            else self.fixed[i] - self.interpreter.first(i)
            for i in store.array.indices
        )  # fmt: skip
        assert over == [loop.time, *widths]
        array[at] = found
