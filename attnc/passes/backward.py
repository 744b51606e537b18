"""Derivatives as schedules: what is saved, what is recomputed, and which kernel holds what.

    lower_derivative(spec, emit, sweep)    -> Derivative(forward, backward, saved, reads)
    lower_second(spec, emit)               -> Schedule   the backward's own backward, nothing saved
    lower_tangent(spec, emit)              -> Schedule   the outputs, then their tangents
    lower_backward_tangent(spec, emit)     -> Schedule   the tangents of the gradients
    prune.only(schedule, wanted)           -> Schedule   without what only other outputs need

Signature of a backward: the operator's inputs (in its order), then what the forward gave (`reads`:
outputs by their own names, then `saved`, in the accumulation type), then one cotangent for each
differentiable output (`<output>_grad`). Outputs: `<input>_grad` for each real input that the
outputs depend on, in the order of the inputs; in the query dtype for q, k, v and their like, in the
accumulation type for other inputs.

Kernels of a backward, in this order: maps that prepare operands and row values; loops that hold
rows, for sums over the keys of each (the mean of dP); the loops of the gradients; maps that finish:
sums over shares (`split`), heads, batch and rows in a fixed order, rotations and norms.

    sweep "two"    a loop that holds rows, and loops that hold keys, `around` the heads of a key
                   head (and around batch, where the gradient has none)
    sweep "one"    each pair once: after a loop for sums, one that holds rows, deposits what keys
                   get and can follow that loop tile by tile (see follow); else loops that hold
                   keys and deposit what rows get
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attnc.expressions.tree import Array, Kind, number
from attnc.graph import Graph, GraphOutput
from attnc.passes.associative_gradients import with_tiles
from attnc.passes.chunk import scan
from attnc.passes.derivative_lowering import Backward, Sweep
from attnc.passes.differentiate import cotangents, differentiate
from attnc.passes.emits import Outputs, lower_outputs
from attnc.passes.frame import Frame
from attnc.passes.gradient_kernels import repeated
from attnc.passes.iterate import unrolled
from attnc.passes.pipeline import finished, prepare
from attnc.passes.scan_gradients import differentiate_scan
from attnc.passes.scan_second import backward_tangent_of_scan, second_of_scan
from attnc.passes.second_order import GRADIENTS_AGAIN, TANGENTS_OF_GRADIENTS, first_lowered
from attnc.passes.stream import frame_of
from attnc.passes.tangent import tangent, tangents
from attnc.schedule import Schedule
from attnc.signature import Dtype, Signature, TensorArgument
from attnc.signature_of import lengths_of, signature_of
from attnc.spec import Spec
from attnc.verify import verify_graph, verify_schedule


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
    if graph.recurrences:
        return _of_scan(spec, graph)
    turned = bool(graph.iterations)
    graph = _in_turns(graph)
    derivative = differentiate(graph)
    verify_graph(derivative)
    given = cotangents(graph)
    outputs = Outputs.of(graph)
    forward = outputs.rows
    lowering = Backward(derivative, forward.frame, sweep, given, forward.reductions)
    lowering.values.summing &= not turned  # every backend keeps the same of a forward
    lowering.values.outputs.update(
        (target.expr.digest, target.array)
        for target in outputs.targets
        if target.array.kind == "real"
    )
    lowering.run()
    kept = sorted(lowering.values.saved_targets, key=lambda target: target.array.name)
    outputs.emit(tuple(kept))
    own = signature_of(spec, graph)
    saved = tuple(target.array for target in kept)
    saving = _saving(own, saved)
    kept_notes = [*forward.notes, *_kept_note(saved)]
    kernels = tuple(map(repeated, forward.kernels))
    first = finished(spec.name, saving, forward, kernels, kept_notes)
    reads = tuple(sorted(lowering.values.reads))
    made = tuple(output.array for output in derivative.outputs)
    signature = derivative_signature(own, made, reads, saved, given)
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


def _in_turns(graph: Graph) -> Graph:
    """The graph with its iterations written out."""
    return unrolled(graph) if graph.iterations else graph


def _of_scan(spec: Spec, graph: Graph) -> Derivative:
    """The derivative of a recurrence."""
    found = differentiate_scan(graph)
    own = signature_of(spec, graph)
    order = [one.name for one in own.inputs]
    gradients = sorted(found.gradients, key=lambda pair: order.index(pair[0]))
    of = {array.name: name for name, array in gradients}
    made = tuple(array for _, array in gradients)
    signature = derivative_signature(own, made, (), found.saved, found.given, of)
    forward = Schedule(
        spec.name, _saving(own, found.saved), (found.forward,), (), found.widths, found.notes
    )
    name, kernels, notes = f"{spec.name}_backward", found.kernels, found.notes
    if found.forward.tiled is not None:
        kernels, said = with_tiles(kernels, graph)
        notes = (*notes, said)
    backward = Schedule(name, signature, kernels, found.workspaces, found.widths, notes)
    for schedule in (forward, backward):
        verify_schedule(schedule)
    given = tuple((output, array.name) for output, array in found.given.items())
    named = tuple((name, array.name) for name, array in gradients)
    return Derivative(forward, backward, (), found.saved, given, named)


def _saving(own: Signature, saved: Sequence[Array]) -> Signature:
    """The signature of a forward that keeps these arrays."""
    more = tuple(TensorArgument(array, _stored(array), "output") for array in saved)
    return replace(own, outputs=(*own.outputs, *more))


def _stored(array: Array) -> Dtype:
    """The dtype of what is kept."""
    dtypes: dict[Kind, Dtype] = {"int": "int", "bool": "bool"}
    return dtypes.get(array.kind, "accumulate")


def derivative_signature(
    own: Signature,
    made: Sequence[Array],
    reads: tuple[str, ...],
    saved: tuple[Array, ...],
    given: dict[str, Array],
    of: Mapping[str, str] | None = None,
) -> Signature:
    """The backward's signature (see the module). `of`: the input of each gradient, by name, if that
    is not what it is named after."""
    known = {one.name: one for one in own.outputs}
    inputs = list(own.inputs)
    for name in reads:
        array = known[name].array
        twin = Array(array.name, array.indices, array.kind, "input")
        inputs.append(TensorArgument(twin, known[name].dtype, "input"))
    for array in saved:
        twin = Array(array.name, array.indices, array.kind, "input")
        inputs.append(TensorArgument(twin, _stored(array), "input"))
    inputs.extend(
        TensorArgument(array, known[name].dtype, "input") for name, array in given.items()
    )
    named = {array.name: array.name.removesuffix("_grad") for array in made} if of is None else of
    dtypes = {one.name: _kept(one.dtype) for one in own.inputs}
    outputs = tuple(
        TensorArgument(array, dtypes.get(named[array.name], "accumulate"), "output")
        for array in made
    )
    return replace(
        own,
        name=f"{own.name}_backward",
        inputs=tuple(inputs),
        outputs=outputs,
        lengths=lengths_of(argument.array for argument in inputs),
    )


def _kept_note(saved: tuple[Array, ...]) -> tuple[str, ...]:
    names = ", ".join(array.name for array in saved)
    return (f"Kept for the backward, a number for each row: {names}.",) if saved else ()


def lower_second(spec: Spec, emit: Sequence[str] = (), sweep: Sweep = "two") -> Schedule:
    """The derivative of the derivative: the gradients of the backward's outputs by every real input
    of the backward. Inputs: the operator's, its cotangents, then `<input>_grad_grad`, one for each
    gradient. Nothing is saved: row values are finished by loops of its own.

    Raises UnsupportedError for what kernels cannot run yet."""
    graph = prepare(spec, emit)
    if graph.recurrences:
        return second_of_scan(graph, signature_of(spec, graph))
    graph = _in_turns(graph)
    derivative = differentiate(graph)
    again = cotangents(derivative)

    def run(form: Graph) -> Backward:
        return _lowered(form, frame_of(graph), sweep, again)

    lowering = first_lowered(GRADIENTS_AGAIN, graph, derivative, run)
    first = _backward_signature(spec, graph, derivative)
    signature = second_signature(first, lowering.graph, again)
    name = f"{spec.name}_second"
    return lowering.schedule(name, replace(signature, name=name))


def lower_backward_tangent(spec: Spec, emit: Sequence[str] = ()) -> Schedule:
    """The tangents of the gradients (forward over reverse): `<input>_grad_dot`, along `<input>_dot`
    of every real input of the backward, cotangents included. Nothing is saved.

    Raises UnsupportedError for what kernels cannot run yet."""
    graph = prepare(spec, emit)
    if graph.recurrences:
        return backward_tangent_of_scan(graph, signature_of(spec, graph))
    graph = _in_turns(graph)
    derivative = differentiate(graph)
    given, dots = cotangents(graph), tangents(derivative)

    def run(form: Graph) -> Backward:
        return _lowered(form, frame_of(graph), "two", {**given, **dots})

    lowering = first_lowered(TANGENTS_OF_GRADIENTS, graph, derivative, run)
    first = _backward_signature(spec, graph, derivative)
    signature = tangent_signature(first, dots, lowering.graph.outputs)
    return lowering.schedule(signature.name, signature)


def _backward_signature(spec: Spec, graph: Graph, derivative: Graph) -> Signature:
    """The signature of a backward for which nothing is saved."""
    own, made = signature_of(spec, graph), tuple(o.array for o in derivative.outputs)
    return derivative_signature(own, made, (), (), cotangents(graph))


def second_signature(first: Signature, graph: Graph, again: dict[str, Array]) -> Signature:
    """The signature of the backward of `first`, a backward; `again`: cotangents of gradients."""
    made = tuple(output.array for output in graph.outputs)
    of = {array.name: array.name.rstrip("_").removesuffix("_grad") for array in made}
    return derivative_signature(first, made, (), (), again, of)


def tangent_signature(
    own: Signature, dots: dict[str, Array], moved: Sequence[GraphOutput]
) -> Signature:
    """What an operator takes and the tangents of its inputs in, the tangents `<output>_dot` out."""
    given = {one.name: one for one in own.inputs}
    dtypes = {f"{one.name}_dot": one.dtype for one in own.outputs}
    inputs = (*own.inputs, *(_tangent_argument(given[n], array) for n, array in dots.items()))
    arrays = [output.array for output in moved]
    return replace(
        own,
        name=f"{own.name}_tangent",
        inputs=inputs,
        outputs=tuple(TensorArgument(a, dtypes[a.name.rstrip("_")], "output") for a in arrays),
        lengths=lengths_of(argument.array for argument in inputs),
    )


def _lowered(form: Graph, frame: Frame, sweep: Sweep, later: dict[str, Array]) -> Backward:
    """A form of second order as sums and their kernels."""
    verify_graph(form)
    lowering = Backward(form, frame, sweep, later, None)
    lowering.run()
    return lowering


def _kept(dtype: Dtype) -> Dtype:
    """The dtype of a gradient: that of queries, else the one that sums have."""
    return "query" if dtype == "query" else "accumulate"


def _tangent_argument(given: TensorArgument, array: Array) -> TensorArgument:
    """The tangent of an input; it is 0 where an optional input, and so its tangent, is left out."""
    default = number(0.0) if given.optional else None
    return TensorArgument(array, given.dtype, "input", optional=given.optional, default=default)


def lower_tangent(
    spec: Spec, emit: Sequence[str] = (), along: frozenset[str] | None = None
) -> Schedule:
    """The operator's outputs and their tangents, along `<input>_dot` of every real input (or of
    those named), in the loop that the operator has itself: weights are computed once for both.

    Raises UnsupportedError for what kernels cannot run yet."""
    graph = _in_turns(prepare(spec, emit))
    moved = tangent(graph, along)
    verify_graph(moved)
    own = signature_of(spec, graph)
    made = tangent_signature(own, tangents(graph, along), moved.outputs[len(graph.outputs) :])
    signature = replace(made, outputs=(*own.outputs, *made.outputs))
    name = signature.name
    if graph.recurrences:
        found = scan(moved)
        schedule = Schedule(name, signature, (found.kernel,), (), found.widths, found.notes)
        verify_schedule(schedule)
        return schedule
    lowering = lower_outputs(moved)
    return finished(name, signature, lowering, lowering.kernels, lowering.notes)


__all__ = [
    "Derivative",
    "Sweep",
    "frame_of",
    "lower_backward_tangent",
    "lower_derivative",
    "lower_second",
    "lower_tangent",
]
