"""Gradients through partial results: of a shard, of the merge, of the finish.

    lower_shard(spec, emit, form, sweep)    -> ShardGradient   the backward of a form

A shard's backward is what its forward carried with cotangents of its own: these come through the
finish and the merge, whose statistics are of all shards. So a shard runs with global statistics and
never sees another's keys. The reference of a shard is read from its forward and held fast.

does      lowers the differentiated Graphs of shards: loops over pairs for a partial result, maps
          for merge and finish
needs     an operator that walks its keys once
does not  save anything: a partial result is what its backward reads
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, postorder, rewrite
from attnc.graph import Graph
from attnc.passes.backward import derivative_signature
from attnc.passes.derivative_lowering import Backward, Sweep
from attnc.passes.differentiate import cotangents, differentiate, inputs_of
from attnc.passes.maps import map_of
from attnc.passes.pipeline import lower, passed, prepare, widths_of_kernels
from attnc.passes.shards import Shards, finish_graph, merge_graph, partial_graph
from attnc.passes.stream import without_stop
from attnc.schedule import Kernel, Schedule
from attnc.signature import Signature
from attnc.signature_of import lengths_of
from attnc.spec import Spec
from attnc.verify import verify_graph

Form = Literal["partial", "merge", "finish"]
_GRAPHS: dict[Form, Callable[[Graph], Shards]] = {
    "partial": partial_graph,
    "merge": merge_graph,
    "finish": finish_graph,
}


@dataclass(frozen=True)
class ShardGradient:
    """The backward of a form.

    reads       outputs of the form that it takes under their own names
    cotangents  (output, its cotangent) of each output that has a derivative
    gradients   (input, its gradient) of each input that has one
    """

    schedule: Schedule
    reads: tuple[str, ...]
    cotangents: tuple[tuple[str, str], ...]
    gradients: tuple[tuple[str, str], ...]


def lower_shard(spec: Spec, emit: Sequence[str], form: Form, sweep: Sweep) -> ShardGradient:
    """The backward of a form. Raises UnsupportedError for what kernels cannot run."""
    shards = _GRAPHS[form](prepare(spec, emit))
    own = _signature(lower(spec, emit, form).signature, shards)
    still = set() if shards.smooth and form != "partial" else set(shards.fixed)
    wanted = [a.name for a in inputs_of(shards.graph) if a.kind == "real" and a not in still]
    derivative = differentiate(shards.graph, wanted)
    verify_graph(derivative)
    given = cotangents(shards.graph)
    made = {array.name: array for array in (output.array for output in derivative.outputs)}
    reads = tuple(array.name for array in shards.fixed) if form == "partial" else ()
    signature = derivative_signature(own, tuple(made.values()), reads, (), given)
    if form == "partial":
        schedule = _of_pairs(derivative, shards, sweep, given, signature)
    else:
        schedule = _of_rows(derivative, shards, signature)
    return ShardGradient(
        schedule,
        reads,
        tuple((name, array.name) for name, array in given.items()),
        tuple((n, f"{n}_grad") for n in (i.name for i in own.inputs) if f"{n}_grad" in made),
    )


def _signature(own: Signature, shards: Shards) -> Signature:
    """The form's signature, of the arrays that its Graph has."""
    given = {array.name: array for array in shards.given}
    inputs = tuple(replace(one, array=given.get(one.name, one.array)) for one in own.inputs)
    return replace(own, inputs=inputs, lengths=lengths_of(one.array for one in inputs))


def _of_pairs(
    derivative: Graph,
    shards: Shards,
    sweep: Sweep,
    given: dict[str, Array],
    signature: Signature,
) -> Schedule:
    lowering = Backward(derivative, shards.frame, sweep, given, None)
    lowering.run()
    return lowering.schedule(signature.name, signature)


def _of_rows(derivative: Graph, shards: Shards, signature: Signature) -> Schedule:
    """A map for each gradient: nothing is over keys."""
    taken = {node.array.name for node in postorder(*derivative.roots) if node.op == "read"}
    taken |= {output.array.name for output in derivative.outputs}
    kernels: list[Kernel] = []
    for output in derivative.outputs:
        width = _last(output.array, shards.widths)
        over = tuple(index for index in output.array.indices if index != width)
        name = f"{derivative.name}_{output.array.name}"
        expr = rewrite(output.expr, without_stop)
        kernels.append(map_of(name, over, width, output.array, expr, taken))
    widths = widths_of_kernels(kernels)
    return passed(Schedule(signature.name, signature, tuple(kernels), (), widths, ()))


def _last(array: Array, widths: frozenset[Axis]) -> Index | None:
    """The last index of an array, if it is along a width."""
    last = array.indices[-1] if array.indices else None
    return last if last is not None and last.axis in widths else None
