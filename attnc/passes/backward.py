"""Derivatives as schedules: what is saved, what is recomputed, and which kernel holds what.

    lower_derivative(spec, emit, sweep)    -> Derivative(forward, backward, saved, reads)
    lower_second(spec, emit)               -> Schedule   the backward's own backward, nothing saved
    lower_tangent(spec, emit)              -> Schedule   the outputs, then their tangents
    prune.only(schedule, wanted)           -> Schedule   without what only other outputs need

Signature of a backward: the operator's inputs (in its order), then what the forward gave (`reads`:
outputs by their own names, then `saved`, in the accumulation type), then one cotangent for each
differentiable output (`<output>_grad`). Outputs: `<input>_grad` for each real input that the
outputs depend on, in the order of the inputs; in the query dtype for q, k, v and their like, in the
accumulation type for other inputs.

Kernels of a backward, in this order: maps that prepare operands and row values (delta); loops that
hold rows (`sweep="two"`) or none of these; loops that hold keys, `around` the heads of a key head
(and around batch, where the gradient has none), which with `sweep="one"` deposit what rows get;
maps that finish: sums over shares (`split`), batch and rows in a fixed order, rotations and norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, position, postorder, read, rewrite
from attnc.graph import Graph
from attnc.passes.contract import Preparations
from attnc.passes.differentiate import cotangents, differentiate
from attnc.passes.finish import Lowering, Target
from attnc.passes.frame import Frame
from attnc.passes.gradient_kernels import (
    Formula,
    Holder,
    Kernels,
    direct,
    in_kernel,
    key_holder,
    read_back,
    sum_of,
)
from attnc.passes.gradients import Gradients, PairSum
from attnc.passes.hoist import Names
from attnc.passes.maps import map_of
from attnc.passes.pipeline import finished, prepare
from attnc.passes.prune import arrays_read, arrays_written
from attnc.passes.reductions import Reductions, refuse
from attnc.passes.references import REFERENCE
from attnc.passes.roles import Roles, uncoarsened
from attnc.passes.row_values import RowValues
from attnc.passes.stream import emit as emit_kernels
from attnc.passes.stream import emit_passes, frame_of, stream, targets_of, without_stop
from attnc.passes.tangent import tangent, tangents
from attnc.schedule import Kernel, Schedule, Workspace
from attnc.signature import Dtype, Signature, TensorArgument
from attnc.signature_of import lengths_of, signature_of
from attnc.spec import Spec
from attnc.verify import verify_graph

Sweep = Literal["one", "two"]


@dataclass(frozen=True)
class Derivative:
    """A forward that keeps what its backward reads, and that backward.

    forward    the operator's outputs, then the saved ones (TensorArguments of role output, dtype
               "accumulate")
    backward   see the module
    reads      outputs of the forward that the backward takes as inputs, by name (`out`)
    saved      the further outputs of the forward, inputs of the backward, by name
    cotangents for each output of the operator that can be differentiated, its name and the name of
               its cotangent
    gradients  for each input that has a gradient, its name and the name of the gradient
    """

    forward: Schedule
    backward: Schedule
    reads: tuple[str, ...]
    saved: tuple[Array, ...]
    cotangents: tuple[tuple[str, str], ...]
    gradients: tuple[tuple[str, str], ...]


def lower_derivative(spec: Spec, emit: Sequence[str] = (), sweep: Sweep = "two") -> Derivative:
    """The forward that saves and the backward of an operator and the emits asked for.

    Raises UnsupportedError for what kernels cannot run yet."""
    graph = prepare(spec, emit)
    derivative = differentiate(graph)
    verify_graph(derivative)
    given = cotangents(graph)
    forward, targets = targets_of(graph)
    lowering = _Backward(derivative, forward.frame, sweep, given, forward.reductions)
    lowering.values.outputs.update(
        (target.expr.digest, output.array)
        for target, output in zip(targets, graph.outputs, strict=True)
        if output.array.kind == "real"
    )
    lowering.run()
    kept = tuple(t for stored in lowering.values.saved.values() for t in stored.targets)
    emit_passes(forward, graph.name, (*targets, *kept))
    own = signature_of(spec, graph)
    saved = tuple(target.array for target in kept)
    saving = replace(
        own, outputs=(*own.outputs, *(TensorArgument(a, "accumulate", "output") for a in saved))
    )
    first = finished(spec.name, saving, forward, forward.kernels, forward.notes)
    reads = tuple(lowering.values.reads)
    signature = _signature(own, derivative, reads, saved, given)
    second = lowering.schedule(f"{spec.name}_backward", signature)
    return Derivative(
        first,
        second,
        reads,
        saved,
        tuple((name, array.name) for name, array in given.items()),
        tuple(
            (name, f"{name}_grad")
            for name in (i.name for i in own.inputs)
            if any(o.array.name == f"{name}_grad" for o in derivative.outputs)
        ),
    )


def _signature(
    own: Signature,
    derivative: Graph,
    reads: tuple[str, ...],
    saved: tuple[Array, ...],
    given: dict[str, Array],
) -> Signature:
    """The backward's signature (see the module)."""
    outputs = {one.name: one for one in own.outputs}
    inputs = list(own.inputs)
    for name in reads:
        array = outputs[name].array
        twin = Array(array.name, array.indices, array.kind, "input")
        inputs.append(TensorArgument(twin, outputs[name].dtype, "input"))
    for array in saved:
        twin = Array(array.name, array.indices, "real", "input")
        inputs.append(TensorArgument(twin, "accumulate", "input"))
    inputs.extend(
        TensorArgument(array, outputs[name].dtype, "input") for name, array in given.items()
    )
    dtypes: dict[str, Dtype] = {
        f"{one.name}_grad": "query" if one.dtype == "query" else "accumulate" for one in own.inputs
    }
    made = tuple(
        TensorArgument(output.array, dtypes.get(output.array.name, "accumulate"), "output")
        for output in derivative.outputs
    )
    return replace(
        own,
        name=f"{own.name}_backward",
        inputs=tuple(inputs),
        outputs=made,
        lengths=lengths_of(argument.array for argument in inputs),
    )


