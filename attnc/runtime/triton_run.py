"""One kernel of one call of a Triton module: its tiles, its types, its launches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from attnc.runtime.failures import UnsupportedError
from attnc.runtime.triton_lists import list_tiles
from attnc.runtime.triton_plan import (
    TritonTile,
    back_chunk_parts,
    back_tile_parts,
    block_of_width,
    chunk_parts,
    fits_chunks,
    merge_warps,
    padded_width,
    scan_parts,
    splits_of,
    stream_tiles,
    tile_parts,
)
from attnc.runtime.triton_sources import KernelArguments

NARROW_LIMIT = 2**20  # up to here positions are computed in 32 bits, where the formulas allow it
CANDIDATES = 64  # tiles that the region kernel judges at once
MAP_ROWS = 16
TILED_ROWS = 16  # in tiles of rows, likewise
CHUNKED_ROWS = 64  # from here on a recurrence runs in chunks (not measured: no GPU was at hand)


class KernelRun(KernelArguments):
    """Launches one kernel: `map()`, `scan()` or `stream()`."""

    # --- Map --------------------------------------------------------------------------------------

    def map(self) -> None:
        entries = 1
        for axis in self.kernel["over"]:
            entries *= self.length(axis)
        across = max((padded_width(self.length(a)) for a in self.kernel["across"]), default=1)
        rows = MAP_ROWS if self.device.interpreted else max(1, 4096 // across)
        self.set_types({"BLOCK_ROWS": min(rows, 256)})
        if entries:
            self.launch(self.kernel, -(-entries // self.options["BLOCK_ROWS"]), TritonTile())

    # --- Scan -------------------------------------------------------------------------------------

    def scan(self) -> None:
        """A recurrence: a program for each part of an instance, row by row or, where rows are many,
        in chunks if matrix units take its products, in tiles if its rows combine."""
        kernel, forced = self.kernel, self.backend.forced
        widths = {axis: self.length(axis) for axis in kernel["axes"]}
        crowded = bool(kernel["chunked"]) and kernel["chunked"]["crowded"]
        many = self.length(kernel["time"]) >= CHUNKED_ROWS and fits_chunks(widths, crowded)
        units = self.state_precision() != "ieee"
        long = self.length(kernel["time"]) >= TILED_ROWS
        tiled = kernel["tiled"] and tile_parts(widths, kernel["tiled"], self.outer())
        if kernel["chunked"] is not None and forced.get("chunked", many and units):
            entry = kernel["chunked"]
            blocks, options, warps = chunk_parts(
                widths, entry["split"], entry["short"], entry["every"]
            )
        elif tiled and forced.get("tiled", long):
            entry = kernel["tiled"]
            blocks, options, warps = tiled
        else:
            entry = kernel
            blocks, options, warps = scan_parts(
                widths, entry["states"], entry["split"], self.outer()
            )
        self.blocks = {axis: forced.get(f"BLOCK_{axis.upper()}", blocks[axis]) for axis in widths}
        self.set_types({**options, **{name: forced[name] for name in options if name in forced}})
        self.options["CHUNK_PRECISION"] = forced.get("CHUNK_PRECISION", self.state_precision())
        programs = self.outer()
        for axis in entry["split"]:
            programs *= -(-widths[axis] // self.blocks[axis])
        tile = TritonTile({}, forced.get("warps", warps))
        if programs and not self.try_launch(programs, tile, entry):
            raise UnsupportedError(f"states of widths {widths}", "triton", ("eager", "numpy"))

    def scan_back(self) -> None:
        """The adjoint of a recurrence, in rows, chunks or tiles. Where programs share a width each
        has a share of what is folded along it; shares are added in their order."""
        kernel, forced = self.kernel, self.backend.forced
        widths = {axis: self.length(axis) for axis in kernel["axes"]}
        entry, blocks, options, warps = self.back_form(widths)
        self.blocks = {axis: forced.get(f"BLOCK_{axis.upper()}", blocks[axis]) for axis in widths}
        self.set_types(options)
        self.options["CHUNK_PRECISION"] = forced.get("CHUNK_PRECISION", self.state_precision())
        parts = {axis: -(-widths[axis] // self.blocks[axis]) for axis in entry["split"]}
        programs = self.outer() * math.prod(parts.values())
        for name, kind, axes in entry["rooms"]:
            slots = kernel["every"] // options.get("CHUNK", 1)
            size = programs * slots * math.prod(self.blocks[axis] for axis in axes)
            dtypes = {"real": self.call.accumulate, "int": torch.int64, "bool": torch.int8}
            self.work[f"room.{name}"] = self.buffer(size, dtypes[kind])
        counts = {name: math.prod(parts[axis] for axis in axes) for name, axes in entry["parts"]}
        shared = self.share(counts)
        for name in entry["added"]:
            tensor = shared[name][1] if name in shared else self.tensors[name]
            if tensor is not None:
                tensor.zero_()
        tile = TritonTile({}, forced.get("warps", warps))
        if programs and not self.try_launch(programs, tile, entry):
            raise UnsupportedError(f"states of widths {widths}", "triton", ("eager", "numpy"))
        for whole, shares in shared.values():
            whole.copy_(shares.sum(0))

    def back_form(
        self, widths: Mapping[str, int]
    ) -> tuple[Mapping[str, Any], Mapping[str, int], dict[str, Any], int]:
        """The entry of a reversed scan, its blocks, its constexprs, its warps: in chunks where rows
        are many and matrix units take its products, and a block of rows is so many chunks; in
        tiles, which are those blocks, where rows combine."""
        kernel, forced = self.kernel, self.backend.forced
        chunked, every = kernel["chunked"], kernel["every"]
        if chunked is not None:
            blocks, options, warps = back_chunk_parts(widths, chunked["split"])
            options |= {name: forced[name] for name in options if name in forced}
            many = self.length(kernel["time"]) >= CHUNKED_ROWS and fits_chunks(widths, True)
            units = self.state_precision() != "ieee"
            if every % options["CHUNK"] == 0 and forced.get("chunked", many and units):
                return chunked, blocks, options, warps
        tiled = kernel["tiled"] and back_tile_parts(widths, kernel["tiled"], self.outer())
        if tiled and self.backend.forced.get("tiled", self.length(kernel["time"]) >= TILED_ROWS):
            blocks, options, warps = tiled
            return kernel["tiled"], blocks, options, warps
        blocks, _, warps = scan_parts(widths, kernel["states"], kernel["split"], self.outer())
        return kernel, blocks, {}, min(2 * warps, 16)  # half of the registers are for a row

    def share(self, counts: Mapping[str, int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Gives each program a share of these tensors, of which there are so many; gives back
        tensors and shares."""
        found = {}
        tensors = dict(self.tensors)
        for name, count in counts.items():
            whole = self.tensors[name]
            if whole is None or count < 2:
                continue
            shares = self.buffer(count * whole.numel(), self.call.accumulate)
            shares = shares.view(count, *whole.shape)
            found[name], tensors[name] = (whole, shares), shares[0]
            self.shares[name] = whole.numel()
        self.tensors = tensors
        return found

    def state_precision(self) -> str:
        """How products with states are computed: nearly as exactly as float32 has them on matrix
        units where the call came in 16 bits, else as that call asks for."""
        if self.device.interpreted:
            return "ieee"
        if self.call.dtype.itemsize == 2:
            return "tf32x3"
        fast = torch.get_float32_matmul_precision() != "highest"
        return "tf32" if fast and self.call.dtype == torch.float32 else "ieee"

    def try_launch(
        self, programs: int, tile: TritonTile, entry: Mapping[str, Any] | None = None
    ) -> bool:
        """Launches the kernel (or another of its entries); False if it does not fit the device."""
        try:
            self.launch(entry or self.kernel, programs, tile)
        except Exception as error:
            if type(error).__name__ != "OutOfResources":
                raise
            return False
        return True

    # --- Stream -----------------------------------------------------------------------------------

    def stream(self) -> None:
        kernel = self.kernel
        tiles = self.candidates()
        tuned = self.backend.tuned(kernel["function"], self.call)
        packed, pack, rows = self.packing()
        for tile in (*((tuned,) if tuned else ()), *tiles):
            mark = (kernel["function"], self.call.dtype, self.widths(), tile.key())
            if mark in self.backend.failed:
                continue
            if self.try_tile(tile, packed, pack, rows):
                return
            self.backend.failed.add(mark)
        widths = dict(self.widths())
        raise UnsupportedError(f"widths {widths} on this device", "triton", ("eager",))

    def candidates(self) -> tuple[TritonTile, ...]:
        """The tiles that the model allows, the likely best first."""
        _, pack, rows = self.packing()
        widths, bytes_ = dict(self.widths()), self.call.dtype.itemsize
        return stream_tiles(self.kernel, widths, rows * pack, bytes_, self.device)

    def widths(self) -> tuple[tuple[str, int], ...]:
        return tuple((axis, self.length(axis)) for axis in self.table["widths"])

    def packing(self) -> tuple[bool, int, int]:
        """Whether the heads of a group are rows of one tile (where few rows are held), how many
        heads that makes, and the rows of a head."""
        group, rows = self.group(), self.length(self.kernel["held"])
        packed = group > 1 and rows * group <= 128
        packed = bool(self.backend.forced.get("PACKED", packed)) and group > 0
        return packed, group if packed else 1, rows

    def group(self) -> int:
        """How many heads share their keys; 0 where heads are not packed."""
        if self.kernel["group"] is None:
            return 0
        fine, coarse = (self.length(axis) for axis in self.kernel["group"])
        return fine // coarse if coarse else 0

    def try_tile(self, tile: TritonTile, packed: bool, pack: int, rows: int) -> bool:
        """Launches with a tile; False if it does not fit the device after all."""
        forced = self.backend.forced
        constants = {**tile.constants, **forced}
        held, walked = constants["BLOCK_HELD"], constants["BLOCK_WALKED"]
        tile = TritonTile({}, forced.get("warps", tile.warps), forced.get("stages", tile.stages))
        held_tiles = -(-rows * pack // held)
        self.choose_blocks(constants)
        blocks = self.count_blocks()
        cells = self.outer() // pack * held_tiles
        splits = self.count_splits(cells * blocks, held, walked)
        split = splits > 1 and self.kernel["split"] is None
        self.set_types(
            {
                **constants, "BLOCKS": blocks, "PACKED": packed, "SPLIT": split, "splits": splits,
                "LAGS": 2 * max(held, walked),
                "USE_DESCRIPTORS": self.descriptors(), "CANDIDATES": CANDIDATES,
            }
        )  # fmt: skip
        for name in self.kernel["added"]:
            if self.tensors[name] is not None:
                self.tensors[name].zero_()
        for name, value in self.kernel["filled"]:
            if self.tensors[name] is not None:
                self.tensors[name].fill_(float(value))
        if not cells:
            return True
        list_tiles(self, held_tiles, walked)
        if split:
            self.reserve_shares(cells * splits * blocks * held)
        programs = cells * splits if not self.kernel["ordered"] else self.outer() * splits
        if not self.try_launch(programs * blocks, tile):
            return False
        if split:
            across = sum(self.blocks.get(axis, 1) for _, axis in self.kernel["carried"])
            merging = merge_warps(held, across)
            self.launch(self.kernel["merge"], cells * blocks, TritonTile({}, merging))
        return True

    def outer(self) -> int:
        """Places in the grid, of one share."""
        outer = 1
        for axis in self.kernel["grid"]:
            outer *= self.length(axis)
        return outer

    def count_splits(self, programs: int, held: int, walked: int) -> int:
        """How many programs share the walked tiles of one held tile (or the held tiles, where a
        kernel runs them in order)."""
        if self.kernel["split"] is not None:
            return self.length(self.kernel["split"])
        if self.kernel["ordered"] or self.kernel["merge"] is None:
            return 1
        forced = self.backend.forced.get("splits")
        longest = sum(-(-self.length(axis) // walked) for axis in self.kernel["walked"])
        small = held * sum(self.blocks.values()) <= 16384  # what a merge holds in registers
        return forced or (splits_of(programs, longest, self.device) if small else 1)

    def choose_blocks(self, constants: Mapping[str, Any]) -> None:
        """The part of each carried width that a program holds."""
        whole = self.kernel["finish_widths"]
        for _, axis in self.kernel["carried"]:
            if axis is not None:
                size = block_of_width(self.length(axis), self.call.dtype.itemsize, whole)
                self.blocks[axis] = constants.get(f"BLOCK_{axis.upper()}", size)

    def count_blocks(self) -> int:
        """Programs that share a carried width (every one of them computes the weights)."""
        counts = [-(-self.length(axis) // size) for axis, size in self.blocks.items()]
        return max([1, *counts])

    def set_types(self, options: Mapping[str, Any]) -> None:
        """The planner's constexprs, and the types of the call."""
        tl = self.backend.namespace["tl"]
        types = {
            torch.float16: tl.float16, torch.bfloat16: tl.bfloat16,
            torch.float32: tl.float32, torch.float64: tl.float64,
        }  # fmt: skip
        fast = (
            torch.get_float32_matmul_precision() != "highest" and self.call.dtype == torch.float32
        )
        self.options = {
            **options,
            "ACC": types[self.call.accumulate],
            "QUERY": types[self.call.dtype],
            "INDEX": tl.int32 if self.narrow() else tl.int64,
            "PRECISION": "tf32" if fast and not self.device.interpreted else "ieee",
        }

    def narrow(self) -> bool:
        """Whether positions fit 32 bits: the formulas allow it and every leaf is small."""
        if not self.table["narrow"]:
            return False
        shifts = (self.call.offset, self.call.key_offset)
        if any(isinstance(shift, torch.Tensor) for shift in shifts):
            return False
        numbers = (value for value in self.call.known.values() if isinstance(value, int))
        return all(-NARROW_LIMIT <= value <= NARROW_LIMIT for value in (*numbers, *shifts))

    def descriptors(self) -> bool:
        """Whether walked operands are loaded through tensor descriptors: sm_90 and up, contiguous
        rows whose strides are multiples of 16 bytes."""
        operands = self.kernel["operands"]
        possible = bool(operands) and all(self.describable(*operand) for operand in operands)
        wanted = self.device.capability >= 90 and self.call.dtype.itemsize == 2
        return possible and bool(self.backend.forced.get("USE_DESCRIPTORS", wanted))

    def reserve_shares(self, slots: int) -> None:
        """Room for what split programs leave: `slots` rows."""
        if self.kernel["rescales"]:
            self.work["peak"] = self.buffer(slots, self.call.accumulate)
        for name, axis in self.kernel["carried"]:
            across = self.blocks[axis] if axis is not None else 1
            self.work[f"carried.{name}"] = self.buffer(slots * across, self.call.accumulate)

    def buffer(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=self.call.device)
