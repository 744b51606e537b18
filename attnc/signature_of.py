"""Spec -> Signature: what a call gives and gets."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.build import blocks, first_value
from attnc.continued import takers_of
from attnc.divisors import divisor_requirements
from attnc.expressions.index import Axis
from attnc.expressions.tree import Array, Kind, postorder
from attnc.graph import Graph
from attnc.lags import lags_of
from attnc.signature import (
    Dtype,
    Lag,
    LengthArgument,
    NumberArgument,
    ReadRequirement,
    Requirement,
    Signature,
    TensorArgument,
)
from attnc.spec import Input, Spec

_OWN: dict[Kind, Dtype] = {"int": "int", "bool": "bool", "real": "real", "complex": "complex"}


def signature_of(spec: Spec, graph: Graph) -> Signature:
    """The signature of the outputs of `graph`. Positional inputs share the query's dtype, which the
    result has; emits are in the accumulation type, or as they are counted."""
    inputs = tuple(
        TensorArgument(
            tensor.array,
            _input_dtype(tensor),
            "input",
            tensor.positional,
            tensor.default is not None,
            tensor.default,
        )
        for tensor in spec.inputs
    )
    inputs += tuple(_states(spec))
    outputs = tuple(
        TensorArgument(output.array, _output_dtype(output.array.kind, place), "output")
        for place, output in enumerate(graph.outputs)
    )
    numbers = tuple(
        NumberArgument(number.name, number.kind, number.default)
        for number in spec.numbers
        if not number.static
    )
    return Signature(
        spec.name,
        inputs,
        outputs,
        numbers,
        lengths_of(tensor.array for tensor in spec.inputs),
        _shifted(spec, "offset"),
        None if _on_one_axis(spec, graph) else _shifted(spec, "key_offset"),
        (
            *(Requirement(check.condition, check.message) for check in spec.checks),
            *divisor_requirements(spec),
        ),
        any(node.op == "random" for node in postorder(*graph.roots)),
        _reads(spec),
        tuple(state.array.name for state in spec.root.states),
        spec.root.rows[-1].axis if spec.root.states else None,
        *_lags(spec, graph),
    )


def _on_one_axis(spec: Spec, graph: Graph) -> bool:
    """Whether keys that are pairs are walked on an axis of their own, which no call moves."""
    sources = (source for block in blocks(spec.root) for source in block.sources)
    several = any(len(source.keys) > 1 for source in sources)
    return several and all(len(source) == 1 for source in graph.keys)


def _lags(spec: Spec, graph: Graph) -> tuple[tuple[Lag, ...], str]:
    """What a recurrence reads of other rows than that of the step."""
    found = lags_of(graph)
    order = [one.name for one in spec.inputs if one.name in found.reach]
    takers = takers_of(spec, order)
    lags = (Lag(name, takers[name].name, *found.reach[name]) for name in order)
    return tuple(lags), found.unbounded


def _reads(spec: Spec) -> tuple[ReadRequirement, ...]:
    """What is tested point by point: what data decides, and what offsets do, which may be one per
    batch."""
    shifts = [
        ReadRequirement(check.condition, (), check.span.text)
        for check in spec.checks
        if any(node.op == "start" for node in postorder(check.condition))
    ]
    data = [ReadRequirement(check.condition, check.given, check.text) for check in spec.read_checks]
    return (*shifts, *data)


def _states(spec: Spec) -> Iterable[TensorArgument]:
    """First values of states, which a call may give."""
    for state in spec.root.states:
        array = first_value(state)
        if array is not None:
            dtype: Dtype = "accumulate" if array.kind == "real" else _OWN[array.kind]
            yield TensorArgument(array, dtype, "input", False, True, state.initial)


def _input_dtype(tensor: Input) -> Dtype:
    real = tensor.array.kind == "real"
    return "query" if real and tensor.positional else _OWN[tensor.array.kind]


def _output_dtype(kind: Kind, place: int) -> Dtype:
    if kind != "real":
        return _OWN[kind]
    return "accumulate" if place else "query"


def lengths_of(arrays: Iterable[Array]) -> tuple[LengthArgument, ...]:
    """The axes that the arrays measure, in order of the first array, with all the places."""
    sites: dict[Axis, list[tuple[str, int]]] = {}
    for array in arrays:
        for place, axis in enumerate(array.axes):
            if axis.length is None and axis.form in ("measured", "coarse"):
                sites.setdefault(axis, []).append((array.name, place))
    return tuple(LengthArgument(axis, tuple(places)) for axis, places in sites.items())


def _shifted(spec: Spec, which: str) -> Axis | None:
    """The axis whose first position the call moves: of rows, or of keys (of a pipeline those of its
    blocks), or of what rows read without keys of their own."""
    bodies = list(blocks(spec.root))
    rows = (index.axis for body in bodies for index in body.rows)
    keys = (key.axis for body in bodies for source in body.sources for key in source.keys)
    read = (axis for one in spec.inputs for axis in one.array.axes)
    return next((axis for axis in (*rows, *keys, *read) if axis.shifted == which), None)
