"""Prints sums of a vector for each pair (`dot(q[i], r[i - j])`'s gradient, a vector added to the
value of each pair): no product of two tiles.

The walked rows of a tile are taken one after the other: the terms of one, a column of the tile,
times the vectors of its pairs, which are a tile of (held, width).
"""

from __future__ import annotations

from dataclasses import replace

from attnc.backends.triton_frame import Stream, indented
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.schedule.streams import WalkedLoop


def print_vectors(
    stream: Stream,
    loop: WalkedLoop,
    vector: Expr,
    width: Index,
    term: str,
    name: str,
    count: str,
    hidden: bool,
) -> list[str]:
    """Adds to `name`, a tile of (held, width), the sum over walked rows of `term`, a tile of pairs
    that is 0 where they are masked, times the vector of the pair.

    count     how many rows of the walked axis are valid
    hidden    whether a pair of a whole tile may be masked"""
    held, walked = stream.kernel.held, loop.walked
    fresh, body = stream.scope.names.fresh, list[str]()
    column, here, row = fresh("column"), fresh("column_here"), fresh(f"{walked.name}_one")
    weight, shown = fresh("column_term"), fresh("column_seen")
    lanes = stream.scope.rows[walked].text
    scope = _at_one(stream.scope, walked, row, count, stream.place.start(walked), body)
    printer = Printer(scope, (held, width), body, "vector")
    text = printer.real(printer.text(vector), vector)
    found = printer.bind("vector", text)
    masked = [
        f"{shown} = tl.max(tl.where({here}, seen.to(tl.int32), 0), 1) > 0",
        f"{found} = tl.where({shown}[:, None], {found}, 0.0)",
    ]
    # A vector may be NaN or infinite where its pair is masked.
    body += masked if hidden else ["if EDGE:", *indented(masked)]
    body.append(f"{name} = {name} + {weight}[:, None] * {found}")
    return [
        f"for {column} in range(0, BLOCK_WALKED):",
        f"    {here} = ({lanes} == {column})[None, :]",
        f"    {weight} = tl.sum(tl.where({here}, {term}, 0.0), 1)",
        f"    {row} = first + {column}",
        *indented(body),
    ]


def _at_one(
    scope: Scope, walked: Index, row: str, count: str, start: str, lines: list[str]
) -> Scope:
    """The scope where one walked row stands alone; nothing is known of tiles over many."""
    names = scope.names
    position, inside = names.fresh(f"{walked.name}_at"), names.fresh(f"{walked.name}_one_in")
    shift = "" if start == "0" else f" + {start}"
    lines += [f"{position} = ({row}{shift}).to(INDEX)", f"{inside} = {row} < {count}"]
    alone = replace(
        scope,
        steps={index: at for index, at in scope.steps.items() if index != walked},
        values={name: leaf for name, leaf in scope.values.items() if walked not in leaf.over},
        known={digest: leaf for digest, leaf in scope.known.items() if walked not in leaf.over},
    )
    return alone.extended(
        positions={walked: Leaf(position)},
        rows={walked: Leaf(row)},
        inside={walked: Leaf(inside)},
    )