class _Backward:
    """Lowers one derivative Graph: `run`, then `schedule`."""

    def __init__(
        self,
        graph: Graph,
        frame: Frame,
        sweep: Sweep,
        later: dict[str, Array],
        forward: Reductions | None,
    ) -> None:
        self.graph = graph
        self.frame = frame
        self.sweep = sweep
        self.names = Names(_taken(graph))
        if forward is not None:
            self.names.taken |= forward.names.taken
        self.preparations = Preparations(names=self.names)
        self.roles = Roles(frame)
        cotangent = frozenset(array.name for array in later.values())
        self.values = RowValues(self.roles, forward, {}, cotangent, self.names)
        self.values.passing = Reductions(frame, names=self.names, relative=self.values.exponents)
        self.gradients = Gradients(self.roles, self.values, self.names)
        self.made = Kernels(self.roles, self.preparations)
        self.lowered: list[tuple[Array, Expr]] = []

    def run(self) -> None:
        """Every output as a formula of sums, and the kernels that make them."""
        for output in self.graph.outputs:
            whole = uncoarsened(rewrite(output.expr, without_stop), self.roles)
            expr = self.gradients.lower(whole, output.array.indices)
            self.lowered.append((output.array, expr))
        every = (*self.values.saved.values(), *self.values.passed.values())
        self.preparations.finished |= {t.array.name for one in every for t in one.targets}
        self._passes()
        self._sums()

    # ------------------------------------------------------------------------- row values

    def _passes(self) -> None:
        """Loops for row values that depend on cotangents, and maps for sums over widths."""
        rows = (*self.frame.grid, self.frame.held)
        for array, expr in self.values.prepared.values():
            self.made.workspaces.append(Workspace(array, "accumulate"))
            self.made.kernels.append(
                map_of(f"{self.graph.name}_{array.name}", rows, None, array, expr, self.names.taken)
            )
        targets = [t for stored in self.values.passed.values() for t in stored.targets]
        passing = self.values.passing
        assert passing is not None
        if passing.pending:
            raise refuse("two_pass: a row value that depends on a weight's finished sum")
        for level in sorted({self.values.levels[t.array.name] for t in targets}):
            own = tuple(t for t in targets if self.values.levels[t.array.name] == level)
            lowering = Lowering(self.frame, passing, self.preparations)
            emit_kernels(lowering, f"{self.graph.name}_pass_{level + 1}", own)
            self._take(lowering, own)

    def _take(self, lowering: Lowering, stored: tuple[Target, ...]) -> None:
        self.made.kernels.extend(lowering.kernels)
        self.made.workspaces.extend(lowering.workspaces)
        self.made.workspaces.extend(Workspace(t.array, "accumulate") for t in stored)
        names = " and ".join(target.array.name for target in stored)
        self.made.notes.append(f"A loop over the keys finishes {names} before the gradients.")

    # ------------------------------------------------------------------------------- sums

    def _sums(self) -> None:
        sums = {one.array.name: one for one in self.gradients.sums.values()}
        rows = Holder("rows", self.frame)
        holders: dict[str, Holder] = {}
        by_frame: dict[object, Holder] = {}
        for name, one in sums.items():
            if one.hold != "key":
                continue
            made = key_holder(one, self.roles)
            site = made.coarse[0].digest if made.coarse else b""
            key = (made.frame.grid, made.frame.held, made.frame.around, site)
            holders[name] = by_frame.setdefault(key, made)
        self._name(list(by_frame.values()))
        maps = self._direct(sums, rows, holders)
        self._place(sums, rows, holders, maps)
        for holder in (rows, *by_frame.values()):
            if holder.formulas or holder.added:
                self.made.emit(holder, self.graph.name)
        for array, expr in maps:
            whole = read_back(expr, self.made.reads, sums)
            wide = self._width(array, sums)
            over = tuple(i for i in array.indices if i != wide)
            name = f"{self.graph.name}_{array.name}"
            self.made.kernels.append(map_of(name, over, wide, array, whole, self.names.taken))

    @staticmethod
    def _name(holders: list[Holder]) -> None:
        taken = Names(set())
        for holder in holders:
            holder.name = taken.fresh(holder.name)

    def _direct(
        self, sums: dict[str, PairSum], rows: Holder, holders: dict[str, Holder]
    ) -> list[tuple[Array, Expr]]:
        """Gives outputs to the kernels that can finish them; the others are maps."""
        maps: list[tuple[Array, Expr]] = []
        axes = self._widths(sums)
        for array, expr in self.lowered:
            used = {n.array.name for n in postorder(expr) if n.op == "read"} & set(sums)
            keyed = {id(holders[name]): holders[name] for name in used if name in holders}
            one = next(iter(keyed.values())) if len(keyed) == 1 else None
            hold, holder = ("key", one) if one else ("row", rows)
            found = direct(array, expr, sums, hold, axes)
            if found is None or holder is None or (hold == "row" and self.sweep == "one"):
                maps.append((array, expr))
                continue
            formula, indices, width = found
            store = Array(array.name, indices, array.kind, "output", array.span)
            whole = in_kernel(formula, sums, holder)
            holder.formulas.append(Formula(store, width, whole))
        return maps

    def _place(
        self,
        sums: dict[str, PairSum],
        rows: Holder,
        holders: dict[str, Holder],
        maps: list[tuple[Array, Expr]],
    ) -> None:
        """Gives the sums that maps read to kernels."""
        used = {n.array.name for _, e in maps for n in postorder(e) if n.op == "read"}
        for name, one in sums.items():
            if name not in used:
                continue
            keys = [h for h in holders.values() if h.frame.held == one.key]
            own = holders.get(name, rows)
            deposited = self.sweep == "one" and bool(keys)
            if one.hold in ("scatter", "pair") or (one.hold == "row" and deposited):
                (keys[0] if deposited else rows).added.append(one)
                continue
            own.formulas.append(Formula(one.array, one.width, sum_of(one, own)))
            self.made.reads[name] = _whole(one.array)

    def _widths(self, sums: dict[str, PairSum]) -> frozenset[Axis]:
        return frozenset(one.width.axis for one in sums.values() if one.width is not None)

    def _width(self, array: Array, sums: dict[str, PairSum]) -> Index | None:
        """The last index of an output that maps write, if it is a width."""
        last = array.indices[-1] if array.indices else None
        return last if last is not None and last.axis in self._widths(sums) else None

    # --------------------------------------------------------------------------- schedule

    def schedule(self, name: str, signature: Signature) -> Schedule:
        """The schedule of what `run` made."""
        kernels = _ordered((*self.preparations.kernels, *self.made.kernels))
        lowering = Lowering(self.frame, Reductions(self.frame), self.preparations)
        lowering.workspaces.extend(self.made.workspaces)
        return finished(name, signature, lowering, kernels, self.made.notes, prepared=False)


