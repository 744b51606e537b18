"""What a shard of the keys cannot know: whether a carried value is a sum over keys each on its own.

    v[j - 1] else 0             the key before a shard's first stands in another shard
    len(j)                      a shard knows its own keys alone
    sum(l in j if l > j: x[l])  a running value, of keys of other shards too
    sum(i: exp(score))          a value of a key that folds over rows: loops of its own finish it
    over j, l in j              pairs of keys: the two may stand in two shards
    over j | c < 4              further keys that no tensor has: every shard would count them
    for i in j                  rows that are keys, or as many: a shard would have other rows

does      refuses such values, by name
needs     the carries of an operator
does not  look at what a finish does: it knows all keys
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, position, postorder
from attnc.graph import Graph
from attnc.passes.finish import Carry
from attnc.passes.fold_results import Part
from attnc.passes.refusals import refuse

WHOLE = "a partial result of an operator"


def check_own_keys(graph: Graph, carries: Iterable[Carry]) -> None:
    """Raises UnsupportedError where a carried value is made of more than a shard's own keys, each
    alone."""
    if graph.iterations:
        raise refuse(f"two_pass: {WHOLE} that replaces values of rows or keys in turns")
    keys = {axis for axes in graph.keys for axis in axes}
    if any(row.axis in keys or _lengths_in(row.axis) & keys for row in graph.rows):
        raise refuse(f"{WHOLE} whose rows are its keys")
    for carry in carries:
        for part in (part for entry in carry.group.members.values() for part in entry.parts):
            _check_source(part.walked.axis, alone=len(keys) == 1)
            nodes = list(postorder(*_exprs(carry, part)))
            _check_folds(nodes, keys)
            _check_reads(nodes, part.walked, keys)
            if any(node.op == "length" and node.attr in keys for node in nodes):
                raise refuse(f"{WHOLE} whose pairs ask for the number of keys")


def _exprs(carry: Carry, part: Part) -> Iterator[Expr]:
    """What a carried value of a source of keys is made of."""
    yield part.body.mantissa
    yield from part.condition
    exponents = (part.body.exponent, carry.group.exponents.get(part.walked))
    yield from (term for one in exponents if one is not None for term, _ in one.terms)


def _check_source(walked: Axis, alone: bool) -> None:
    """Keys that are measured are as many as a shard gives. Of others a call has all: the shape that
    the text says is checked."""
    if walked.form == "measured":
        return
    if _lengths_in(walked):
        raise refuse(f"{WHOLE} whose keys are as many as lengths say: pairs of keys, or blocks")
    if not alone:
        raise refuse(f"{WHOLE} whose keys `{walked.name}` every shard would count")


def _lengths_in(axis: Axis) -> set[Axis]:
    """The axes whose lengths the text makes an axis of."""
    nodes = postorder(axis.length) if axis.length is not None else ()
    return {n.attr for n in nodes if n.op == "length" and isinstance(n.attr, Axis)}


def _check_folds(nodes: Iterable[Expr], keys: set[Axis]) -> None:
    for index in (index for node in nodes for index in node.bound):
        if index.axis in keys:
            raise refuse(f"{WHOLE} whose pairs fold over other keys `{index.name}`")


def _check_reads(nodes: Iterable[Expr], walked: Index, keys: set[Axis]) -> None:
    own = position(walked)
    for node in (node for node in nodes if node.op == "read"):
        array = node.array
        if array.role == "workspace":
            raise refuse(f"column_norm: {WHOLE} that folds over rows before it folds over keys")
        places = zip(node.args, array.axes, strict=True)
        if any(axis in keys and at != own for at, axis in places):
            raise refuse(f"{WHOLE} whose pairs read `{array.name}` at other keys than their own")
