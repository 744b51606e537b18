"""Chooses the tiles of a Triton kernel from a static model of shared memory and registers.

A candidate is plain data: constexprs by name, warps and stages. The model gives at most six of them,
the likely best first; what it expects not to fit is pruned before anything is compiled. It knows
nothing of formulas, only of widths, lengths, element sizes and the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_CANDIDATES = 6
# Rows and columns of a tile, warps, stages. In order of preference where many rows are held.
TILES_16_BIT = (
    (128, 64, 8, 3), (128, 64, 4, 3), (128, 128, 8, 2), (64, 64, 4, 3), (128, 32, 4, 3),
    (64, 64, 4, 2), (64, 32, 4, 2), (32, 64, 4, 2), (32, 32, 4, 2), (16, 64, 4, 2), (16, 32, 4, 2),
    (16, 16, 4, 1),
)  # fmt: skip
TILES_32_BIT = (
    (64, 32, 8, 2), (32, 32, 4, 2), (32, 64, 8, 2), (64, 32, 8, 1), (32, 32, 8, 1), (32, 16, 4, 1),
    (16, 32, 4, 2), (16, 32, 4, 1), (16, 16, 4, 1), (16, 16, 8, 1),
)  # fmt: skip
TILES_64_BIT = ((32, 16, 4, 1), (16, 16, 4, 1), (16, 16, 8, 1))
SHARED = {75: 65536, 80: 166912, 86: 101376, 87: 166912, 89: 101376, 90: 232448, 100: 232448}
REGISTERS = 65536  # of 32 bits, of one multiprocessor; 255 at most for a thread


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


def chunk_of_width(width: int) -> int:
    """The part of a width that one product takes: all of it, padded, if that wastes little, else
    parts: 72 as five of 16, 96 as three of 32, 576 as nine of 64."""
    padded = padded_width(width)
    if padded <= 256 and (padded <= 64 or width > 0.75 * padded):
        return padded
    for chunk in (128, 64, 32, 16):
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
    chunks = {axis: chunk_of_width(widths[axis]) for axis in kernel["products"]}
    across = {width for _, width in kernel["carried"] if width is not None}
    blocks = {
        axis: block_of_width(widths[axis], bytes_, kernel["finish_widths"]) for axis in across
    }
    table = {2: TILES_16_BIT, 4: TILES_32_BIT, 8: TILES_64_BIT}[bytes_]
    carried = sum(blocks[width] for _, width in kernel["carried"] if width is not None)
    depth = sum(-(-widths[axis] // chunk) * chunk for axis, chunk in chunks.items())
    least = max(16, power_of_two(rows))
    fitting = [
        TritonTile({"BLOCK_HELD": held, "BLOCK_WALKED": walked}, warps, stages)
        for held, walked, warps, stages in table
        if shared_bytes(held, walked, stages, depth, carried, bytes_, device) <= device.shared
        and registers(held, walked, warps, carried, depth, bytes_, device) <= 1.0
    ]
    small = [tile for tile in fitting if tile.constants["BLOCK_HELD"] <= least]
    last = TritonTile({"BLOCK_HELD": 16, "BLOCK_WALKED": 16}, 8 if carried > 256 else 4, 1)
    chosen = (small or fitting)[: MOST_CANDIDATES - 1]
    chosen = sorted(chosen, key=lambda tile: _waste(tile, rows)) if rows <= 64 else chosen
    return tuple(dict((tile.key(), tile) for tile in (*chosen, last)).values())


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


def registers(
    held: int, walked: int, warps: int, carried: int, depth: int, bytes_: int, device: TritonDevice
) -> float:
    """Registers that a thread needs, as a part of those it may have: accumulators, two tiles of
    pairs, and operands where they pass through registers."""
    words = 2 if bytes_ == 8 else 1
    need = held * carried * words + 2.5 * held * walked * words
    if bytes_ >= 4:
        need += (held + walked) * max(depth, carried) * words
    elif device.capability < 90:
        need += held * depth / 2
    return need / (32 * warps) / 216


def splits_of(programs: int, tiles: int, device: TritonDevice) -> int:
    """How many programs share the walked tiles of one held tile: 1 unless most multiprocessors
    would stand idle. A power of two; every share has two tiles at least."""
    if device.interpreted or programs * 2 > device.processors or tiles < 8:
        return 1
    wanted = min(2 * device.processors // max(programs, 1), tiles // 2, 128)
    return 1 << max(wanted.bit_length() - 1, 0)
