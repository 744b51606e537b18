"""A recurrence that goes on: every first state is an input, whatever the text makes it of.

does      replaces the first states by inputs of the states' names, and leaves out the inputs that
          only first states read
needs     a Graph with a recurrence
does not  change a row
"""

from __future__ import annotations

from dataclasses import replace

from attnc.expressions.tree import Array, Kind, position, postorder, read
from attnc.graph import Graph
from attnc.signature import Dtype, Signature, TensorArgument
from attnc.signature_of import lengths_of

_KEPT: dict[Kind, Dtype] = {"int": "int", "bool": "bool"}


def continued(graph: Graph, own: Signature) -> tuple[Graph, Signature]:
    """The graph and its signature, called `NAME_continued`."""
    given: dict[str, Array] = {}
    recurrences = []
    for one in graph.recurrences:
        firsts = []
        for state, first in zip(one.states, one.initial, strict=True):
            if state.name not in own.states:  # a local of the step
                firsts.append(first)
                continue
            array = Array(state.name, state.indices, state.kind, "input", state.span)
            given[state.name] = array
            firsts.append(read(array, map(position, state.indices)))
        recurrences.append(replace(one, initial=tuple(firsts)))
    whole = replace(graph, recurrences=tuple(recurrences))
    used = {node.array.name for node in postorder(*whole.roots) if node.op == "read"}
    kept = [
        one for one in own.inputs if one.name not in given and (one.positional or one.name in used)
    ]
    states = [
        TensorArgument(array, _KEPT.get(array.kind, "accumulate"), "input")
        for array in given.values()
    ]
    inputs = (*kept, *states)
    signature = replace(
        own,
        name=f"{own.name}_continued",
        inputs=inputs,
        lengths=lengths_of(tensor.array for tensor in inputs),
    )
    return whole, signature
