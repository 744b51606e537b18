"""The Triton backend: a Schedule becomes kernels for the GPU and a table of how to launch them.

The text depends on the schedule only. Widths, dtypes, tile sizes, flags of contiguity and the
device enter as constexprs, chosen by attnc/runtime/triton_plan at the call. What a kernel takes
stands once, in its definition; where that comes from the launch and the ahead-of-time compilation
read off the names (see implied_source in attnc/runtime/triton_sources), and off the table
TRITON_KERNELS where it is not what a name says.

Does not print steps, selections, complex numbers, packed or paged access:
UnsupportedError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnc.backends.triton_associative import ReverseTilePrinter, TilePrinter
from attnc.backends.triton_chunks import ChunkPrinter
from attnc.backends.triton_chunks_back import ReverseChunkPrinter
from attnc.backends.triton_map import print_map
from attnc.backends.triton_region import print_region, print_summary
from attnc.backends.triton_scan import ScanPrinter
from attnc.backends.triton_scan_back import ReverseScanPrinter
from attnc.backends.triton_sizes import fits_int32
from attnc.backends.triton_stream import (
    added_arrays,
    crowding,
    filled_arrays,
    print_stream,
    touches_pairs,
    walked_arrays,
)
from attnc.backends.triton_table import entry_of, flow, print_arguments, print_table
from attnc.backends.triton_tiles import is_dense

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, number_of, postorder
from attnc.resources import read_template, template_environment
from attnc.schedule import RepeatKernels, Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.schedule.streams import StreamKernel

HOLES = (
    "prepared", "place", "lanes", "values", "carried", "combine", "partial", "finish", "bounds",
    "candidates", "predicate", "value", "stores", "held_operands", "tiles", "mixed_tile",
    "full_tile", "score", "mask", "hidden", "reference", "rounds", "restart", "begin", "load",
    "replay", "rows", "end",
)  # fmt: skip


@dataclass(frozen=True)
class Hole:
    """What one template sees: its fields are texts, and loops with the like."""

    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None


def emit(schedule: Schedule) -> str:
    """The kernels of a schedule as Python text for a module that has `triton_jit` in scope
    (attnc/runtime/triton_launch), ending in the table TRITON_KERNELS.

    Raises UnsupportedError for what the backend cannot do.
    """
    texts, entries = [read_template("triton/prelude.py.jinja")], []
    kernels = leaves(schedule.kernels)
    scans = (ScanKernel, ReverseScanKernel)
    if any(isinstance(kernel, scans) and kernel.chunked for kernel in kernels):
        texts.append(read_template("triton/chunks.py.jinja"))
    if any(
        isinstance(kernel, (ScanKernel, ReverseScanKernel)) and kernel.tiled for kernel in kernels
    ):
        texts.append(read_template("triton/associative.py.jinja"))
    for kernel in kernels:
        if isinstance(kernel, StreamKernel):
            kernel_texts, entry = _emit_stream(kernel, schedule)
        elif isinstance(kernel, MapKernel):
            kernel_texts, entry = _emit_map(kernel, schedule)
        elif isinstance(kernel, ScanKernel):
            kernel_texts, entry = _emit_scan(kernel, schedule)
        elif isinstance(kernel, ReverseScanKernel):
            kernel_texts, entry = _emit_scan_back(kernel, schedule)
        else:
            kind = type(kernel).__name__.removesuffix("Kernel").removesuffix("Kernels").lower()
            raise UnsupportedError(f"a {kind} kernel", "triton", ("eager", "numpy"))
        texts += kernel_texts
        entries.append(entry)
    entries = _turned(schedule, entries)
    table = {
        "name": schedule.name,
        "narrow": fits_int32(schedule),
        "workspaces": tuple(
            (w.array.name, tuple(axis.name for axis in w.array.axes), w.dtype)
            for w in schedule.workspaces
        ),
        "keys": schedule.signature.keys.name if schedule.signature.keys else "",
        "rows": schedule.signature.rows.name if schedule.signature.rows else "",
        "widths": tuple(axis.name for axis in schedule.widths),
        "lengths": _lengths(schedule),
        "kernels": tuple(entries),
    }
    texts.append(f"TRITON_KERNELS = {print_table(table)}")
    return "\n\n\n".join(text.strip("\n") for text in texts) + "\n"


def _turned(schedule: Schedule, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries, with the number of turns of those that rounds repeat and where these begin. What
    one turn leaves the next one reads."""
    found: list[dict[str, Any]] = []
    for kernel in schedule.kernels:
        if not isinstance(kernel, RepeatKernels):
            found.append(entries[len(found)])
            continue
        if kernel.count.op != "number":
            raise UnsupportedError("rounds whose number is given", "triton", ("eager", "numpy"))
        first = len(found)
        inner = entries[first : first + len(leaves(kernel.kernels))]
        kept = dict.fromkeys(name for one in inner for name in (*one["reads"], *one["writes"]))
        turns = {"turns": (first, int(number_of(kernel.count))), "reads": tuple(kept)}
        found += [one | turns for one in inner]
    return found


