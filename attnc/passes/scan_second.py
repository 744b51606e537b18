"""Second order of recurrences: the reverse of their forward mode.

With T the tangent recurrence, g the cotangents of the results and u directions of the inputs,

    <backward(x, g), u> = <g, T(x, u)>

so the gradient of a backward by x is the reverse of T by x, and that by g is what T gives. The
tangents of a backward along (x_dot, g_dot) are the reverse of T by x as well, g being the cotangent
of what changes and g_dot that of what is there.

does      both as one schedule: T, which keeps its states, and its reverse
needs     a Graph with a recurrence
does not  save anything of the operator's own backward
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attnc.expressions.tree import Array, number
from attnc.graph import Graph, GraphOutput
from attnc.passes.differentiate import inputs_of, like
from attnc.passes.edges import refuse
from attnc.passes.scan_gradients import ScanDerivative, differentiate_scan
from attnc.passes.tangent import Moving, tangents
from attnc.schedule import Kernel, Schedule, Workspace
from attnc.schedule.scans import Checkpoint, ReverseScanKernel, ScanKernel
from attnc.signature import Signature, TensorArgument
from attnc.signature_of import lengths_of
from attnc.verify import verify_schedule


def second_of_scan(graph: Graph, own: Signature) -> Schedule:
    """The gradients of the backward of a recurrence by its inputs and cotangents."""
    first = differentiate_scan(graph)
    gradients = {name: array.name for name, array in first.gradients}
    inputs = {array.name: array for array in inputs_of(graph)}
    along = {name: like(inputs[name], f"{made}_grad") for name, made in gradients.items()}
    moving = Moving(graph, along)
    given, outputs = {}, []
    for name, output in moving.outputs.items():
        array = replace(output.array, name=f"{first.given[name].name}_grad")
        outputs.append(GraphOutput(array, output.expr))
        given[array.name] = first.given[name]
    whole = f"{own.name}_second"
    moved = replace(moving.graph, name=whole, outputs=tuple(outputs))
    found = differentiate_scan(moved, given, gradients)
    made = [
        *_made(own, found),
        *(TensorArgument(one.array, "accumulate", "output") for one in outputs),
    ]
    cotangents = _cotangents(own, first.given)
    more = [_given(own, name, array) for name, array in along.items()]
    return _schedule(whole, own, (*cotangents, *more), made, found, found.forward)


def backward_tangent_of_scan(graph: Graph, own: Signature) -> Schedule:
    """The tangents of the gradients, along those of inputs and cotangents."""
    first = differentiate_scan(graph)
    moving = Moving(graph, tangents(graph))
    given = {name: like(array, f"{array.name}_dot") for name, array in first.given.items()}
    changes = {o.array.name: first.given[name] for name, o in moving.outputs.items()}
    whole = f"{own.name}_backward_tangent"
    outputs = (*graph.outputs, *moving.outputs.values())
    moved = replace(moving.graph, name=whole, outputs=outputs)
    called = {name: f"{array.name}_dot" for name, array in first.gradients}
    found = differentiate_scan(moved, {**given, **changes}, called)
    cotangents = _cotangents(own, first.given)
    more = [
        *(_given(own, name, array) for name, array in moving.given.items()),
        *_cotangents(own, given),
    ]
    silent = replace(found.forward, stores=(), finals=())
    return _schedule(whole, own, (*cotangents, *more), _made(own, found), found, silent)


def _cotangents(own: Signature, given: Mapping[str, Array]) -> list[TensorArgument]:
    """Arrays like outputs, by the output's name, as inputs."""
    dtypes = {one.name: one.dtype for one in own.outputs}
    return [TensorArgument(array, dtypes[name], "input") for name, array in given.items()]


def _given(own: Signature, name: str, array: Array) -> TensorArgument:
    """An array like an input: 0 where the input may be left out and it is."""
    one = next(one for one in own.inputs if one.name == name)
    default = number(0.0) if one.optional else None
    return TensorArgument(array, one.dtype, "input", optional=one.optional, default=default)


def _made(own: Signature, found: ScanDerivative) -> list[TensorArgument]:
    """The gradients, in the order of the inputs."""
    arrays = dict(found.gradients)
    return [
        TensorArgument(
            arrays[one.name], "query" if one.dtype == "query" else "accumulate", "output"
        )
        for one in own.inputs
        if one.name in arrays
    ]


def _schedule(
    name: str,
    own: Signature,
    more: tuple[TensorArgument, ...],
    made: list[TensorArgument],
    found: ScanDerivative,
    forward: ScanKernel,
) -> Schedule:
    """The tangent recurrence and its reverse; what the one keeps for the other is a workspace."""
    if any(array.kind != "real" for array in found.saved):
        raise refuse("linear_state: the second order of a state that is no real number")
    spaces = {array.name: replace(array, role="workspace") for array in found.saved}

    def kept(checkpoints: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
        return tuple(replace(one, array=spaces[one.array.name]) for one in checkpoints)

    # Row by row: the forms in chunks and in tiles would keep and store what this one does not.
    row = replace(forward, checkpoints=kept(forward.checkpoints), chunked=None, tiled=None)
    kernels: list[Kernel] = [row]
    for kernel in found.kernels:
        if isinstance(kernel, ReverseScanKernel):
            kernel = replace(kernel, checkpoints=kept(kernel.checkpoints), chunked=None)
        kernels.append(kernel)
    inputs = (*own.inputs, *more)
    signature = replace(
        own,
        name=name,
        inputs=inputs,
        outputs=tuple(made),
        lengths=lengths_of(argument.array for argument in inputs),
    )
    workspaces = (*(Workspace(array, "accumulate") for array in spaces.values()), *found.workspaces)
    schedule = Schedule(name, signature, tuple(kernels), workspaces, found.widths, found.notes)
    verify_schedule(schedule)
    return schedule


__all__ = ["backward_tangent_of_scan", "second_of_scan"]
