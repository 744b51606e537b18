"""Decode on a paged cache: the causal kernel with another access for its keys, split in shares.

Nothing of the formula changes: row r of batch b lies in page table[b, r // page] at slot r % page.
"""

from __future__ import annotations

from dataclasses import replace

from spec_builder import causal

from attnc.build import build
from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array
from attnc.graph import Graph
from attnc.passes import lower
from attnc.schedule import Schedule
from attnc.schedule.statements import Paged
from attnc.schedule.streams import StreamKernel
from attnc.signature import TensorArgument

PAGE = 16


def graph() -> Graph:
    """Addresses are no part of a graph: it is that of causal attention."""
    return build(causal("paged_decode"))


def schedule() -> Schedule:
    whole = lower(causal("paged_decode"), form="split")
    batch = whole.signature.inputs[0].array.indices[0]
    pages = Index("pages", Axis("pages"))
    table = Array("table", (batch, pages), "int", "input")
    paged = Paged(table, tree.number(PAGE))
    kernels = []
    for kernel in whole.kernels:
        if isinstance(kernel, StreamKernel):
            loops = tuple(replace(loop, access=paged) for loop in kernel.loops)
            kernel = replace(kernel, loops=loops)
        kernels.append(kernel)
    argument = TensorArgument(table, "int", "input")
    inputs = (*whole.signature.inputs, argument)
    return replace(whole, kernels=tuple(kernels), signature=replace(whole.signature, inputs=inputs))
