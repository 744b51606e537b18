"""Partial results as Graphs: what a shard of the keys carries, shards merged, the whole finished.

    partial   carried values, as sums over the shard's keys relative to a reference that is given
    merge     carried values of the whole, from those of its parts along `part`
    finish    the operator's outputs, from carried values

What is finished does not depend on the reference that sums are relative to, as long as all of them
are relative to the same: it may be held fast. So it has no derivative here, in no form (but where
the text itself asks for the greatest score, which the reference then is too), and the gradients of
carried values alone carry what a shard must know of all the others.

does      makes the Graphs that differentiate takes, of the reductions that the kernels carry
needs     an operator that walks its keys once
does not  make kernels (see partial, shard_gradients)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Axis
from attnc.expressions.tree import Array, Expr, call, fold, number, position, read, rewrite
from attnc.graph import Graph, GraphOutput
from attnc.passes.constants import LOG2_E
from attnc.passes.exponents import Scaled, above_bottom
from attnc.passes.factors import total
from attnc.passes.finish import Carry, Finish, Lowering, merged, spill
from attnc.passes.fold_results import Part, Reduction
from attnc.passes.frame import Frame
from attnc.passes.linear import Linear
from attnc.passes.partial import carried_by_shards, own_index, prefixed
from attnc.passes.references import REFERENCE, is_reference
from attnc.passes.simplify import all_of, make, simplify_expr
from attnc.passes.stream import without_stop
from attnc.schedule.statements import Store


@dataclass(frozen=True)
class Shards:
    """The Graph of a form, and its frame.

    fixed   references that it reads
    smooth  whether references have a derivative too, as greatest scores
    given   every array of carried values that it reads, in the order of the form's arguments
    widths  the axes that carried values and outputs have beside their rows
    """

    graph: Graph
    frame: Frame
    fixed: tuple[Array, ...]
    smooth: bool
    given: tuple[Array, ...]
    widths: frozenset[Axis]


def partial_graph(graph: Graph) -> Shards:
    """The carried values but the reference, which is an input."""
    lowering, _, carries = carried_by_shards(graph)
    fixed: list[Array] = []
    outputs: list[GraphOutput] = []
    for carry, stores in _stored(lowering, carries):
        own = {c.name: s.array for c, s in zip(carry.carried(), stores, strict=True)}
        reference = None
        if REFERENCE in own:
            array = _as(own[REFERENCE], "input")
            fixed.append(array)
            reference = read(array, map(position, array.indices))
        for name, entry in carry.group.members.items():
            if is_reference(carry.group, entry):
                array, expr = own[REFERENCE], _greatest(entry)
            else:
                array = own[carry.names.of[name]]
                expr = total(_summed(carry, entry, part, reference) for part in entry.parts)
            outputs.append(GraphOutput(_as(array, "output"), canonical(simplify_expr(expr))))
    whole = replace(graph, name=f"{graph.name}_partial", outputs=tuple(outputs))
    return _made(whole, lowering, carries, fixed)


def merge_graph(graph: Graph) -> Shards:
    """The carried values but the references, from those of the parts."""
    lowering, _, carries = carried_by_shards(graph)
    part = own_index(lowering, "part")
    fixed: list[Array] = []
    given: list[Array] = []
    outputs: list[GraphOutput] = []
    for carry, stores in _stored(lowering, carries):
        stacked = {
            carried.name: Array(f"{s.array.name}s", (part, *s.array.indices), "real", "input")
            for carried, s in zip(carry.carried(), stores, strict=True)
        }
        given.extend(stacked.values())
        fixed.extend(array for name, array in stacked.items() if name == REFERENCE)
        values = merged(carry, stacked, part)
        for carried, store in zip(carry.carried(), stores, strict=True):
            array, expr = _as(store.array, "output"), values[carried.name]
            if carried.name != REFERENCE:
                outputs.append(GraphOutput(array, _held_fast(expr, fixed)))
            elif _asked(carry):
                outputs.append(GraphOutput(array, expr))
    whole = replace(graph, name=f"{graph.name}_merge", outputs=tuple(outputs), keys=())
    return _made(whole, lowering, carries, fixed, given)


def finish_graph(graph: Graph) -> Shards:
    """The operator's outputs from carried values."""
    lowering, targets, carries = carried_by_shards(graph)
    fixed: list[Array] = []
    given: list[Array] = []
    for carry, stores in _stored(lowering, carries):
        for carried, store in zip(carry.carried(), stores, strict=True):
            array = _as(store.array, "input")
            given.append(array)
            value = read(array, map(position, array.indices))
            if carried.name == REFERENCE:
                fixed.append(array)
                value = call("stop", value)
            carry.restored[carried.name] = value
    formula = _Finish(lowering, carries).formula
    outputs = [
        GraphOutput(target.array, canonical(simplify_expr(formula(target)))) for target in targets
    ]
    whole = replace(graph, name=f"{graph.name}_finish", outputs=tuple(outputs), keys=())
    return _made(whole, lowering, carries, fixed, given)


class _Finish(Finish):
    """A finish whose greatest scores are no references held fast."""

    def _leaf(self, node: Expr) -> Scaled | None:
        found = super()._leaf(node)
        for carry in self.carries:
            entry = carry.group.members.get(str(node.attr)) if node.op == "value" else None
            if entry is not None and found is not None and is_reference(carry.group, entry):
                return Scaled(rewrite(found.mantissa, without_stop))
        return found


def _made(
    graph: Graph,
    lowering: Lowering,
    carries: list[Carry],
    fixed: list[Array],
    given: Iterable[Array] = (),
) -> Shards:
    rows = set(lowering.frame.rows)
    arrays = [one.array for one in graph.outputs]
    widths = frozenset(i.axis for array in arrays for i in array.indices if i not in rows)
    asked = any(map(_asked, carries))
    return Shards(graph, lowering.frame, tuple(fixed), asked, tuple(given), widths)


def _asked(carry: Carry) -> bool:
    """Whether the text asks for the greatest score, which is the reference."""
    return any(is_reference(carry.group, entry) for entry in carry.group.members.values())


def _greatest(entry: Reduction) -> Expr:
    """The maximum that a reference is, base 2."""
    (part,) = entry.parts
    body = make("mul", part.body.mantissa, number(LOG2_E))
    return fold("max", (part.walked,), body, all_of(part.condition))


def _stored(lowering: Lowering, carries: list[Carry]) -> Iterable[tuple[Carry, tuple[Store, ...]]]:
    for carry, prefix in prefixed(carries):
        yield carry, spill(lowering.frame, carry, prefix)


def _summed(carry: Carry, entry: Reduction, part: Part, reference: Expr | None) -> Expr:
    """One key source's share of a carried value."""
    body, test = part.body.mantissa, all_of(part.condition)
    if entry.name not in carry.group.rescaled:
        return fold(entry.monoid, (part.walked,), body, test)
    assert reference is not None
    relative = carry.group.exponents[part.walked] - Linear(((above_bottom(reference), 1.0),))
    found = fold(entry.monoid, (part.walked,), Scaled(body, relative).collapsed(), test)
    seen = call("gt", reference, number(-math.inf))  # else its cotangent may be NaN
    return call("where", seen, found, number(0.0))


def _held_fast(expr: Expr, fixed: list[Array]) -> Expr:
    names = {array.name for array in fixed}

    def change(node: Expr) -> Expr:
        held = node.op == "read" and node.array.name in names
        return call("stop", node) if held else node

    return rewrite(expr, change)


def _as(array: Array, role: str) -> Array:
    return Array(array.name, array.indices, array.kind, role)  # type: ignore[arg-type]