def _lengths(schedule: Schedule) -> tuple[tuple[str, Any], ...]:
    """The axes whose lengths follow from others, with these lengths as plain data."""
    axes = [axis for space in schedule.workspaces for axis in space.array.axes]
    for kernel in leaves(schedule.kernels):
        if isinstance(kernel, StreamKernel):
            axes += [index.axis for index in kernel.grid]
            axes += [index.axis for loop in kernel.loops for index in loop.around]
        elif isinstance(kernel, MapKernel):
            axes += [index.axis for index in kernel.over]
            roots = (*(let.expr for let in kernel.values), *(s.expr for s in kernel.stores))
            axes += [index.axis for node in postorder(*roots) for index in node.bound]
        elif isinstance(kernel, (ScanKernel, ReverseScanKernel)):
            axes += [*(index.axis for index in kernel.grid), *schedule.widths]
    found = {axis.name: axis.length for axis in axes if axis.length is not None}
    return tuple((name, _length_data(length)) for name, length in found.items())


def _length_data(length: Expr) -> Any:
    """A length as a tree of tuples, for `measure` of attnc/runtime/triton_sources."""
    if length.op == "number":
        return ("number", length.attr)
    if length.op == "length":
        assert isinstance(length.attr, Axis)
        return ("length", length.attr.name)
    if length.op == "param":
        return ("param", length.attr)
    if length.op not in ("add", "sub", "mul", "floordiv", "mod", "min", "max"):
        raise UnsupportedError(f"a length with `{length.op}`", "triton", ("eager", "numpy"))
    return (length.op, *map(_length_data, length.args))


def _emit_stream(kernel: StreamKernel, schedule: Schedule) -> tuple[list[str], dict[str, Any]]:
    """A stream kernel, what finds its tiles, and the merge of its shares."""
    queries = _query_arrays(schedule)
    texts: list[str] = []
    main = print_stream(kernel, schedule, queries, merge=False)
    regions: list[dict[str, Any] | None] = []
    for number, loop in enumerate(kernel.loops):
        if is_dense(loop.region) or loop.running:  # those in order take every tile of a span
            regions.append(None)
            continue
        summaries = []
        for summary in loop.region.summaries:
            holes = print_summary(kernel, schedule, number, summary)
            texts.append(_render("summary", holes))
            facts = {"held": holes["held"], "real": holes["real"], "summary": summary.name}
            summaries.append(facts | entry_of(holes))
        holes = print_region(kernel, schedule, number)
        texts.append(_render("regions", holes))
        facts = {
            "cells": holes["cells"],
            "needs": holes["needs"],
            "data": holes["data"],
            "walked": loop.walked.axis.name,
            "closed": bool(loop.region.segments),
            "summaries": tuple(summaries),
        }
        regions.append(entry_of(holes) | facts)
    texts.append(_render_stream(main))
    merge = None
    if main["partial"]:
        holes = print_stream(kernel, schedule, queries, merge=True)
        texts.append(_render_stream(holes))
        merge = entry_of(holes)
    entry = {
        "kind": "stream",
        **entry_of(main),
        **main["place_facts"],
        "walked": tuple(loop.walked.axis.name for loop in kernel.loops),
        "products": tuple(
            dict.fromkeys(p.width.axis.name for loop in kernel.loops for p in loop.products)
        ),
        "carried": tuple((c.name, c.width.axis.name if c.width else None) for c in kernel.carried),
        "operands": walked_arrays(kernel),
        "added": added_arrays(kernel),
        "filled": filled_arrays(kernel),
        "crowded": max(crowding(kernel, loop) for loop in kernel.loops),
        "narrow": any(touches_pairs(kernel, loop) for loop in kernel.loops),
        "rescales": any(loop.exponent is not None for loop in kernel.loops),
        "finish_widths": any(let.expr.op == "fold" for let in kernel.finish),
        "regions": tuple(regions),
        "merge": merge,
    }
    called = [entry, *(region for region in regions if region is not None)]
    called += [summary for region in called[1:] for summary in region["summaries"]]
    called += [merge] if merge is not None else []
    added = (*added_arrays(kernel), *(name for name, _ in filled_arrays(kernel)))
    return texts, entry | flow(called, kernel.stores, added)


def _emit_map(kernel: MapKernel, schedule: Schedule) -> tuple[list[str], dict[str, Any]]:
    holes = print_map(kernel, schedule)
    across = _widths_across(kernel, schedule)
    entry = {"kind": "map", **entry_of(holes), "over": holes["over"], "across": across}
    return [_render("map", holes)], entry | flow([entry], kernel.stores)


