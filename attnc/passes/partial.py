"""Partial results: a stream kernel stopped before its finish, their combination, and the finish.

    split     keys in shares: carried values over a further grid index, then one map that combines
              them in the order of the shares and finishes (short queries on long keys)
    partial   an operator that returns what is carried, for a shard of the keys
    merge     partial results, stacked along a first axis, combined into one
    finish    the operator's outputs from one partial result

Merging is exact in the same sense as the loop itself: relative to the greatest reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, position, postorder, read
from attnc.graph import Graph
from attnc.passes.finish import Carry, Lowering, Target, finish_kernels, merged, spill
from attnc.passes.frame import Frame
from attnc.passes.hoist import Hoister, Names
from attnc.passes.own_keys import check_own_keys
from attnc.passes.refusals import refuse
from attnc.passes.stream import carries_of, kernel_of, targets_of
from attnc.schedule import Kernel, Workspace
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Store

Form = Literal["whole", "split", "partial", "merge", "finish"]


@dataclass(frozen=True)
class Pieces:
    """Kernels of a form, and the tensors that it takes and gives beyond the operator's own."""

    lowering: Lowering
    kernels: tuple[Kernel, ...]
    inputs: tuple[Array, ...] = ()
    outputs: tuple[Array, ...] = ()


def split(graph: Graph) -> Pieces:
    """The operator with its keys in shares."""
    lowering, targets, carries = carried_of(graph)
    share = own_index(lowering, "split")
    for carry, prefix in prefixed(carries):
        stores = spill(lowering.frame, carry, prefix, (share,))
        lowering.workspaces.extend(Workspace(store.array, "accumulate") for store in stores)
        lowering.kernels.append(
            kernel_of(lowering.frame, f"{graph.name}_{prefix}", carry, [], stores, share)
        )
        carry.restored.update(merged(carry, _arrays(carry, stores), share))
    lowering.kernels.extend(finish_kernels(lowering, f"{graph.name}_merge", carries, targets))
    return Pieces(lowering, tuple(lowering.kernels))


def partial(graph: Graph) -> Pieces:
    """What is carried, as outputs over the operator's rows."""
    lowering, _, carries = carried_by_shards(graph)
    outputs: list[Array] = []
    for carry, prefix in prefixed(carries):
        stores = tuple(
            replace(store, array=_renamed(store.array, "output"))
            for store in spill(lowering.frame, carry, prefix)
        )
        outputs.extend(store.array for store in stores)
        name = f"{graph.name}_{prefix}"
        lowering.kernels.append(kernel_of(lowering.frame, name, carry, [], stores))
    return Pieces(lowering, tuple(lowering.kernels), (), tuple(outputs))


def merge(graph: Graph) -> Pieces:
    """Partial results stacked along a first axis, combined in its order."""
    lowering, _, carries = carried_by_shards(graph)
    part = own_index(lowering, "part")
    inputs: list[Array] = []
    kernels: list[Kernel] = []
    over = (*lowering.frame.grid, lowering.frame.held)
    for carry, prefix in prefixed(carries):
        stores = spill(lowering.frame, carry, prefix)
        stacked = {
            carried.name: Array(
                f"{store.array.name}s", (part, *store.array.indices), "real", "input"
            )
            for carried, store in zip(carry.carried(), stores, strict=True)
        }
        values = merged(carry, stacked, part)
        outputs = []
        for carried, store in zip(carry.carried(), stores, strict=True):
            array = _renamed(store.array, "output")
            outputs.append(replace(store, array=array, expr=values[carried.name]))
        inputs.extend(stacked.values())
        kernels.append(_map(f"{graph.name}_{prefix}_join", over, tuple(outputs), lowering))
    given = tuple(inputs)
    return Pieces(lowering, tuple(kernels), given, tuple(_stored(kernels)))


