"""Arrays that are replaced in turns: Sinkhorn's rows and columns, and their like.

    f[i] = ...; g[j] = ...;  repeat: g[j] = fold over i of f; f[i] = fold over j of g

Each array lies in memory, a number for each row or each key. Its first value is stored by a loop of
its own frame, rows held or keys held, and so is each new one; the loops of new values are repeated,
one turn after the other. Nothing is stored for a pair.

A derivative goes back through every turn: for it `unrolled` writes the turns out, and what each
finishes is a row value or a value of a key like any other.

does      makes the kernels of first and next values; replaces reads of the arrays
needs     a count that is known when the kernels are printed
does not  run a value that folds over its own array (it would meet new entries beside old ones)
"""

from __future__ import annotations

from dataclasses import replace

from attnc.expressions.canonical import canonical, rename_bound
from attnc.expressions.index import Index
from attnc.expressions.tree import (
    Array,
    Expr,
    number_of,
    position,
    postorder,
    read,
    rewrite,
    substitute,
)
from attnc.graph import Graph, Iteration
from attnc.passes.column_values import swapped
from attnc.passes.columns import Emit, part_of
from attnc.passes.finish import Lowering, Target
from attnc.passes.frame import Frame
from attnc.passes.maps import map_of
from attnc.passes.refusals import refuse
from attnc.schedule import RepeatKernels, Workspace

MOST_TURNS = 4  # that a derivative goes back through: each has passes of its own
APART = 10000  # numbers of bound indices within one value of an array


def iterate(graph: Graph, lowering: Lowering, emit: Emit) -> dict[str, Array]:
    """Adds the kernels of every iteration; gives the array that stands for each, by name."""
    known: dict[str, Array] = {}
    for turn in graph.iterations:
        _check(turn)
        for array in turn.arrays:
            name = lowering.reductions.names.fresh(array.name.split(".")[-1])
            frame = _frame(array, lowering.frame)
            known[array.name] = Array(name, (*frame.grid, frame.held), "real", "workspace")
            lowering.workspaces.append(Workspace(known[array.name], "accumulate"))
            lowering.preparations.finished.add(name)
        for array, expr in zip(turn.arrays, turn.initial, strict=True):
            _store(array, expr, known, lowering, f"{graph.name}_first", emit)
        before = len(lowering.kernels)
        for array, expr in zip(turn.arrays, turn.next, strict=True):
            _store(array, expr, known, lowering, f"{graph.name}_next", emit)
        kernels = tuple(lowering.kernels[before:])
        del lowering.kernels[before:]
        lowering.kernels.append(RepeatKernels(turn.index, turn.count, kernels))
        names = " and ".join(known[array.name].name for array in turn.arrays)
        lowering.notes.append(
            f"{names} are replaced {turn.count.attr} times, a pass over the pairs for each: "
            "no pair is stored."
        )
    return known


def renamed(expr: Expr, known: dict[str, Array]) -> Expr:
    """The expression with reads of the arrays that stand for those of iterations."""

    def change(node: Expr) -> Expr:
        if node.op != "read" or node.array.name not in known:
            return node
        own = known[node.array.name]
        places = {index.axis: at for index, at in zip(node.array.indices, node.args, strict=True)}
        return read(own, (places.get(index.axis, position(index)) for index in own.indices))

    return rewrite(expr, change) if known else expr


def unrolled(graph: Graph) -> Graph:
    """The graph without iterations: each array's last value as an expression of the first ones, so
    that a derivative goes back through every turn. What is a number for each row or key stays one:
    the loops that finish it are those of any row value or value of a key.

    Raises UnsupportedError for turns whose number is not static, or large."""
    known: dict[str, tuple[Array, Expr]] = {}
    depth = 0

    def put(expr: Expr) -> Expr:
        nonlocal depth
        depth += 1

        def change(node: Expr) -> Expr:
            if node.op == "fold":
                moves = {i: Index(i.name, i.axis, i.number + APART * depth) for i in node.bound}
                return rename_bound(node, moves)
            if node.op != "read" or node.array.name not in known:
                return node
            array, last = known[node.array.name]
            places = {own.axis: at for own, at in zip(node.array.indices, node.args, strict=True)}
            return substitute(last, {own: places[own.axis] for own in array.indices})

        return rewrite(expr, change)

    for turn in graph.iterations:
        _check(turn)
        if number_of(turn.count) > MOST_TURNS:
            raise refuse(f"column_norm: a derivative of more than {MOST_TURNS} turns")
        for array, expr in zip(turn.arrays, turn.initial, strict=True):
            known[array.name] = (array, put(expr))
        for _ in range(int(number_of(turn.count))):
            for array, expr in zip(turn.arrays, turn.next, strict=True):
                known[array.name] = (array, put(expr))
    outputs = tuple(replace(one, expr=canonical(put(one.expr))) for one in graph.outputs)
    return replace(graph, outputs=outputs, iterations=())


def _check(turn: Iteration) -> None:
    if turn.count.op != "number":
        raise refuse("column_norm: turns whose number is not static")
    for array, expr in zip(turn.arrays, turn.next, strict=True):
        if turn.index in expr.free:
            raise refuse("column_norm: a value that depends on the number of its turn")
        folds = (node for node in postorder(expr) if node.op == "fold")
        if any(n.op == "read" and n.array.name == array.name for f in folds for n in postorder(f)):
            raise refuse("column_norm: a value that folds over its own array")


def _frame(array: Array, frame: Frame) -> Frame:
    """The frame that holds what an array has a number for."""
    rest = [axis for axis in array.axes if all(axis is not one.axis for one in frame.grid)]
    if array.kind == "real" and len(rest) == 1:
        if rest[0] is frame.held.axis:
            return frame
        if len(frame.walked) == 1 and rest[0] is frame.walked[0].axis:
            return swapped(frame)
    raise refuse("column_norm: an array that is repeated, and not over rows or keys")


def _store(
    array: Array, expr: Expr, known: dict[str, Array], lowering: Lowering, word: str, emit: Emit
) -> None:
    """The kernels that store an expression as the array."""
    frame, own = _frame(array, lowering.frame), known[array.name]
    places = {index.axis: index for index in own.indices}
    moves = {i: position(places[i.axis]) for i in array.indices if i.axis in places}
    part = part_of(lowering, lowering.reductions.apart(frame))
    formula = part.reductions.finish(substitute(renamed(expr, known), moves))
    name = f"{word}_{own.name}"
    if part.reductions.entries:
        emit(part, name, (Target(own, None, formula),))
        return
    taken = lowering.reductions.names.taken
    lowering.kernels.append(map_of(name, own.indices, None, own, formula, taken))
