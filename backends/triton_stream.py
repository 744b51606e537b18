"""Prints a stream kernel of a Schedule as Triton: the holes of templates/triton/stream.py.jinja.

Does not choose tile sizes: those are constexprs of the planner.
"""

from __future__ import annotations

from typing import Any

from attnc.backends.triton_finish import print_combine, print_finish, print_partial
from attnc.backends.triton_frame import Stream
from attnc.backends.triton_grid import Place
from attnc.backends.triton_names import Arguments, Names
from attnc.backends.triton_scope import Scope
from attnc.backends.triton_walk import print_walk

from attnc.expressions.tree import postorder
from attnc.schedule import Schedule
from attnc.schedule.statements import is_pairwise
from attnc.schedule.streams import StreamKernel, WalkedLoop


def print_stream(
    kernel: StreamKernel, schedule: Schedule, queries: frozenset[str], merge: bool
) -> dict[str, Any]:
    """The holes of a stream kernel, or of the merge of its shares; and its arguments."""
    names = Names()
    arguments = Arguments(names)
    widths = frozenset(axis.name for axis in schedule.widths)
    place = Place(kernel, schedule, Scope(names, arguments, widths=widths))
    lines = place.print_place(merge)
    lanes = place.print_lanes()
    stream = Stream(kernel, schedule, place, queries)
    values = stream.values()
    if not merge:
        values += stream.awake()
    holes: dict[str, Any] = {"merges": merge, "loops": [], "carried": [], "combine": []}
    if merge:
        holes["combine"] = print_combine(stream)
    else:
        holes["carried"] = stream.carried()
        holes["loops"] = [print_walk(stream, loop, n) for n, loop in enumerate(kernel.loops)]
    holes["partial"] = print_partial(stream) if splits(kernel, place) and not merge else []
    holes["finish"] = print_finish(stream)
    function = f"kernel_{kernel.name}{'_merge' if merge else ''}"
    return {
        **holes,
        "function": function,
        "held": kernel.held.name,
        "ordered": place.ordered,
        "place": lines + list(arguments.shifted.values()),
        "lanes": lanes,
        "values": values,
        "prepared": arguments.prepared,
        "arguments": arguments,
        "comment": print_comment(kernel, merge),
        "place_facts": place.facts(),
    }


def splits(kernel: StreamKernel, place: Place) -> bool:
    """Whether the launch may let several programs share the walked tiles of one held tile, and
    merge what they carry."""
    in_order = place.ordered or any(loop.running for loop in kernel.loops)
    return kernel.split is None and not in_order and bool(kernel.carried)


def added_arrays(kernel: StreamKernel) -> tuple[str, ...]:
    """The arrays that a kernel does not store whole: zero before it runs."""
    added: list[str] = []
    for loop in kernel.loops:
        added += [deposit.array.name for deposit in loop.deposits]
        added += [scatter.array.name for scatter in loop.scatters]
        added += [store.array.name for store in loop.pair_stores if not store.otherwise]
    return tuple(dict.fromkeys(added))


def filled_arrays(kernel: StreamKernel) -> tuple[tuple[str, str], ...]:
    """The arrays that begin with another number than zero, and that number."""
    stores = (store for loop in kernel.loops for store in loop.pair_stores if store.otherwise)
    return tuple((store.array.name, repr(store.otherwise)) for store in stores)


def touches_pairs(kernel: StreamKernel, loop: WalkedLoop) -> bool:
    """Whether two products stand beside what each pair looks up or adds to in memory."""
    pair = {kernel.held, loop.walked}
    lets = (let.expr for let in loop.pair_values)
    looked_up = any(node.op == "read" and pair <= node.free for node in postorder(*lets))
    adds = bool(loop.scatters or loop.deposits)
    return adds or (len(loop.products) > 1 and looked_up)


def crowding(kernel: StreamKernel, loop: WalkedLoop) -> int:
    """How much asks for registers beside the sums of a tile of pairs: values of walked rows beside
    two products, and what pairs touch."""
    rows = len(loop.products) > 1 and bool(loop.walked_values)
    return rows + touches_pairs(kernel, loop)


def walked_arrays(kernel: StreamKernel) -> tuple[tuple[str, int], ...]:
    """The walked operands of matrix products, each with its walked dimension."""
    found: dict[tuple[str, int], None] = {}
    for loop in kernel.loops:
        reads = [p.right for p in loop.products]
        operands = (c.operand for c in loop.contributions if c.operand is not None)
        reads += [one for one in operands if not is_pairwise(one, loop.walked, kernel.held)]
        for read in reads:
            places = [n for n, arg in enumerate(read.args) if arg.attr == loop.walked]
            found.update({(read.array.name, place): None for place in places})
    return tuple(found)


def print_comment(kernel: StreamKernel, merge: bool) -> list[str]:
    """The opening comment: dimensions and options."""
    grid = ", ".join(index.name for index in kernel.grid)
    walked = ", ".join(f"`{loop.walked.name}`" for loop in kernel.loops)
    if merge:
        return [f'"""Merges the shares of {walked} that split programs have left: in order."""']
    return [
        f'"""Holds a tile of `{kernel.held.name}` and walks {walked}, for each ({grid}).',
        "",
        "X_stride_y       elements from one y of X to the next; X_ALIGN: all but the last",
        "                 dimension's are multiples of it; X_UNIT: the last one's is 1",
        "len_y, start_y, valid_y   length of y, its first position, how many of it are valid",
        "BLOCK_HELD, BLOCK_WALKED  rows and columns of a tile of pairs",
        "CHUNK_y, BLOCK_y part of a width in one product, and in one program (BLOCKS of them)",
        "SPLIT, splits    programs that share the tiles of one held tile; a merge follows",
        "ACC, QUERY, INDEX   types of sums, of operands of products, and of positions",
        'PRECISION        of products of float32: "ieee", or "tf32" where torch allows it"""',
    ]
