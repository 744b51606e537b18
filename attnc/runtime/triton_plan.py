"""Chooses the tiles of a Triton kernel: a table of measured spills, a model of shared memory.

A candidate is plain data: constexprs by name, warps and stages. There are at most six of them, the
likely best first; what is expected not to fit is pruned before anything is compiled. Nothing here
knows formulas, only widths, lengths, element sizes and the device. Which fits best is not measured:
no GPU was at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_CANDIDATES = 6
# Rows and columns of a tile, warps, stages, and the most columns (the padded widths of products and
# of carried values together) with which ptxas spilt no register: on sm_80, sm_90 and sm_100, of a
# kernel with a window and sinks (triton 3.6). In order of preference where many rows are held.
ANY = 1 << 20
# Where random numbers are drawn: the most pairs of a thread, each of which holds a counter of four
# words, and the most keys of a tile.
RANDOM_PAIRS, RANDOM_WALKED = 8, 32
TILES_16_BIT = (
    (128, 64, 8, 3, (128, 448, 448)),
    (128, 64, 8, 2, (128, 448, 448)),
    (64, 64, 8, 2, (512, 512, 512)),
    (64, 64, 4, 3, (256, 512, 512)),
    (64, 16, 8, 2, (1088, 1088, 1088)),
    (32, 32, 4, 2, (1088, 1088, 1088)),
    (16, 64, 4, 2, (128, 1088, 1088)),
    (16, 32, 4, 2, (1088, 1088, 1088)),
    (16, 16, 4, 1, (ANY, ANY, ANY)),
)
TILES_32_BIT = (
    (64, 32, 4, 2, (64, 64, 64)),
    (64, 32, 8, 2, (448, 448, 256)),
    (32, 32, 4, 2, (128, 128, 128)),
    (32, 32, 8, 2, (832, 832, 832)),
    (16, 32, 8, 1, (128, 128, 64)),
    (16, 16, 8, 1, (ANY, ANY, ANY)),
)
# The same for kernels that are crowded: where values of the walked rows stand beside two products
# (keys held: each thread has a row value for every column that it computes), or sums go to tables;
# of the backward with that window, and of one with a soft cap.
CROWDED_16_BIT = (
    (128, 32, 8, 2, (0, 256, 0)),
    (64, 32, 8, 2, (0, 256, 256)),
    (64, 16, 8, 2, (0, 512, 512)),
    (32, 32, 8, 2, (512, 512, 512)),
    (32, 16, 8, 2, (1088, 1088, 1088)),
    (16, 16, 4, 1, (ANY, ANY, ANY)),
)
CROWDED_32_BIT = (
    (32, 32, 8, 2, (128, 128, 128)),
    (32, 16, 16, 2, (256, 256, 256)),
    (32, 16, 8, 1, (512, 512, 512)),
    (16, 16, 8, 1, (ANY, ANY, ANY)),
)
CROWDED_64_BIT = ((16, 16, 8, 1, (ANY, ANY, ANY)),)
TILES_64_BIT = ((32, 16, 8, 1, (384, 384, 384)), (16, 16, 8, 1, (ANY, ANY, ANY)))
# Of scans: entries of states that one warp holds, the least part of a split width, and how many
# programs are enough.
SCAN_ENTRIES, SCAN_PART, SCAN_PROGRAMS = 1024, 8, 256
TILE_ENTRIES = 2048  # of scans in tiles of rows: the most entries of a state in a tile
CHUNK_PART = 32  # of scans in chunks: the most of a width that may be split
SHARED = {75: 65536, 80: 166912, 86: 101376, 87: 166912, 89: 101376, 90: 232448, 100: 232448}


@dataclass(frozen=True)
class TritonDevice:
    """What the model needs to know: compute capability times ten, bytes of shared memory that one
    program may have, multiprocessors. `interpreted`: Triton's interpreter on the CPU."""

    capability: int
    shared: int
    processors: int
    interpreted: bool = False