def finish(graph: Graph) -> Pieces:
    """The operator's outputs from what was carried."""
    lowering, targets, carries = carried_by_shards(graph)
    inputs: list[Array] = []
    for carry, prefix in prefixed(carries):
        for carried, store in zip(
            carry.carried(), spill(lowering.frame, carry, prefix), strict=True
        ):
            array = _renamed(store.array, "input")
            inputs.append(array)
            carry.restored[carried.name] = read(array, map(position, array.indices))
    kernels = finish_kernels(lowering, f"{graph.name}_finish", carries, targets)
    return Pieces(lowering, tuple(kernels), tuple(inputs))


def carried_of(graph: Graph) -> tuple[Lowering, tuple[Target, ...], list[Carry]]:
    """What an operator carries. Raises UnsupportedError where it walks its keys more than once."""
    lowering, targets = targets_of(graph)
    if lowering.reductions.pending:
        raise refuse("two_pass: a partial result of an operator that walks its keys more than once")
    if lowering.reductions.solves:
        raise refuse("simplex_projection: a partial result of an operator that solves for its rows")
    return lowering, targets, carries_of(lowering, targets)


def carried_by_shards(graph: Graph) -> tuple[Lowering, tuple[Target, ...], list[Carry]]:
    """The same, where each shard of the keys carries its own. Raises UnsupportedError too where
    pairs know more than a shard does."""
    lowering, targets, carries = carried_of(graph)
    check_own_keys(graph, carries)
    return lowering, targets, carries


def own_index(lowering: Lowering, name: str) -> Index:
    """An index on an axis that the text does not have."""
    name = lowering.preparations.names.fresh(name)
    return Index(name, Axis(name), 0)


def prefixed(carries: list[Carry]) -> list[tuple[Carry, str]]:
    """Each carry with the prefix of its arrays."""
    if len(carries) == 1:
        return [(carries[0], "partial")]
    return [(carry, f"partial_{number}") for number, carry in enumerate(carries, 1)]


def _arrays(carry: Carry, stores: tuple[Store, ...]) -> dict[str, Array]:
    return {c.name: store.array for c, store in zip(carry.carried(), stores, strict=True)}


def _renamed(array: Array, role: Literal["input", "output"]) -> Array:
    return Array(array.name, array.indices, array.kind, role)


def _map(
    name: str, over: tuple[Index, ...], stores: tuple[Store, ...], lowering: Lowering
) -> MapKernel:
    """One map for the stores, with what they share of a row computed once."""
    widths = [store.width for store in stores if store.width is not None]
    width = widths[0] if widths else Index("none", Axis("none"), -1)
    hoister = Hoister(Frame(over, width, ()), Names(set(lowering.preparations.names.taken)))
    shared = hoister.share((store.expr for store in stores), "grid")
    done = tuple(
        replace(store, expr=hoister.hoist(expr, "held"))
        for store, expr in zip(stores, shared, strict=True)
    )
    return MapKernel(name, over, tuple(hoister.lets["grid"]), done)


def _stored(kernels: list[Kernel]) -> list[Array]:
    return [s.array for kernel in kernels if isinstance(kernel, MapKernel) for s in kernel.stores]


def uses(kernels: tuple[Kernel, ...]) -> tuple[frozenset[str], frozenset[Axis]]:
    """The names of the arrays that map kernels read, and the axes whose length they ask for."""
    read: set[str] = set()
    lengths: set[Axis] = set()
    for kernel in kernels:
        if isinstance(kernel, MapKernel):
            exprs = [*(let.expr for let in kernel.values), *(s.expr for s in kernel.stores)]
            for node in postorder(*exprs):
                if node.op == "read":
                    read.add(node.array.name)
                elif node.op == "length" and isinstance(node.attr, Axis):
                    lengths.add(node.attr)
    return frozenset(read), frozenset(lengths)


__all__ = [
    "Form",
    "Pieces",
    "carried_by_shards",
    "finish",
    "merge",
    "own_index",
    "partial",
    "prefixed",
    "split",
    "uses",
]