def _whole(array: Array) -> Expr:
    return read(array, map(position, array.indices))


def _taken(graph: Graph) -> set[str]:
    taken = {node.array.name for node in postorder(*graph.roots) if node.op == "read"}
    taken.update(output.array.name for output in graph.outputs)
    taken.update(str(node.attr) for node in postorder(*graph.roots) if node.op == "param")
    return taken | {REFERENCE}


def _ordered(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """The kernels with each after those whose arrays it reads, else in the order given."""
    rest = list(kernels)
    done: list[Kernel] = []
    while rest:
        waiting = {name for kernel in rest for name in arrays_written(kernel)}
        ready = next((k for k in rest if not arrays_read(k) & waiting), None)
        if ready is None:
            raise AssertionError("kernels that wait for each other")
        rest.remove(ready)
        done.append(ready)
    return tuple(done)


def lower_second(spec: Spec, emit: Sequence[str] = (), sweep: Sweep = "two") -> Schedule:
    """The derivative of the derivative: the gradients of the backward's outputs by every real input
    of the backward. Inputs: the operator's, its cotangents, then `<input>_grad_grad`, one for each
    gradient. Nothing is saved: row values are finished by loops of its own.

    Raises UnsupportedError for what kernels cannot run yet."""
    graph = prepare(spec, emit)
    derivative = differentiate(graph)
    second = differentiate(derivative)
    verify_graph(second)
    given, again = cotangents(graph), cotangents(derivative)
    lowering = _Backward(second, frame_of(graph), sweep, again, None)
    lowering.run()
    own = signature_of(spec, graph)
    first = {one.name: one for one in own.inputs}
    dtypes = {f"{name}_grad": one.dtype for name, one in first.items()}
    outputs = {one.name: one.dtype for one in own.outputs}
    inputs = [
        *own.inputs,
        *(TensorArgument(array, outputs[name], "input") for name, array in given.items()),
        *(TensorArgument(array, _kept(dtypes[name]), "input") for name, array in again.items()),
    ]
    by = {f"{one.name}_grad": one.dtype for one in inputs}
    made = tuple(
        TensorArgument(o.array, _kept(by.get(o.array.name.rstrip("_"), "real")), "output")
        for o in second.outputs
    )
    signature = replace(
        own,
        name=f"{own.name}_second",
        inputs=tuple(inputs),
        outputs=made,
        lengths=lengths_of(argument.array for argument in inputs),
    )
    return lowering.schedule(f"{spec.name}_second", signature)


def _kept(dtype: Dtype) -> Dtype:
    """The dtype of a gradient: that of queries, else the one that sums have."""
    return "query" if dtype == "query" else "accumulate"


def lower_tangent(spec: Spec, emit: Sequence[str] = ()) -> Schedule:
    """The operator's outputs and their tangents, along `<input>_dot` of every real input, in the
    loop that the operator has itself: weights are computed once for both.

    Raises UnsupportedError for what kernels cannot run yet."""
    graph = prepare(spec, emit)
    moved = tangent(graph)
    verify_graph(moved)
    lowering = stream(moved)
    own = signature_of(spec, graph)
    given = {one.name: one for one in own.inputs}
    moves = tuple(
        TensorArgument(array, given[name].dtype, "input") for name, array in tangents(graph).items()
    )
    smooth = [one for one in own.outputs if one.array.kind == "real"]
    made = tuple(
        TensorArgument(output.array, one.dtype, "output")
        for one, output in zip(smooth, moved.outputs[len(graph.outputs) :], strict=True)
    )
    inputs = (*own.inputs, *moves)
    signature = replace(
        own,
        name=f"{own.name}_tangent",
        inputs=inputs,
        outputs=(*own.outputs, *made),
        lengths=lengths_of(argument.array for argument in inputs),
    )
    name = f"{spec.name}_tangent"
    return finished(name, signature, lowering, lowering.kernels, lowering.notes)


__all__ = ["Derivative", "Sweep", "frame_of", "lower_derivative", "lower_second", "lower_tangent"]
