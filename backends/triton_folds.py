"""Prints folds over short axes: along a second tile axis where there is room, else a loop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnc.backends.triton_scope import Leaf
from attnc.backends.triton_texts import identity, is_true, unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr

if TYPE_CHECKING:
    from attnc.backends.triton_printer import Printer


def print_fold(printer: Printer, node: Expr) -> str:
    """A fold over a short axis: along a padded second tile axis where there is room for one,
    else a loop, in order."""
    bound = node.bound
    if len(bound) == 1 and len(printer.layout) == 1:
        if bound[0] in printer.scope.inside:  # the width of a carried tile: its lanes are there
            inner = replace(printer, layout=(*printer.layout, bound[0]), done={})
            inside = f"{printer.scope.inside[bound[0]].text}[None, :]"
            return _reduced(node, inner, inside, False)
        if bound[0].axis.name in printer.scope.widths:
            return _fold_tile(printer, node, bound[0])
    if len(bound) == 1 and len(printer.layout) == 2 and bound[0] == printer.layout[1]:
        inside = printer.expand(printer.scope.inside[bound[0]])
        return _reduced(node, printer, inside, True)
    return fold_loop(printer, node)


def _fold_tile(printer: Printer, node: Expr, index: Index) -> str:
    arguments = printer.scope.arguments
    lane = printer.scope.names.fresh(f"{index.name}_lane")
    inside = printer.scope.names.fresh(f"{index.name}_in")
    padded, width = arguments.padded(index.axis.name), arguments.width(index.axis.name)
    arguments.blocks[index] = padded
    printer.lines.append(f"{lane} = tl.arange(0, {padded})")
    printer.lines.append(f"{inside} = {lane} < {width}")
    leaf = Leaf(lane, (index,))
    scope = printer.scope.extended(
        positions={index: _positioned(printer, index, leaf)},
        rows={index: leaf},
        inside={index: Leaf(inside, (index,))},
    )
    inner = replace(printer, scope=scope, layout=(*printer.layout, index), done={})
    return _reduced(node, inner, f"{inside}[None, :]", False)


def _positioned(printer: Printer, index: Index, row: Leaf) -> Leaf:
    """The position of a bound index from its row."""
    start = _start_of_row(printer, index.axis)
    if start == "0":
        return row
    return Leaf(printer.bind(f"{index.name}_at", f"{row.text} + {start}"), row.over)


def _start_of_row(printer: Printer, axis: Axis) -> str:
    """The first position of an axis, that of the row of the batch which a fold stands at."""
    start = printer.start(axis)
    batches = [leaf.text for index, leaf in printer.scope.rows.items() if index.axis.name == "b"]
    if start == "0" or not axis.shifted or batches[-1:] in ([], ["b_row"]):
        return start
    name = printer.scope.names.fresh(start)
    printer.lines += [
        f"{name} = {start}",
        *printer.scope.arguments.reload("start", axis.name, name, batches[-1]),
    ]
    return name


def _reduced(node: Expr, inner: Printer, inside: str, keep: bool) -> str:
    condition, body = node.args
    text = inner.real(inner.text(body), body) if node.kind == "real" else inner.text(body)
    if not is_true(condition):
        inside = f"{inside} & {inner.text(condition)}"
    if node.monoid not in ("sum", "max", "min"):
        raise UnsupportedError(f"`{node.monoid}` over a width", "triton", ("eager", "numpy"))
    masked = f"tl.where({inside}, {unwrapped(text)}, {identity(node)})"
    result = f"tl.{node.monoid}({masked}, 1)"
    return f"{result}[:, None]" if keep else result


def fold_loop(printer: Printer, node: Expr) -> str:
    """A fold as a loop, in order."""
    condition, body = node.args
    total = printer.scope.names.fresh(f"{printer.stem}_{node.monoid}")
    shape = printer.shape(node)
    kind = "ACC" if node.kind == "real" else "tl.int64"
    printer.lines.append(f"{total} = tl.full({shape}, {identity(node)}, {kind})")
    indent, scope, lines = "", printer.scope, list[str]()
    for index in node.bound:
        counter = printer.scope.names.fresh(f"{index.name}_step")
        lines.append(f"{indent}for {counter} in range(0, {printer.length(index.axis)}):")
        indent += "    "
        leaf = Leaf(counter)
        scope = scope.extended(positions={index: leaf}, rows={index: leaf})
        place = replace(printer, scope=scope, lines=list[str](), done={})
        at = _positioned(place, index, leaf)
        scope = scope.extended(positions={index: at})
        lines += [f"{indent}{line}" for text in place.lines for line in text.split("\n")]
    inner_lines: list[str] = []
    inner = replace(printer, scope=scope, lines=inner_lines, done=dict(printer.done))
    text = inner.text(body)
    text = inner.real(text, body) if node.kind == "real" else text
    if not is_true(condition):
        text = f"tl.where({inner.text(condition)}, {text}, {identity(node)})"
    combined = {
        "sum": f"{total} + {text}",
        "prod": f"{total} * {text}",
        "max": f"gpu_larger({total}, {text})"
        if node.kind == "real"
        else f"tl.maximum({total}, {text})",
        "min": f"gpu_smaller({total}, {text})"
        if node.kind == "real"
        else f"tl.minimum({total}, {text})",
    }[node.monoid]
    inner_lines.append(f"{total} = {combined}")
    printer.lines += lines + [f"{indent}{line}" for line in inner_lines]
    return total
