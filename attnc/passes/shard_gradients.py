"""Derivatives through partial results: of a shard, of the merge, of the finish.

    lower_shard(spec, emit, form, sweep)     -> ShardGradient   the backward of a form
    lower_shard_second(spec, emit, form)     -> ShardGradient   the backward of that
    lower_shard_tangent(spec, emit, form)    -> ShardGradient   the tangents of what a form gives
    lower_shard_backward_tangent(spec, emit, form)              the tangents of its gradients

A shard's backward is what its forward carried with cotangents of its own: these come through the
finish and the merge, whose statistics are of all shards. So a shard runs with global statistics and
never sees another's keys. The reference of a shard is read from its forward and held fast, in every
derivative: what is finished does not depend on it, and so no derivative of that does.

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
from attnc.passes.backward import derivative_signature, second_signature, tangent_signature
from attnc.passes.derivative_lowering import Backward, Sweep
from attnc.passes.differentiate import cotangents, differentiate, inputs_of
from attnc.passes.maps import map_of
from attnc.passes.pipeline import lower, passed, prepare, widths_of_kernels
from attnc.passes.second_order import GRADIENTS_AGAIN, TANGENTS_OF_GRADIENTS, first_lowered, moving
from attnc.passes.shards import Shards, finish_graph, merge_graph, partial_graph
from attnc.passes.stream import without_stop
from attnc.passes.tangent import tangent, tangents
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
    """A derivative of a form, or of its backward.

    reads       outputs of the form that it takes under their own names
    cotangents  (output, its cotangent) of each output that has a derivative; of a tangent: (input,
                its tangent)
    gradients   (input, its gradient) of each input that has one; of a tangent: (output, its
                tangent)
    """

    schedule: Schedule
    reads: tuple[str, ...]
    cotangents: tuple[tuple[str, str], ...]
    gradients: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Shard:
    """A form, and what its derivatives need: its signature, the inputs that have a derivative."""

    form: Form
    shards: Shards
    signature: Signature
    smooth: tuple[str, ...]

    @property
    def fixed(self) -> frozenset[str]:
        """The real inputs that have no derivative."""
        reals = (a.name for a in inputs_of(self.shards.graph) if a.kind == "real")
        return frozenset(reals).difference(self.smooth)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.shards.fixed) if self.form == "partial" else ()

    def backward_signature(self, derivative: Graph) -> Signature:
        """That of the form's backward."""
        made = tuple(output.array for output in derivative.outputs)
        given = cotangents(self.shards.graph)
        return derivative_signature(self.signature, made, self.reads, (), given)

    def lowered(
        self, graph: Graph, sweep: Sweep, later: dict[str, Array], signature: Signature
    ) -> Schedule:
        """The kernels of a derivative; `later`: its cotangents or tangents."""
        verify_graph(graph)
        if self.form != "partial":
            return _of_rows(graph, self.shards, signature)
        lowering = Backward(graph, self.shards.frame, sweep, later, None)
        lowering.run()
        return lowering.schedule(signature.name, signature)

    def moved(self, graph: Graph, own: Signature, dots: dict[str, Array]) -> ShardGradient:
        """The tangents of what has the signature `own`."""
        signature = tangent_signature(own, dots, graph.outputs)
        made = {one.name.rstrip("_"): one.name for one in signature.outputs}
        return ShardGradient(
            self.lowered(graph, "two", dots, signature),
            self.reads,
            tuple((name, array.name) for name, array in dots.items()),
            tuple(
                (one.name, made[f"{one.name}_dot"])
                for one in own.outputs
                if f"{one.name}_dot" in made
            ),
        )


def lower_shard(spec: Spec, emit: Sequence[str], form: Form, sweep: Sweep) -> ShardGradient:
    """The backward of a form. Raises UnsupportedError for what kernels cannot run."""
    shard = _shard(spec, emit, form)
    graph, own = shard.shards.graph, shard.signature
    derivative = differentiate(graph, shard.smooth)
    given = cotangents(graph)
    made = {output.array.name for output in derivative.outputs}
    return ShardGradient(
        shard.lowered(derivative, sweep, given, shard.backward_signature(derivative)),
        shard.reads,
        tuple((name, array.name) for name, array in given.items()),
        tuple((n, f"{n}_grad") for n in (i.name for i in own.inputs) if f"{n}_grad" in made),
    )


def lower_shard_second(spec: Spec, emit: Sequence[str], form: Form) -> ShardGradient:
    """The backward of the backward of a form: what is held fast in the one is in the other. Raises
    UnsupportedError for what kernels cannot run."""
    shard = _shard(spec, emit, form)
    graph = shard.shards.graph
    derivative = differentiate(graph, shard.smooth)
    again = cotangents(derivative)
    first = shard.backward_signature(derivative)

    def run(second: Graph) -> Schedule:
        return shard.lowered(second, "two", again, second_signature(first, second, again))

    schedule = first_lowered(GRADIENTS_AGAIN, graph, derivative, run, shard.fixed)
    made = [one.name for one in schedule.signature.outputs]
    return ShardGradient(
        schedule,
        (),
        tuple((name, array.name) for name, array in again.items()),
        tuple((name.rstrip("_").removesuffix("_grad"), name) for name in made),
    )


def lower_shard_tangent(spec: Spec, emit: Sequence[str], form: Form) -> ShardGradient:
    """The tangents of what a form gives, along those of its inputs. Raises UnsupportedError for
    what kernels cannot run."""
    shard = _shard(spec, emit, form)
    graph = shard.shards.graph
    moved = tangent(graph, shard.smooth)
    moved = replace(moved, outputs=moved.outputs[len(graph.outputs) :])
    own = derivative_signature(shard.signature, (), shard.reads, (), {})
    own = replace(own, name=shard.signature.name, outputs=shard.signature.outputs)
    return shard.moved(moved, own, tangents(graph, shard.smooth))


def lower_shard_backward_tangent(spec: Spec, emit: Sequence[str], form: Form) -> ShardGradient:
    """The tangents of a form's gradients (forward over reverse). Raises UnsupportedError for what
    kernels cannot run."""
    shard = _shard(spec, emit, form)
    graph = shard.shards.graph
    derivative = differentiate(graph, shard.smooth)
    dots = tangents(derivative, moving(derivative, shard.fixed))
    first = shard.backward_signature(derivative)

    def run(moved: Graph) -> ShardGradient:
        return shard.moved(moved, first, dots)

    found = first_lowered(TANGENTS_OF_GRADIENTS, graph, derivative, run, shard.fixed)
    return replace(found, reads=())


def _shard(spec: Spec, emit: Sequence[str], form: Form) -> _Shard:
    shards = _GRAPHS[form](prepare(spec, emit))
    own = _signature(lower(spec, emit, form).signature, shards)
    still = set() if shards.smooth and form != "partial" else set(shards.fixed)
    smooth = (a.name for a in inputs_of(shards.graph) if a.kind == "real" and a not in still)
    return _Shard(form, shards, own, tuple(smooth))


def _signature(own: Signature, shards: Shards) -> Signature:
    """The form's signature, of the arrays that its Graph has."""
    given = {array.name: array for array in shards.given}
    inputs = tuple(replace(one, array=given.get(one.name, one.array)) for one in own.inputs)
    return replace(own, inputs=inputs, lengths=lengths_of(one.array for one in inputs))


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
