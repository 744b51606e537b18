"""Spec -> Graph -> Schedule: the passes in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from attnc.build import build
from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis
from attnc.graph import Graph
from attnc.passes import partial
from attnc.passes.apart import rows_apart
from attnc.passes.chunk import scan
from attnc.passes.finish import Lowering
from attnc.passes.fuse import fuse
from attnc.passes.inner_gradients import slope_by
from attnc.passes.key_tuples import keys_on_one_axis
from attnc.passes.partial import Form, Pieces, uses
from attnc.passes.shifts import shifted
from attnc.passes.shown import conditions_shown
from attnc.passes.simplify import simplify
from attnc.passes.unroll import unroll
from attnc.schedule import Kernel, Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.streams import StreamKernel
from attnc.signature import Signature, TensorArgument
from attnc.signature_of import lengths_of, signature_of
from attnc.spec import Spec
from attnc.verify import verify_graph, verify_schedule

T = TypeVar("T")
GRAPH_PASSES: tuple[Callable[[Graph], Graph], ...] = (
    unroll,
    simplify,
    conditions_shown,
    shifted,
    rows_apart,
    keys_on_one_axis,
)
SCHEDULE_PASSES: tuple[Callable[[Schedule], Schedule], ...] = (fuse,)


def lower(spec: Spec, emit: Sequence[str] = (), form: Form = "whole") -> Schedule:
    """The Schedule of an operator: its result, then the emits asked for.

    form    whole: the operator; split: the same, keys in shares; partial, merge, finish: operators
            on what is carried (see passes/partial)

    Raises UnsupportedError for what kernels cannot run yet (the oracles can)."""
    graph = prepare(spec, emit)
    if graph.recurrences:
        return _scanned(spec, graph, form)
    pieces = _FORMS[form](graph)
    signature = _signature(signature_of(spec, graph), pieces, form)
    name = spec.name if form in ("whole", "split") else f"{spec.name}_{form}"
    if form in _WALKING:
        return finished(name, signature, pieces.lowering, pieces.kernels, pieces.lowering.notes)
    widths = widths_of_kernels(pieces.kernels)
    notes = tuple(pieces.lowering.notes)
    return passed(Schedule(name, signature, pieces.kernels, (), widths, notes))


def finished(
    name: str,
    signature: Signature,
    lowering: Lowering,
    kernels: Sequence[Kernel],
    notes: Sequence[str],
    prepared: bool = True,
) -> Schedule:
    """The schedule of lowered kernels. `prepared`: those that prepare operands come before them
    (else they are among them)."""
    before = tuple(lowering.preparations.kernels)
    every = (*before, *kernels) if prepared else tuple(kernels)
    spaces = (*lowering.preparations.workspaces, *lowering.workspaces)
    said = (*notes, *_prepared_notes(before))
    return passed(Schedule(name, signature, every, spaces, widths_of_kernels(every), said))


def passed(schedule: Schedule) -> Schedule:
    """The schedule after every pass that leaves it one."""
    for schedule_pass in SCHEDULE_PASSES:
        schedule = _verified(verify_schedule, schedule_pass(_verified(verify_schedule, schedule)))
    return schedule


def _scanned(spec: Spec, graph: Graph, form: Form) -> Schedule:
    """The Schedule of an operator with states."""
    if form != "whole":
        why = "a recurrence in parts: rows go on from a state, which `return_state` gives"
        raise UnsupportedError(why, "kernel")
    found = scan(graph)
    own = signature_of(spec, graph)
    schedule = Schedule(spec.name, own, (found.kernel,), (), found.widths, found.notes)
    return _verified(verify_schedule, schedule)


def _prepared_notes(kernels: Sequence[MapKernel]) -> tuple[str, ...]:
    """What is written before the loops."""
    names = [store.array.name for kernel in kernels for store in kernel.stores]
    return (f"Written once, before the keys are walked: {', '.join(names)}.",) if names else ()


def _verified(verify: Callable[[T], None], stage: T) -> T:
    """The stage, held to its invariants unless Python runs with -O."""
    if __debug__:
        verify(stage)
    return stage


class _Same:
    """A Spec by identity: to hash its content is to walk it."""

    __slots__ = ("spec",)

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.spec is self.spec

    def __hash__(self) -> int:
        return id(self.spec)


def prepare(spec: Spec, emit: Sequence[str] = ()) -> Graph:
    """The Graph after every pass that leaves it a Graph. All forms and derivatives of an operator
    start from it, so the last ones are kept."""
    return _prepared(_Same(spec), tuple(emit))


@lru_cache(maxsize=8)
def _prepared(same: _Same, emit: tuple[str, ...]) -> Graph:
    graph = _verified(verify_graph, build(same.spec, emit, slope_by))
    for graph_pass in GRAPH_PASSES:
        graph = _verified(verify_graph, graph_pass(graph))
    return graph


def _whole(graph: Graph) -> Pieces:
    from attnc.passes.emits import lower_outputs  # which lowers what is over keys as derivatives do

    lowering = lower_outputs(graph)
    return Pieces(lowering, tuple(lowering.kernels))


_WALKING = ("whole", "split", "partial")
_FORMS: dict[str, Callable[[Graph], Pieces]] = {  # of operators without states
    "whole": _whole,
    "split": partial.split,
    "partial": partial.partial,
    "merge": partial.merge,
    "finish": partial.finish,
}


def _signature(whole: Signature, pieces: Pieces, form: Form) -> Signature:
    """The signature of a form: carried values are tensors in the accumulation type."""
    if form in ("whole", "split"):
        return whole
    own = whole.inputs if form == "partial" else _needed(whole, pieces)
    given = tuple(TensorArgument(a, "accumulate", "input", True) for a in pieces.inputs)
    made = tuple(TensorArgument(a, "accumulate", "output") for a in pieces.outputs)
    inputs = (*given, *own)
    return replace(
        whole,
        name=f"{whole.name}_{form}",
        inputs=inputs,
        outputs=whole.outputs if form == "finish" else made,
        lengths=lengths_of(argument.array for argument in inputs),
    )


def _needed(whole: Signature, pieces: Pieces) -> tuple[TensorArgument, ...]:
    """The operator's inputs that the kernels read, or that alone measure a length they use."""
    read, lengths = uses(pieces.kernels)
    measured = {axis for array in pieces.inputs for axis in array.axes}
    names = set(read)
    for tensor in whole.inputs:
        missing = (lengths - measured) & set(tensor.array.axes)
        if missing:
            names.add(tensor.name)
            measured |= missing
    return tuple(tensor for tensor in whole.inputs if tensor.name in names)


def widths_of_kernels(kernels: Sequence[Kernel]) -> tuple[Axis, ...]:
    """The axes of widths, each once, in order."""
    found: dict[Axis, None] = {}
    for kernel in leaves(kernels):
        if isinstance(kernel, StreamKernel):
            for loop in kernel.loops:
                found.update((product.width.axis, None) for product in loop.products)
                found.update((one.width.axis, None) for one in loop.deposits if one.width)
                found.update((one.width.axis, None) for one in loop.scatters if one.width)
            found.update((c.width.axis, None) for c in kernel.carried if c.width)
        if isinstance(kernel, (StreamKernel, MapKernel)):
            found.update((store.width.axis, None) for store in kernel.stores if store.width)
    return tuple(found)
