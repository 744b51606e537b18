"""The CPU backend: a Schedule becomes one C++ translation unit.

The text depends on the schedule only: headers, a class of printed algebra for each kernel, and the
entry points of the C ABI. Widths, dtypes and the instruction set enter as macros when the text is
compiled (attnc/runtime/cpu_build), which reads what to hand over from the table in the first line.

Does not print scans in chunks, steps, selections, complex numbers, packed or paged
addresses: UnsupportedError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from attnc.backends.cpu_map import MapPrinter
from attnc.backends.cpu_names import Slots
from attnc.backends.cpu_repeats import Repeat, repeats
from attnc.backends.cpu_scan import ScanPrinter
from attnc.backends.cpu_scan_back import ReverseScanPrinter
from attnc.backends.cpu_stream import StreamPrinter
from attnc.backends.cpu_sweep import SweepPrinter, sweeps
from attnc.backends.cpu_wanted import Wanted
from attnc.backends.cpu_words import INSTEAD
from attnc.backends.triton_sizes import fits_int32

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, postorder
from attnc.passes.follow import leaders
from attnc.resources import read_template, template_environment
from attnc.schedule import Kernel, RepeatKernels, Schedule, leaves
from attnc.schedule.maps import MapKernel
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.schedule.statements import is_pairwise
from attnc.schedule.streams import StreamKernel

HEADERS = (
    "call", "integers", "lanes", "functions", "reads", "random", "amx_emulated", "amx",
    "products", "walks", "carried", "blocks", "running", "stream", "few", "sights", "scattered",
    "either",
)  # fmt: skip
SWEEP_HEADERS = ("sums", "panels", "ahead", "sweep")
SCAN_HEADERS = ("scan",)


@dataclass(frozen=True)
class ModuleText:
    """What the template prints of a whole translation unit."""

    table: str
    title: str
    headers: str
    kernels: tuple[str, ...]
    runners: tuple[str, ...]
    steps: tuple[str, ...]
    workspaces: tuple[str, ...]
    repeat_count: int
    tensor_count: int
    given_count: int


def emit(schedule: Schedule) -> str:
    """The C++ text of a schedule. Raises UnsupportedError for what the backend cannot do."""
    slots = Slots(schedule)
    kernels = leaves(schedule.kernels)
    keys = schedule.signature.keys
    wanted = Wanted(schedule, any(sweeps(kernel, keys) for kernel in kernels))
    ahead = _leaders(schedule, keys)
    texts: list[str] = []
    runners: list[str] = []
    for place, kernel in enumerate(kernels):
        name = f"Kernel{place}"
        if isinstance(kernel, StreamKernel):
            leader = ahead.get(kernel.name)
            kind = SweepPrinter if sweeps(kernel, keys) else StreamPrinter
            printed = kind(kernel, slots, name, keys, wanted, leader).print()
            texts.append(_render("stream", printed))
            runners.append(f"{_runner(kernel, keys)}<{name}>")
            if leader is not None:  # both are one step
                runners[-2:] = ["", f"Followed<Kernel{place - 1}, {name}>"]
        elif isinstance(kernel, ScanKernel):
            texts.append(_render("scan", ScanPrinter(kernel, slots, name).print()))
            runners.append(name)
        elif isinstance(kernel, ReverseScanKernel):
            texts.append(_render("scan", ReverseScanPrinter(kernel, slots, name).print()))
            runners.append(name)
        elif isinstance(kernel, MapKernel):
            texts.append(_render("map", MapPrinter(kernel, slots, name, wanted).print()))
            runners.append(name)
        else:
            family = type(kernel).__name__.removesuffix("Kernels").removesuffix("Kernel").lower()
            raise UnsupportedError(f"a {family} kernel", "cpu", INSTEAD)
    repeated = repeats(schedule)
    workspaces = tuple(_place_workspaces(schedule, slots, repeated))
    given = len(slots.tensors) - len(schedule.workspaces)
    module = ModuleText(
        table=json.dumps(_table(schedule, slots, wanted)),
        title=f"{schedule.name}: CPU kernels",
        headers=headers(_headers_of(schedule)),
        kernels=tuple(texts),
        runners=tuple(filter(None, runners)),
        steps=tuple(_steps(schedule.kernels, iter(runners), repeated)),
        workspaces=workspaces,
        repeat_count=len(repeated),
        tensor_count=len(slots.tensors),
        given_count=given,
    )
    template = template_environment().get_template("cpu/module.cpp.jinja")
    return template.render(m=module)


def _steps(
    kernels: Iterable[Kernel], runners: Iterator[str], repeated: tuple[Repeat, ...] = ()
) -> Iterator[str]:
    """The kernels as statements, in order; rounds end when each kernel finds all its rows idle.
    `repeated`: maps that some calls leave out."""
    unless = {one.kernel: f"if (!prepared.{one.flag}) " for one in repeated}
    for kernel in kernels:
        if not isinstance(kernel, RepeatKernels):
            runner = next(runners)
            if runner:
                test = unless.get(kernel.name, "")
                yield f"{test}{runner}::run(prepared.call, base + prepared.used);"
            continue
        if kernel.count.op != "number":
            raise UnsupportedError("rounds whose number is given at the call", "cpu", INSTEAD)
        yield f"for (int64_t round = 0; round < {kernel.count.attr}; round++) {{"
        if not all(isinstance(inner, StreamKernel) and inner.idle for inner in kernel.kernels):
            yield from (f"    {line}" for line in _steps(kernel.kernels, runners))
        else:
            yield "    bool walked = false;"
            for _ in kernel.kernels:
                yield f"    walked |= {next(runners)}::run(prepared.call, base + prepared.used);"
            yield "    if (!walked) break;"
        yield "}"


def _headers_of(schedule: Schedule) -> tuple[str, ...]:
    keys = schedule.signature.keys
    swept = any(sweeps(kernel, keys) for kernel in leaves(schedule.kernels))
    return (
        *HEADERS,
        *(SWEEP_HEADERS if swept else ()),
        *(SCAN_HEADERS if _scans(schedule) else ()),
    )


def _scans(schedule: Schedule) -> bool:
    return any(isinstance(kernel, (ScanKernel, ReverseScanKernel)) for kernel in schedule.kernels)


def headers(names: tuple[str, ...] = HEADERS) -> str:
    """The headers as one text."""
    parts = []
    for name in names:
        text = read_template(f"cpu/{name}.hpp")
        kept = [x for x in text.splitlines() if not x.startswith(("#pragma once", '#include "'))]
        parts.append("\n".join(kept).strip("\n"))
    return "\n\n".join(parts)


def _render(template: str, printed: object) -> str:
    return template_environment().get_template(f"cpu/{template}.hpp.jinja").render(k=printed)


def _place_workspaces(
    schedule: Schedule, slots: Slots, repeated: tuple[Repeat, ...]
) -> Iterator[str]:
    lying = {one.workspace.name: one for one in repeated}
    for workspace in schedule.workspaces:
        array = workspace.array
        if array.name in lying:
            yield lying[array.name].placed(slots)
            continue
        sizes = [slots.length(axis) for axis in array.axes]
        place = slots.tensors.index(array.name)
        kind = slots.types[array.name]
        yield f"place<{kind}>(arena, tensors[{place}], {{{', '.join(sizes)}}});"


def _table(schedule: Schedule, slots: Slots, wanted: Wanted) -> dict[str, object]:
    """What the call must hand over, in order, and what is fixed when the text is compiled."""
    signature = schedule.signature
    return {
        "name": schedule.name,
        "inputs": [argument.name for argument in signature.inputs],
        "outputs": [[argument.name, argument.dtype] for argument in signature.outputs],
        "integers": slots.integers,
        "reals": slots.reals,
        "widths": slots.widths,
        "types": slots.macros,
        "wanted": wanted.macros,
        "given": slots.given,
        "operands": _operands(schedule),
        "query_workspaces": [w.array.name for w in schedule.workspaces if w.dtype == "query"],
        "keys": signature.keys.name if signature.keys else "",
        # Tiles and rows are written in vectors, and the compiler has nothing to add for the half as
        # long again that it takes; the loops of scans it makes vectors of.
        "effort": "-O3" if _scans(schedule) else "-O2",
        "narrow": not _scans(schedule)
        and fits_int32(schedule, lanes_only=True)
        and not _reads_integers_of_pairs(schedule),
    }


def _leaders(schedule: Schedule, keys: Axis | None) -> dict[str, StreamKernel]:
    """The sweeps that follow the kernel before them tile by tile, by name, and that one."""
    streams = (one for one in leaves(schedule.kernels) if isinstance(one, StreamKernel))
    swept = {one.name for one in streams if sweeps(one, keys)}
    return {
        name: leader
        for name, leader in leaders(schedule.kernels).items()
        if name in swept and leader.name not in swept and leader.repeated
    }


def _runner(kernel: StreamKernel, keys: Axis | None) -> str:
    """The class template that runs a stream kernel; the form for few rows has no vectors of
    pairs, and sums products in an order of its own."""
    if sweeps(kernel, keys):
        return "Sweep"
    pairwise = any(
        one.operand is not None and is_pairwise(one.operand, loop.walked, kernel.held)
        for loop in kernel.loops
        for one in loop.contributions
    )
    return "Stream" if pairwise or kernel.repeated else "Either"


def _operands(schedule: Schedule) -> list[str]:
    """The arrays that matrix products take. Where one of them is not in the query dtype, products
    run in the accumulation type."""
    reads = [
        operand
        for kernel in leaves(schedule.kernels)
        if isinstance(kernel, StreamKernel)
        for loop in kernel.loops
        for operand in (
            *(side for product in loop.products for side in (product.left, product.right)),
            *(
                one.operand
                for one in loop.contributions
                if one.operand is not None
                and not is_pairwise(one.operand, loop.walked, kernel.held)
            ),
            *(
                one.operand
                for one in loop.deposits
                if one.operand is not None
                and not is_pairwise(one.operand, kernel.held, loop.walked)
            ),
        )
    ]
    return sorted({read.array.name for read in reads})


def _reads_integers_of_pairs(schedule: Schedule) -> bool:
    """Whether an integer is read from a tensor for each pair: such numbers have no bound."""
    for kernel in leaves(schedule.kernels):
        if not isinstance(kernel, StreamKernel):
            continue
        for loop in kernel.loops:
            exprs: list[Expr] = [let.expr for let in (*loop.pair_values, *loop.lifted)]
            exprs += [e for e in (loop.visible, loop.hidden, loop.exponent) if e is not None]
            exprs += [store.term for store in loop.pair_stores]
            exprs += [e for one in loop.sums for e in (one.term, one.operand) if e is not None]
            exprs += [scatter.at for scatter in loop.scatters]
            nodes = (node for expr in exprs for node in postorder(expr))
            if any(
                node.op in ("read", "floor", "ceil", "round") and node.kind == "int"
                for node in nodes
            ):
                return True
    return False
