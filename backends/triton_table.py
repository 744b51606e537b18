"""The arguments of Triton kernels as text: in their definitions, and in the table of how to launch
them, where the source of one is not what its name says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from attnc.backends.triton_names import Argument, Arguments

from attnc.runtime.triton_sources import implied_source
from attnc.schedule.statements import Store

TYPES = {"pointer": "", "i64": ": tl.int64", "fp64": ": tl.float64", "constexpr": ": tl.constexpr"}
LINE = 94  # characters


def ordered(arguments: Arguments) -> list[Argument]:
    """Pointers, numbers, constexprs; ACC, QUERY, INDEX and PRECISION belong to every kernel."""
    for option in ("ACC", "QUERY", "INDEX", "PRECISION"):
        arguments.used.setdefault(
            ("option", option), Argument(option, "constexpr", ("option", option))
        )
    order = list(TYPES)
    return sorted(arguments.used.values(), key=lambda argument: order.index(argument.type))


def print_arguments(arguments: Arguments) -> Iterator[str]:
    """The arguments of a definition, as many a line as fit it; a line has one type."""
    for type_, group in groupby(ordered(arguments), lambda argument: argument.type):
        line = ""
        for text in (argument.name + TYPES[type_] for argument in group):
            if line and len(line) + len(text) + 2 > LINE:
                yield line
                line = ""
            line += f", {text}" if line else text
        yield line


def entry_of(holes: dict[str, Any]) -> dict[str, Any]:
    """How a kernel is called: its function and its arguments with their sources."""
    arguments = ordered(holes["arguments"])
    return {
        "function": holes["function"],
        "arguments": tuple((a.name, a.type, a.source) for a in arguments),
    }


def flow(
    entries: list[dict[str, Any]], stores: tuple[Store, ...], added: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The arrays that the functions of one kernel write and read."""
    writes = (*(store.array.name for store in stores), *added)
    sources = [source for entry in entries for _, _, source in entry["arguments"]]
    reads = (source[1] for source in sources if source[0] == "tensor")
    return {
        "writes": tuple(dict.fromkeys(writes)),
        "reads": tuple(dict.fromkeys(name for name in reads if name not in writes)),
    }


def print_table(table: dict[str, Any]) -> str:
    """The table as Python text, without what the names of arguments say."""
    dimensions = _dimensions(_arguments_below(table))
    kernels = _shortened(table["kernels"], dimensions)
    return _print_data({**table, "dimensions": dimensions, "kernels": kernels})


def _arguments_below(value: Any) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """The arguments of all functions of a table."""
    if isinstance(value, dict):
        yield from value.get("arguments", ())
        value = tuple(value.values())
    for one in value if isinstance(value, tuple) else ():
        yield from _arguments_below(one)


def _dimensions(
    arguments: Iterable[tuple[str, str, tuple[Any, ...]]],
) -> dict[str, tuple[str, ...]]:
    """The names that the strides of each array have, by its dimensions; "" of those never used."""
    found: dict[str, dict[int, str]] = {}
    for name, _, source in arguments:
        if source[0] == "stride":
            _, array, place = source
            found.setdefault(array, {}).setdefault(place, name.removeprefix(f"{array}_stride_"))
        elif source[0] == "tensor":
            found.setdefault(source[1], {})
    return {
        array: tuple(places.get(place, "") for place in range(max(places, default=-1) + 1))
        for array, places in found.items()
    }


def _shortened(value: Any, dimensions: dict[str, tuple[str, ...]]) -> Any:
    """A part of a table with `sources` in the place of `arguments`: those that no name says."""
    if isinstance(value, tuple):
        return tuple(_shortened(one, dimensions) for one in value)
    if not isinstance(value, dict):
        return value
    made = {}
    for key, item in value.items():
        if key != "arguments":
            made[key] = _shortened(item, dimensions)
            continue
        own = {name: s for name, _, s in item if implied_source(name, dimensions) != s}
        made |= {"sources": own} if own else {}
    return made


def _print_data(value: Any, indent: str = "") -> str:
    """Plain data as Python text: short entries of a dictionary share lines, long ones have their
    own."""
    flat = repr(value)
    if len(indent) + len(flat) <= LINE or not isinstance(value, (dict, tuple)):
        return flat
    deeper = indent + "    "
    if isinstance(value, tuple):
        rows = [f"{deeper}{_print_data(item, deeper)},\n" for item in value]
        return "(\n" + "".join(rows) + indent + ")"
    lines, line = [], ""
    for text in (f"{key!r}: {_print_data(item, deeper)}," for key, item in value.items()):
        if line and ("\n" in line + text or len(deeper + line + text) >= LINE):
            lines.append(f"{deeper}{line}\n")
            line = ""
        line += f" {text}" if line else text
    return "{\n" + "".join(lines) + f"{deeper}{line}\n{indent}}}"