@dataclass(frozen=True)
class TritonTile:
    """One candidate: constexprs, warps, stages."""

    constants: Mapping[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 1

    def key(self) -> tuple[Any, ...]:
        return (tuple(sorted(self.constants.items())), self.warps, self.stages)


def power_of_two(number: int) -> int:
    """The smallest power of two from `number` on."""
    return 1 << max(number - 1, 0).bit_length()


def padded_width(width: int) -> int:
    """A width as a tile's: a power of two of at least 16, which matrix units ask for."""
    return max(16, power_of_two(width))


def chunk_of_width(width: int, bytes_: int = 2) -> int:
    """The part of a width that one product takes: all of it, padded, if that wastes little, else
    parts: 72 as five of 16, 96 as three of 32, 576 as nine of 64. Products of float32 and float64
    are unrolled in full by the compiler, so theirs stay at 64."""
    padded = padded_width(width)
    if padded <= 64 or (bytes_ == 2 and padded <= 256 and width > 0.75 * padded):
        return padded
    for chunk in (128, 64, 32, 16) if bytes_ == 2 else (64, 32, 16):
        if -(-width // chunk) * chunk <= 1.125 * width:
            return chunk
    return 64 if padded > 256 else padded


def block_of_width(width: int, bytes_: int, whole: bool) -> int:
    """The part of a carried width that one program holds. `whole`: its finish needs all of it."""
    most = 512 if bytes_ == 2 else 256 if bytes_ == 4 else 128
    padded = padded_width(width)
    return padded if whole else min(padded, most)


def stream_tiles(
    kernel: Mapping[str, Any],
    widths: Mapping[str, int],
    rows: int,
    bytes_: int,
    device: TritonDevice,
) -> tuple[TritonTile, ...]:
    """Candidates for a stream kernel, the first choice first; never empty.

    rows    of the held axis that one head (or packed group) has
    bytes_  of an element of the operands
    """
    across = {width for _, width in kernel["carried"] if width is not None}
    blocks = {
        axis: block_of_width(widths[axis], bytes_, kernel["finish_widths"]) for axis in across
    }
    depth = sum(_whole_chunks(widths[axis], bytes_) for axis in kernel["products"])
    carried = sum(blocks[width] for _, width in kernel["carried"] if width is not None)
    table = {2: TILES_16_BIT, 4: TILES_32_BIT, 8: TILES_64_BIT}[bytes_]
    family = 0 if device.capability < 90 else 1 if device.capability < 100 else 2
    # Two products of float32 spill on sm_80 where one does not, whatever stands beside them.
    if kernel["crowded"] or (family == 0 and bytes_ == 4 and len(kernel["products"]) > 1):
        table = {2: CROWDED_16_BIT, 4: CROWDED_32_BIT, 8: CROWDED_64_BIT}[bytes_]
    draws = any(source[0] == "seed" for _, source in kernel["arguments"])
    pairs, most = (RANDOM_PAIRS, RANDOM_WALKED) if draws else (ANY, ANY)
    fitting = [
        TritonTile({"BLOCK_HELD": held, "BLOCK_WALKED": min(walked, most)}, warps, stages)
        for held, walked, warps, stages, columns in table
        if (depth + carried) * max(kernel["crowded"], 1) <= columns[family]
        and (held <= 64 or not kernel["narrow"])
        and held * min(walked, most) <= pairs * warps * 32
        and shared_bytes(held, walked, stages, depth, carried, bytes_, device) <= device.shared
    ]
    least = max(16, power_of_two(rows))
    small = [tile for tile in fitting if tile.constants["BLOCK_HELD"] <= least]
    if rows <= 64:
        small.sort(key=lambda tile: _waste(tile, rows))
    held, walked, warps, stages, _ = table[-1]
    last = TritonTile({"BLOCK_HELD": held, "BLOCK_WALKED": walked}, warps, stages)
    chosen = (*small[: MOST_CANDIDATES - 1], last)
    return tuple({tile.key(): tile for tile in chosen}.values())


def _whole_chunks(width: int, bytes_: int) -> int:
    """A width as its parts cover it."""
    chunk = chunk_of_width(width, bytes_)
    return -(-width // chunk) * chunk


def _waste(tile: TritonTile, rows: int) -> int:
    """Rows of tiles that hold nothing."""
    held: int = tile.constants["BLOCK_HELD"]
    return -(-rows // held) * held - rows


def shared_bytes(
    held: int, walked: int, stages: int, depth: int, carried: int, bytes_: int, device: TritonDevice
) -> int:
    """Bytes of shared memory: what the pipeline keeps of walked operands; from sm_90 on the held
    operand, and on sm_100 the weights; else room to change the layout of a tile."""
    pipeline = max(stages, 1) * walked * (depth + carried) * bytes_
    if bytes_ == 2 and device.capability >= 90:
        pipeline += held * depth * bytes_ + 2048
        return pipeline + (held * walked * bytes_ if device.capability >= 100 else 0)
    return pipeline + held * max(walked, depth) * bytes_


def scan_parts(
    widths: Mapping[str, int],
    states: Sequence[Sequence[str]],
    split: Sequence[str],
    outer: int,
) -> tuple[dict[str, int], dict[str, int], int]:
    """The part of each width that a program of a scan holds, its constexprs, and its warps.

    Entries of states stay in registers, 32 of a thread: where widths can be split one warp has
    them, and fewer as long as programs are few."""
    blocks = {axis: power_of_two(width) for axis, width in widths.items()}

    def held() -> int:
        return sum(math.prod(blocks[axis] for axis in state) for state in states)

    def programs() -> int:
        return outer * math.prod(-(-widths[axis] // blocks[axis]) for axis in split)

    while held() > SCAN_ENTRIES or (held() > 4 * SCAN_PART and programs() < SCAN_PROGRAMS):
        divisible = [axis for axis in split if blocks[axis] > SCAN_PART]
        if not divisible:
            break
        blocks[max(divisible, key=blocks.__getitem__)] //= 2
    return blocks, {}, min(16, max(1, power_of_two(-(-held() // SCAN_ENTRIES))))


def chunk_parts(
    widths: Mapping[str, int], split: Sequence[str], short: bool, every: int = 0
) -> tuple[dict[str, int], dict[str, int], int]:
    """The same of a scan in chunks: all of what is contracted, a part of the other width, and rows
    so few that no register spills. `short`: few of them, as a chunk has much beside its states;
    `every`: a chunk begins wherever a state is kept."""
    blocks = {axis: padded_width(width) for axis, width in widths.items()}
    for axis in split:
        blocks[axis] = min(blocks[axis], CHUNK_PART)
    widest = max(blocks.values(), default=16)
    chunk = 32 if widest <= 64 and not short and every % 32 == 0 else 16
    return blocks, {"CHUNK": chunk, "CHUNK_BLOCK": 16}, 8 if chunk == 32 or widest > 64 else 4


def back_chunk_parts(
    widths: Mapping[str, int], split: Sequence[str]
) -> tuple[dict[str, int], dict[str, int], int]:
    """The same of a reversed scan in chunks: twice the states and more beside them, so the fewest
    rows."""
    blocks, _, _ = chunk_parts(widths, split, short=True)
    return blocks, {"CHUNK": 16, "CHUNK_BLOCK": 16}, 8


def tile_parts(
    widths: Mapping[str, int], entry: Mapping[str, Any], outer: int
) -> tuple[dict[str, int], dict[str, int], int] | None:
    """The same of a scan in tiles of rows, each with every entry of a state: parts so narrow, and
    rows so few, that a tile of the largest state has 16 entries a thread. None where not even 16
    rows have them: the widths that cannot be split are too long."""
    blocks = _tiled(widths, entry, outer, TILE_ENTRIES // 16, max)
    if blocks is None:
        return None
    most = min(64, entry["every"] or 64)  # a tile begins wherever a state is kept
    held, rows = max(_held(blocks, entry)), min(16, most)
    while 2 * rows <= most and 2 * rows * held <= TILE_ENTRIES:
        rows *= 2
    return blocks, {"CHUNK": rows}, 4


def back_tile_parts(
    widths: Mapping[str, int], entry: Mapping[str, Any], outer: int
) -> tuple[dict[str, int], dict[str, int], int] | None:
    """The same of a reversed scan, whose tiles are its blocks of rows: all that is carried, and the
    states, have 32 entries a thread."""
    rows = entry["every"]
    blocks = _tiled(widths, entry, outer, 4 * TILE_ENTRIES // rows, sum)
    return None if blocks is None else (blocks, {"CHUNK": rows}, 8)


def _tiled(
    widths: Mapping[str, int],
    entry: Mapping[str, Any],
    outer: int,
    most: int,
    count: Callable[[Iterable[int]], int],
) -> dict[str, int] | None:
    """Parts of widths such that a row has at most so many entries, and narrower ones as long as
    programs are few; None where the widths that cannot be split are too long."""
    blocks = {axis: power_of_two(width) for axis, width in widths.items()}
    while True:
        programs = outer * math.prod(-(-widths[axis] // blocks[axis]) for axis in entry["split"])
        crowded = count(_held(blocks, entry)) > most
        least = 1 if crowded else SCAN_PART
        divisible = [axis for axis in entry["split"] if blocks[axis] > least]
        if not divisible or not (crowded or programs < SCAN_PROGRAMS):
            return None if crowded else blocks
        blocks[max(divisible, key=blocks.__getitem__)] //= 2


def _held(blocks: Mapping[str, int], entry: Mapping[str, Any]) -> list[int]:
    """The entries of each state."""
    return [math.prod(blocks[axis] for axis in state) for state in entry["states"]]


def fits_chunks(widths: Mapping[str, int], crowded: bool) -> bool:
    """Whether the tiles of chunks of 16 rows fit the registers."""
    return max(map(padded_width, widths.values()), default=16) <= (64 if crowded else 128)


def merge_warps(held: int, across: int) -> int:
    """Warps of a merge: 64 sums a thread at most, so that its loads find registers beside them."""
    return min(16, max(4, power_of_two(held * across // 2048)))


def splits_of(programs: int, tiles: int, device: TritonDevice) -> int:
    """How many programs share the walked tiles of one held tile: 1 unless most multiprocessors
    would stand idle. A power of two; every share has two tiles at least."""
    if device.interpreted or programs * 2 > device.processors or tiles < 8:
        return 1
    wanted = min(2 * device.processors // max(programs, 1), tiles // 2, 128)
    return 1 << max(wanted.bit_length() - 1, 0)


def shares_of(rows: int, outer: int) -> int:
    """In how many shares the held tiles of one place in the grid run, each in order, where sums go
    to tables: by shapes alone, so that no device changes a sum."""
    return max(1, min(-(-rows // 64), 512 // max(outer, 1)))
