"""The gradients of a recurrence: the adjoint of one row's update, walked backwards in time.

    S[t] = F(S[t - 1], x),  out[t] = R(S[t], x)      (R of S[t - 1] where `read` stands first)
    a    += dR/dS' out_grad[t]                       absorbed: a is now the cotangent of S[t]
    x_grad += dF/dx' a + dR/dx' out_grad[t]
    a    <- dF/dS' a                                 advance

does      pulls cotangents through one row by the rules of derivatives, so any update will do; keeps
          the states once in a block of rows, from which a block is computed again; sends what a row
          gives to an input to its row of the gradient, to a sum over rows, or, where it is read at
          computed places, adds it there; sums over heads and batches in maps afterwards
needs     what chunk needs; no decay is divided by
does not  sum across instances inside the loop: each has results of its own
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    call,
    length,
    number,
    position,
    postorder,
    read,
    rewrite,
)
from attnc.graph import Graph
from attnc.passes.chunk import Instance, instance_of, last_state, place_of, scan
from attnc.passes.chunk_gradients import ChunkReverse
from attnc.passes.chunkwise import RowByRow
from attnc.passes.differentiate import Names as ArrayNames
from attnc.passes.differentiate import Pullback, cotangents, finished, inputs_of
from attnc.passes.edges import refuse
from attnc.passes.factors import ZERO
from attnc.passes.hoist import Names
from attnc.passes.key_heads import group_size
from attnc.passes.rows import Rows, Side
from attnc.passes.scan_inputs import Destinations, own, plus
from attnc.schedule import Kernel, Workspace
from attnc.schedule.scans import (
    Checkpoint,
    ReverseChunks,
    ReverseScanKernel,
    RowWrite,
    ScanKernel,
    ScanLoop,
)

Way = Literal["grid", "member", "time", "width", "computed"]
# Rows of a block: its states are computed again, and stay in cache until they are read.
ROWS = {0: 128, 1: 64, 2: 32}
FEWEST = 16


@dataclass(frozen=True)
class ScanDerivative:
    """A scan that keeps what its backward reads, and that backward's kernels.

    saved       outputs of the forward beside its own, in order
    given       the cotangent of each real output, by the output's name
    gradients   (input, gradient), in the order of the inputs' names
    """

    forward: ScanKernel
    kernels: tuple[Kernel, ...]
    workspaces: tuple[Workspace, ...]
    saved: tuple[Array, ...]
    given: dict[str, Array]
    gradients: tuple[tuple[str, Array], ...]
    widths: tuple[Axis, ...]
    notes: tuple[str, ...]


def differentiate_scan(
    graph: Graph,
    given: dict[str, Array] | None = None,
    called: Mapping[str, str] | None = None,
) -> ScanDerivative:
    """The derivative of a graph with a recurrence. `given`: the cotangents by the name of the
    output, if they have names of their own; `called`: the names of the gradients, by input, if not
    all real inputs are to have one."""
    if any(output.array.kind == "complex" for output in graph.outputs):
        raise refuse("complex: complex numbers in a recurrence")
    return _Reverse(graph, given or {}, called).derivative()


@dataclass
class _Reverse:
    """Builds one reversed scan.

    old, new   states before and after a row as leaves of what is differentiated
    carried    what goes from row to row: cotangents of states by name, then sums
    """

    graph: Graph
    given: dict[str, Array]
    called: Mapping[str, str] | None
    one: Instance = field(init=False)
    names: ArrayNames = field(init=False)

    def __post_init__(self) -> None:
        self.one = instance_of(self.graph)
        self.names = ArrayNames.of(self.graph)
        self.names.taken |= self.one.taken | {state.name for state in self.one.states}
        self.names.taken.update(array.name for array in self.given.values())
        self.given = self.given or cotangents(self.graph, self.names)
        self.time = self.one.recurrence.time
        self.grid = self.one.grid
        self.old = {state.name: self._named(state, "") for state in self.one.states}
        self.new = {state.name: self._named(state, "_after") for state in self.one.states}
        smooth = [state for state in self.one.states if state.kind == "real"]
        self.adjoints = {state.name: self._named(state, "_adjoint") for state in smooth}
        inputs = {a.name: a for a in inputs_of(self.graph) if a.kind == "real"}
        called = self.called or {}
        if self.called is not None:
            inputs = {name: array for name, array in inputs.items() if name in called}
        self.ends = Destinations(self.graph.name, self.one, self.names, inputs, self._back, called)

    def _named(self, state: Array, ending: str) -> Array:
        name = state.name + ending
        return Array(self.names.fresh(name) if ending else name, state.indices, state.kind, "state")

    # ------------------------------------------------------------------------------ one row

    def _leaf(self, expr: Expr, leaves: dict[str, Array]) -> Expr:
        """An expression of an instance with its states as inputs of these names."""
        states = {state.name for state in self.one.states}
        home = self.one.home(expr, stops=True)

        def change(node: Expr) -> Expr:
            if node.op != "read" or node.array.role == "input" or node.array.name not in states:
                return node
            leaf = leaves[node.array.name]
            return read(replace(leaf, role="input", name=f"state {leaf.name}"), node.args)

        return rewrite(home, change)

    def _back(self, expr: Expr) -> Expr:
        """A gradient's expression as statements have it: leaves are states again, nothing is
        marked."""
        known = {f"state {leaf.name}": leaf for leaf in (*self.old.values(), *self.new.values())}

        def change(node: Expr) -> Expr:
            if node.op == "stop":
                return node.args[0]
            if node.op == "read" and node.array.name in known:
                return read(known[node.array.name], node.args)
            return node

        return rewrite(finished(expr), change)

    def _pulled(self) -> Pullback:
        """One row: cotangents of its results and of the states after it, down to what it reads."""
        names = {f"state {leaf.name}" for leaf in (*self.old.values(), *self.new.values())}
        pullback = Pullback(self.graph, frozenset({*self.ends.inputs, *names}), False, ())
        leaves = self.old if self.one.recurrence.reads_old else self.new
        for output in self.graph.outputs:
            array = output.array
            if array.kind != "real" or self.time not in array.indices:
                continue
            over = frozenset(array.indices) - frozenset(self.grid) - {self.time}
            given = read(self.given[array.name], map(position, array.indices))
            pullback.begin_at(self._leaf(output.expr, leaves), given, over)
        for state, expr in zip(self.one.states, self.one.recurrence.next, strict=True):
            if state.kind == "real":
                adjoint = self.adjoints[state.name]
                given = read(adjoint, map(position, state.indices))
                leaf = self._leaf(expr, self.old)
                pullback.begin_at(leaf, given, frozenset(state.indices))
        pullback.run()
        return pullback

    def _begun(self) -> Pullback:
        """What the initial states give to inputs."""
        pullback = Pullback(self.graph, frozenset(self.ends.inputs), False, ())
        for state, expr in zip(self.one.states, self.one.recurrence.initial, strict=True):
            if state.kind == "real":
                given = read(self.adjoints[state.name], map(position, state.indices))
                leaf = self.one.home(expr, stops=True)
                pullback.begin_at(leaf, given, frozenset(state.indices))
        pullback.run()
        return pullback

    # ----------------------------------------------------------------------------- kernels

    def derivative(self) -> ScanDerivative:
        """The forward that keeps, the reversed scan, the maps after it."""
        pulled, begun = self._pulled(), self._begun()
        every = ROWS.get(max(len(state.indices) for state in self.one.states), FEWEST)
        checkpoints = self._checkpoints(every)
        forward = scan(self.graph, checkpoints, every)
        for name in self.ends.inputs:
            self.ends.send(name, pulled, begun)
        rows = self.one.rows(Names(set(self.names.taken)))
        replay = self._replay(rows)
        back = rows.fresh(self._sides())
        carried = (*self.adjoints.values(), *self.ends.sums.values())
        absorbed = tuple(self._absorbed(state, pulled, back) for state in carried)
        advance = back.next_of(carried, (self._before(one, pulled) for one in carried))
        writes = tuple(self._settled(write, back) for write in self.ends.writes)
        last = back.fresh(self._sides())
        endings = self.ends.endings
        ending = last.next_of(carried, (endings.get(one.name, own(one)) for one in carried))
        after = tuple(self._settled(write, last) for write in self.ends.ended)
        initial = tuple(back.settle(self._after_last(one), "before") for one in carried)
        kernel = ReverseScanKernel(
            f"{self.graph.name}_backward",
            self.grid,
            tuple(rows.lets["constant"]),
            replay,
            every,
            tuple(self._read_back(one) for one in checkpoints),
            tuple(self.new.values()),
            carried,
            initial,
            (*back.lets["row"], *back.lets["before"]),
            absorbed,
            tuple(back.lets["after"]),
            writes,
            advance,
            (*last.lets["row"], *last.lets["before"], *last.lets["after"]),
            ending,
            after,
            tuple(self.ends.finals),
            tuple(array.name for array in self.given.values()),
        )
        chunked, note = self._in_chunks(forward.kernel, rows.names)
        kernel = replace(kernel, chunked=chunked)
        return ScanDerivative(
            forward.kernel,
            (kernel, *self.ends.kernels),
            tuple(self.ends.workspaces),
            tuple(one.array for one in checkpoints),
            self.given,
            tuple(self.ends.gradients.items()),
            forward.widths,
            (
                *forward.notes,
                f"Kept for the backward: {_listed(one.array for one in checkpoints)}, once in "
                f"{every} rows; a block's states are computed again and stay in cache.",
                "The backward is the adjoint of one row's update, walked backwards.",
                note,
            ),
        )

    def _in_chunks(self, forward: ScanKernel, names: Names) -> tuple[ReverseChunks | None, str]:
        """The reverse of the forward's chunks, and what is said of it."""
        if forward.chunked is None or forward.chunked.loop.inner is None:
            return None, "No reverse in chunks: the forward has none."
        if any(node.op == "stop" for node in postorder(*self.graph.roots)):
            return None, "No reverse in chunks: a value is marked as constant."
        taken = self.names.taken | names.taken
        chunk = ChunkReverse(
            forward=forward.chunked,
            one=self.one,
            taken=taken,
            ends=self.ends,
            graph=self.graph,
            given=self.given,
            adjoints=self.adjoints,
        )
        try:
            return chunk.chunks(), "In chunks too, as the forward: products of matrices."
        except RowByRow as reason:
            return None, f"No reverse in chunks: {reason}."

    def _sides(self) -> dict[str, Side]:
        states = (*self.old.values(), *self.new.values())
        carried = (*self.adjoints.values(), *self.ends.sums.values())
        return {**{a.name: "before" for a in states}, **{a.name: "after" for a in carried}}

    def _checkpoints(self, every: int) -> tuple[Checkpoint, ...]:
        """The states that a row reads, kept before each block."""
        roots = list(self.one.recurrence.next)
        if self.one.recurrence.reads_old:
            roots += [output.expr for output in self.graph.outputs]
        used = {node.array.name for node in postorder(*roots) if node.op == "read"}
        rows = length(self.time.axis)
        blocks = call("floordiv", call("add", rows, number(every - 1)), number(every))
        axis = Axis(self.names.fresh("blocks"), "range", length=blocks)
        block = Index(axis.name, axis, 0)
        found = []
        for state in self.one.states:
            if state.name in used:
                indices = (*self.grid, block, *state.indices)
                name = self.names.fresh(f"saved_{state.name}")
                found.append(Checkpoint(Array(name, indices, state.kind, "output"), state))
        return tuple(found)

    @staticmethod
    def _read_back(one: Checkpoint) -> Checkpoint:
        return Checkpoint(like_kind(one.array), one.state)

    def _replay(self, rows: Rows) -> ScanLoop:
        """The rows of a block once more, forwards."""
        states = self.one.states
        advance = rows.next_of(states, map(self.one.home, self.one.recurrence.next))
        inside = (*rows.lets["row"], *rows.lets["before"])
        return ScanLoop(self.time, None, states, (), inside, advance)

    def _absorbed(self, array: Array, pulled: Pullback, rows: Rows) -> Expr:
        """A cotangent with what the row's results add."""
        leaf = next((s for n, s in self.new.items() if self.adjoints.get(n) is array), None)
        if leaf is None or self.one.recurrence.reads_old:
            return own(array)
        added = self._to(leaf, pulled)
        return plus(own(array), rows.settle(added, "before"))

    def _before(self, array: Array, pulled: Pullback) -> Expr:
        """What is carried to the row before."""
        if array.name in self.ends.parts:
            return plus(own(array), self.ends.parts[array.name])
        leaf = next((s for n, s in self.old.items() if self.adjoints.get(n) is array), None)
        if leaf is None:
            return own(array)
        return self._to(leaf, pulled)

    def _to(self, leaf: Array, pulled: Pullback) -> Expr:
        """The adjoint of a state, over its own indices."""
        named = replace(leaf, role="input", name=f"state {leaf.name}")
        return self._back(pulled.gradient(named, leaf.indices))

    def _after_last(self, array: Array) -> Expr:
        """The cotangent of a last state. Of instances that share one, the first has it."""
        name = next((n for n, one in self.adjoints.items() if one is array), None)
        found = ((o.array, last_state(o, self.one)) for o in self.graph.outputs)
        output = next((o for o, state in found if state is not None and state.name == name), None)
        if output is None:
            return ZERO
        given = read(self.given[output.name], place_of(output, self.grid))
        first = TRUE
        for index in self.grid:
            if index in output.indices:
                continue
            place: Expr = position(index)
            coarse = next((i for i in output.indices if i.axis.of is index.axis), None)
            if coarse is not None:
                place = call("mod", place, group_size(coarse.axis))
            same = call("eq", place, number(0))
            first = same if first == TRUE else call("and", first, same)
        return given if first == TRUE else call("where", first, given, ZERO)

    def _settled(self, write: RowWrite, rows: Rows) -> RowWrite:
        condition = write.condition
        return replace(
            write,
            at=tuple(rows.settle(at, "before") for at in write.at),
            term=rows.settle(write.term, "before"),
            condition=None if condition is None else rows.settle(condition, "before"),
        )


def like_kind(array: Array) -> Array:
    """An output of the forward as an input of the backward."""
    return Array(array.name, array.indices, array.kind, "input")


def _listed(arrays: Iterable[Array]) -> str:
    return ", ".join(array.name for array in arrays) or "nothing"


__all__ = ["ScanDerivative", "differentiate_scan"]
