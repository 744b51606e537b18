"""Spec -> Graph -> Schedule: the passes in order."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.build import build
from attnc.expressions.index import Axis
from attnc.graph import Graph
from attnc.passes.simplify import simplify
from attnc.passes.stream import stream
from attnc.schedule import MapKernel, Schedule, StreamKernel
from attnc.signature_of import signature_of
from attnc.spec import Spec

GRAPH_PASSES = (simplify,)


def lower(spec: Spec, emit: Sequence[str] = ()) -> Schedule:
    """The Schedule of an operator: its result, then the emits asked for.

    Raises UnsupportedError for what kernels cannot run yet (the oracles can)."""
    graph = prepare(spec, emit)
    lowering = stream(graph)
    kernels = (*lowering.preparations.kernels, *lowering.kernels)
    return Schedule(
        spec.name,
        signature_of(spec, graph),
        kernels,
        (*lowering.preparations.workspaces, *lowering.workspaces),
        widths_of_kernels(kernels),
        tuple(lowering.notes),
    )


def prepare(spec: Spec, emit: Sequence[str] = ()) -> Graph:
    """The Graph after every pass that leaves it a Graph."""
    graph = build(spec, emit)
    for graph_pass in GRAPH_PASSES:
        graph = graph_pass(graph)
    return graph


def widths_of_kernels(kernels: Sequence[object]) -> tuple[Axis, ...]:
    """The axes of widths, each once, in order."""
    found: dict[Axis, None] = {}
    for kernel in kernels:
        if isinstance(kernel, StreamKernel):
            for loop in kernel.loops:
                found.update((product.width.axis, None) for product in loop.products)
            found.update((c.width.axis, None) for c in kernel.carried if c.width)
        if isinstance(kernel, (StreamKernel, MapKernel)):
            found.update((store.width.axis, None) for store in kernel.stores if store.width)
    return tuple(found)