def _emit_scan(kernel: ScanKernel, schedule: Schedule) -> tuple[list[str], dict[str, Any]]:
    """A recurrence row by row, and in chunks or in tiles of rows where it has such a form; the
    launch chooses."""
    holes = ScanPrinter(kernel, schedule).print()
    texts = [_render("scan", holes)]
    entry = {"kind": "scan", **entry_of(holes), **holes["facts"]}
    entries = [entry]
    others: dict[str, ScanPrinter | None] = {
        "chunked": ChunkPrinter(kernel.chunked, schedule) if kernel.chunked else None,
        "tiled": TilePrinter(kernel.tiled, schedule) if kernel.tiled else None,
    }
    for form, printer in others.items():
        entry[form] = None
        if printer is not None:
            holes = printer.print()
            texts.append(_render("scan", holes))
            entry[form] = {**entry_of(holes), **holes["facts"]}
            entries.append(entry[form])
    kept = [final.array.name for final in kernel.finals]
    kept += [one.array.name for one in kernel.checkpoints]
    return texts, entry | flow(entries, kernel.stores, tuple(kept))


def _emit_scan_back(
    kernel: ReverseScanKernel, schedule: Schedule
) -> tuple[list[str], dict[str, Any]]:
    """The adjoint of a recurrence row by row, and in chunks or in tiles of rows where it has such a
    form."""
    holes = ReverseScanPrinter(kernel, schedule).print()
    texts = [_render("scan_back", holes)]
    entry = {
        "kind": "scan_back",
        **entry_of(holes),
        **holes["facts"],
        "chunked": None,
        "tiled": None,
    }
    entries = [entry]
    if kernel.chunked is not None:
        holes = ReverseChunkPrinter(kernel, schedule).print()
        texts.append(_render("scan_back", holes))
        entry["chunked"] = {**entry_of(holes), **holes["facts"]}
        entries.append(entry["chunked"])
    if kernel.tiled is not None:
        holes = ReverseTilePrinter(kernel, schedule).print()
        texts.append(_render("scan", holes))
        entry["tiled"] = {**entry_of(holes), **holes["facts"]}
        entries.append(entry["tiled"])
    made = [write.array.name for write in (*kernel.writes, *kernel.ended)]
    made += [final.array.name for final in kernel.finals]
    return texts, entry | flow(entries, (), tuple(made))


def _widths_across(kernel: MapKernel, schedule: Schedule) -> tuple[str, ...]:
    """The widths that lie across the lanes: those of stores, and those that folds run along."""
    roots = (*(let.expr for let in kernel.values), *(store.expr for store in kernel.stores))
    folded = (i.axis for node in postorder(*roots) if node.op == "fold" for i in node.bound)
    stored = (store.width.axis for store in kernel.stores if store.width is not None)
    found = (*stored, *(axis for axis in folded if axis in schedule.widths))
    return tuple(dict.fromkeys(axis.name for axis in found))


def _query_arrays(schedule: Schedule) -> frozenset[str]:
    """Arrays that lie in the query dtype, so that matrix units take them as they are."""
    arguments = (*schedule.signature.inputs, *schedule.signature.outputs)
    inputs = {argument.name for argument in arguments if argument.dtype == "query"}
    return frozenset(inputs | {w.array.name for w in schedule.workspaces if w.dtype == "query"})


def _render_stream(holes: dict[str, Any]) -> str:
    """A stream kernel from its parts: the walks, one held tile around them, the program."""
    walks = [
        Hole({**_texts(walk), "steps": _fill("walk", _texts(walk))}) for walk in holes["loops"]
    ]
    tile = _fill("held", {**_texts(holes), "loops": walks})
    return _render("stream", {**holes, "tile": tile})


def _render(name: str, holes: dict[str, Any]) -> str:
    """The text of a template, with the arguments and the opening comment of its kernel."""
    arguments = list(print_arguments(holes["arguments"]))
    comment = "\n".join(f"    {line}".rstrip() for line in holes["comment"])
    return _fill(name, {**_texts(holes), "arguments": arguments, "comment": comment})


def _fill(name: str, fields: dict[str, Any]) -> str:
    """The text of a template, without spaces at line ends or empty lines in a row."""
    template = template_environment().get_template(f"triton/{name}.py.jinja")
    lines: list[str] = []
    for line in template.render(k=Hole(fields)).split("\n"):
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines)


def _texts(holes: dict[str, Any]) -> dict[str, Any]:
    """The holes with their lists of lines joined."""
    return {
        name: "\n".join(hole) if name in HOLES and isinstance(hole, list) else hole
        for name, hole in holes.items()
    }
